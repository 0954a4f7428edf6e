import Base
import Linearizability
import Testing

/// One operation on the register; blank is 0.
private struct Operation: CustomStringConvertible {
    var isWrite: Bool
    var value: UInt64
    var start: UInt64
    var end: UInt64
    var isCertain = true

    var description: String { "\(isWrite ? isCertain ? "w" : "w?" : "r")\(value)[\(start),\(end)]" }
}

private func write(_ value: UInt64, _ start: UInt64, _ end: UInt64, certain: Bool = true) -> Operation {
    Operation(isWrite: true, value: value, start: start, end: end, isCertain: certain)
}

private func read(_ value: UInt64, _ start: UInt64, _ end: UInt64) -> Operation {
    Operation(isWrite: false, value: value, start: start, end: end)
}

private func judge(_ operations: [Operation]) -> RegisterHistory.Violation? {
    var history = RegisterHistory()
    for operation in operations {
        if operation.isWrite {
            history.write(operation.value, from: operation.start, to: operation.end, isCertain: operation.isCertain)
        } else {
            history.read(operation.value, from: operation.start, to: operation.end)
        }
    }
    return history.violation()
}

/// Tries every order.
private struct Oracle {
    struct Visited: Hashable {
        var done: UInt32
        var value: UInt64
    }

    let operations: [Operation]
    var dead: Set<Visited> = []

    mutating func accepts(_ done: UInt32 = 0, _ value: UInt64 = 0) -> Bool {
        let isOver = operations.indices.allSatisfy { done & 1 << $0 != 0 || !operations[$0].isCertain }
        if isOver { return true }
        let state = Visited(done: done, value: value)
        if dead.contains(state) { return false }
        for next in operations.indices where done & 1 << next == 0 {
            let operation = operations[next]
            if !operation.isWrite, operation.value != value { continue }
            let isNext = operations.indices.allSatisfy { other in
                if other == next { return true }
                if done & 1 << other != 0 { return operation.end >= operations[other].start }
                return !operations[other].isCertain || operations[other].end >= operation.start
            }
            if isNext, accepts(done | 1 << next, operation.isWrite ? operation.value : value) { return true }
        }
        dead.insert(state)
        return false
    }
}

/// A history that a register really made: operations take effect one after the other, at moments inside their times.
private func trueHistory(_ random: inout SeededRandom, blanks: Bool) -> [Operation] {
    var operations: [Operation] = []
    var value: UInt64 = 0
    var next: UInt64 = 1
    for moment in 1...UInt64.random(in: 3...9, using: &random) {
        let start = moment * 10 - UInt64.random(in: 0...min(25, moment * 10), using: &random)
        let end = moment * 10 + UInt64.random(in: 0...25, using: &random)
        switch Int.random(in: 0..<8, using: &random) {
        case 0..<4: operations.append(read(value, start, end))
        case 4 where blanks:
            value = 0
            operations.append(write(0, start, end, certain: Bool.random(using: &random)))
        case 5:
            // One that never took effect.
            operations.append(write(next, start, end + 40, certain: false))
            next += 1
        default:
            value = next
            operations.append(write(next, start, end, certain: Int.random(in: 0..<4, using: &random) > 0))
            next += 1
        }
    }
    return operations
}

/// Something else than what was: a read of another value, or at another time.
private func mutate(_ operations: [Operation], _ random: inout SeededRandom, blanks: Bool) -> [Operation] {
    var changed = operations
    let index = Int.random(in: changed.indices, using: &random)
    if !changed[index].isWrite, Bool.random(using: &random) {
        let others = operations.filter(\.isWrite).map(\.value) + (blanks ? [0] : [])
        changed[index].value = others.randomElement(using: &random) ?? changed[index].value
    } else {
        let length = changed[index].end - changed[index].start
        changed[index].start = UInt64.random(in: 0...100, using: &random)
        changed[index].end = changed[index].start + length / UInt64.random(in: 1...4, using: &random)
    }
    return changed
}

@Suite struct RegisterHistoryTests {
    private static let good: [[Operation]] = [
        [], [read(0, 1, 2)], [write(1, 1, 2), read(1, 3, 4)],
        // Both orders of two that overlap.
        [write(1, 1, 4), read(0, 2, 3)], [write(1, 1, 4), read(1, 2, 3)],
        [write(1, 1, 10), write(2, 1, 10), read(1, 11, 12)], [write(1, 1, 10), write(2, 1, 10), read(2, 11, 12)],
        [write(1, 1, 10), write(2, 2, 9), read(2, 3, 4), read(1, 5, 6)],
        // What was never answered may have happened, late or never.
        [write(1, 1, .max, certain: false), read(0, 5, 6), read(1, 7, 8)],
        [write(1, 1, .max, certain: false), write(2, 3, 4), read(2, 5, 6), read(1, 7, 8)],
        [write(1, 1, 2), write(0, 3, 4), read(0, 5, 6), write(2, 7, 8), read(2, 9, 10)],
        [write(1, 1, 2), write(0, 1, .max, certain: false), read(1, 3, 4), read(0, 5, 6)],
        // At the same moment counts as at once.
        [write(1, 1, 5), read(0, 5, 6)],
    ]

