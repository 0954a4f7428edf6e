import Base
import Testing
import VolumeDriver

@testable import VolumeService

@Suite struct TaskBoardTests {
    /// Many come while one is under way: its entry moves in memory, and its result still gets there.
    @Test(.timeLimit(.minutes(1))) func aResultFindsItsEntryAmongOthersThatCame() async throws {
        let board = TaskBoard()
        let running = Task { try await board.run() }
        defer { running.cancel() }
        let (gate, opened) = AsyncStream<Void>.makeStream()
        let first = try await board.submit("first", deadline: .zero) {
            for await _ in gate { break }
            return .string("done")
        }
        for number in 0..<200 as Range<Int64> {
            let other = try await board.submit("other", deadline: .seconds(30)) { .integer(number) }
            #expect(other.state == .success && other.result == .integer(number))
        }
        opened.yield()
        var entry = await board.entry(first.id)
        while entry?.isFinished == false {
            await Task.yield()
            entry = await board.entry(first.id)
        }
        #expect(entry?.state == .success && entry?.result == .string("done"))
    }

    @Test func aFailureIsKept() async throws {
        let board = TaskBoard()
        let running = Task { try await board.run() }
        defer { running.cancel() }
        let entry = try await board.submit("fails", deadline: .seconds(30)) {
            throw VolumeDriverError(.busy, "not now")
        }
        #expect(entry.state == .error && entry.failure?.code == .busy)
    }
}