    private static let bad: [([Operation], RegisterHistory.Violation)] = [
        ([read(9, 1, 2)], .neverWritten(value: 9)),
        ([write(1, 5, 6), read(1, 1, 2)], .readBeforeWritten(value: 1)),
        // A stale read.
        ([write(1, 1, 2), write(2, 3, 4), read(1, 5, 6)], .insideOf(2, current: 1)),
        // Seen, then not, then seen.
        ([write(1, 1, 20), write(2, 1, 20), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7)], .insideOf(2, current: 1)),
        (
            [
                write(1, 1, 20), write(2, 1, 20), read(1, 2, 3), read(2, 4, 5), read(1, 6, 7), read(2, 8, 9),
            ], .bothCurrent(1, 2)
        ),
        // A lost write.
        ([write(1, 1, 2), read(0, 3, 4)], .unexplainedBlank(readAt: 3, after: 1)),
        // Undone after it was seen.
        ([write(1, 1, .max, certain: false), read(1, 2, 3), read(0, 4, 5)], .unexplainedBlank(readAt: 4, after: 1)),
        // A write that had no effect after its right was gone.
        ([write(1, 1, 3, certain: false), write(2, 4, 5), read(1, 6, 7)], .insideOf(2, current: 1)),
        ([write(1, 1, 2), write(0, 3, 4), read(1, 5, 6)], .insideOf(0, current: 1)),
        ([write(1, 1, 2), read(0, 3, 4), read(1, 5, 6), write(0, 0, 9)], .insideOf(0, current: 1)),
        // The blank was overwritten for sure: the value was seen after it had ended.
        ([write(0, 0, 1), write(1, 0, 2), read(1, 3, 4), read(0, 5, 6)], .unexplainedBlank(readAt: 5, after: 1)),
        // One blank cannot have been written twice.
        (
            [
                write(0, 0, 100), write(1, 1, 2), read(0, 3, 4), write(2, 5, 6), read(2, 7, 8), read(0, 9, 10),
            ], .unexplainedBlank(readAt: 9, after: 2)
        ),
    ]

    @Test(arguments: good.indices) func acceptsWhatIsInOrder(_ index: Int) {
        #expect(judge(Self.good[index]) == nil, "\(Self.good[index])")
    }

    @Test(arguments: bad.indices) func refusesWhatIsNot(_ index: Int) {
        #expect(judge(Self.bad[index].0) == Self.bad[index].1, "\(Self.bad[index].0)")
    }

    @Test(arguments: [false, true]) func neverRefusesWhatARegisterDid(blanks: Bool) {
        var random = SeededRandom(seed: 1)
        for _ in 0..<5000 {
            let history = trueHistory(&random, blanks: blanks)
            if let violation = judge(history) { Issue.record("\(violation): \(history)") }
        }
    }

    /// Without blanks it is right about everything.
    @Test func agreesWithTheSearchOfAllOrders() {
        var random = SeededRandom(seed: 2)
        var refused = 0
        for _ in 0..<8000 {
            // Blanks are only read where nothing was written yet.
            let history = mutate(trueHistory(&random, blanks: false), &random, blanks: false)
            var oracle = Oracle(operations: history)
            let isGood = oracle.accepts()
            if !isGood { refused += 1 }
            #expect((judge(history) == nil) == isGood, "\(judge(history) as Any) \(history)")
        }
        #expect(refused > 1000, "mutations that break nothing test nothing")
    }

    /// With blanks every refusal is right, and hardly anything escapes.
    @Test func withBlanksItRefusesOnlyWhatIsWrong() {
        var random = SeededRandom(seed: 3)
        var refused = 0
        var missed = 0
        for _ in 0..<8000 {
            let history = mutate(trueHistory(&random, blanks: true), &random, blanks: true)
            var oracle = Oracle(operations: history)
            let isGood = oracle.accepts()
            let violation = judge(history)
            if violation != nil, isGood { Issue.record("\(violation as Any) \(history)") }
            if !isGood { refused += 1 }
            if violation == nil, !isGood { missed += 1 }
        }
        #expect(refused > 1000)
        #expect(missed * 100 <= refused, "\(missed) of \(refused) escaped")
    }

    /// Hundreds of thousands of operations are judged at once, not in quadratic time.
    @Test(.timeLimit(.minutes(1))) func largeHistories() {
        var history = RegisterHistory()
        for number in 1...UInt64(200_000) {
            history.write(number, from: number * 10, to: number * 10 + 15, isCertain: true)
            history.read(number, from: number * 10 + 9, to: number * 10 + 12)
            if number % 10 == 0 { history.write(0, from: number * 10 + 3, to: number * 10 + 4, isCertain: false) }
        }
        #expect(history.violation() == nil)
        history.read(3, from: 1_000_000, to: 1_000_001)
        #expect(history.violation() != nil)
    }
}
