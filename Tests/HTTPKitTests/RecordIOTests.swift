import Base
import HTTPKit
import NIOCore
import Testing

@Suite struct RecordIOTests {
    @Test func cutsTheStreamWhereverItsPiecesEnd() throws {
        let records = ["hello", "", "a\nb", String(repeating: "x", count: 5000)].map { Array($0.utf8) }
        let stream = records.flatMap { RecordIO.encode($0) }
        for size in [1, 2, 7, 100, stream.count] {
            var decoder = RecordIO.Decoder()
            var found: [[UInt8]] = []
            for start in stride(from: 0, to: stream.count, by: size) {
                found += try decoder.append(stream[start..<min(start + size, stream.count)])
            }
            #expect(found == records)
            #expect(decoder.isAtBoundary)
        }
    }

    @Test(arguments: ["x", "\n", "-1\n", "12a\n", "99999999999999999999\n"])
    func refusesBrokenLengthsForGood(_ text: String) {
        var decoder = RecordIO.Decoder()
        #expect(throws: RecordIO.Failure.self) { try decoder.append(Array(text.utf8)) }
        #expect(throws: RecordIO.Failure.self) { try decoder.append(Array("1\na".utf8)) }
    }

    @Test func refusesRecordsBeyondTheLimitAndNoticesTruncation() throws {
        var decoder = RecordIO.Decoder(recordLengthMax: 10)
        #expect(throws: RecordIO.Failure.recordTooLong(11)) { try decoder.append(Array("11\n".utf8)) }
        var truncated = RecordIO.Decoder()
        #expect(try truncated.append(Array("5\nabc".utf8)).isEmpty)
        #expect(!truncated.isAtBoundary)
    }
    /// What a stream is worth does not depend on the pieces in which it comes, and a broken record costs only itself
    /// and what follows.
    @Test func damageIsFoundWhereverThePiecesEnd() {
        let good = ["one", "", "three\n"].flatMap { RecordIO.encode(Array($0.utf8)) }
        let broken: [(tail: String, failure: RecordIO.Failure?)] = [
            ("", nil), ("7", nil), ("7\nabc", nil), ("x", .malformedLength), ("\n", .malformedLength),
            ("3 \nabc", .malformedLength), ("1234567890123456789", .malformedLength),
            ("101\n", .recordTooLong(101)), ("999999999999999999\nabc", .recordTooLong(999_999_999_999_999_999)),
        ]
        for (tail, failure) in broken {
            let stream = good + Array(tail.utf8)
            for size in 1...stream.count {
                var decoder = RecordIO.Decoder(recordLengthMax: 100)
                var records: [[UInt8]] = []
                var found: RecordIO.Failure?
                // The empty piece at the end is what comes after the damage.
                for start in Array(stride(from: 0, to: stream.count, by: size)) + [stream.count] where found == nil {
                    do throws(RecordIO.Failure) {
                        records += try decoder.append(stream[start..<min(start + size, stream.count)])
                    } catch {
                        found = error
                    }
                }
                #expect(records.map { String(decoding: $0, as: UTF8.self) } == ["one", "", "three\n"])
                #expect(found == failure, "\(tail.debugDescription) in pieces of \(size)")
                #expect(decoder.isAtBoundary == tail.isEmpty)
            }
        }
    }

    @Test func randomBytesAreRecordsOrAnError() {
        var random = SeededRandom(seed: 23)
        for _ in 0..<2000 {
            // Digits and line ends abound, so that lengths come about.
            let bytes = (0..<Int.random(in: 1...60, using: &random)).map { _ in
                Bool.random(using: &random)
                    ? Array("0123456789\n".utf8)[Int.random(in: 0...10, using: &random)]
                    : UInt8.random(in: 0...255, using: &random)
            }
            var decoder = RecordIO.Decoder(recordLengthMax: 50)
            var total = 0
            var rest = bytes[...]
            while !rest.isEmpty {
                let piece = rest.prefix(Int.random(in: 1...20, using: &random))
                rest = rest.dropFirst(piece.count)
                guard let records = try? decoder.append(piece) else { break }
                total += records.map(\.count).reduce(0, +)
            }
            #expect(total <= bytes.count)
        }
    }
}

@Suite struct BoundedFeedTests {
    @Test func aReaderThatFallsBehindIsDisconnected() async throws {
        let feed = BoundedFeed(limit: 3)
        for byte in 0..<3 { #expect(feed.offer([UInt8(byte)])) }
        #expect(!feed.offer([9]))
        #expect(!feed.offer([9]))
        var received: [UInt8] = []
        await #expect(throws: BoundedFeed.SlowReader.self) {
            for try await chunk in feed.chunks { received += chunk.readableBytesView }
        }
        #expect(received == [0, 1, 2])
    }
}

@Suite struct HTTPAddressTests {
    @Test func readsEveryForm() {
        #expect(HTTPAddress("10.0.0.1:5050") == .tcp(host: "10.0.0.1", port: 5050))
        #expect(HTTPAddress("http://h:1") == .tcp(host: "h", port: 1))
        #expect(HTTPAddress(":80") == .tcp(host: "0.0.0.0", port: 80))
        #expect(HTTPAddress("unix:///run/x.sock") == .unix(path: "/run/x.sock"))
        #expect(HTTPAddress("/run/x.sock") == .unix(path: "/run/x.sock"))
        #expect(HTTPAddress("host") == nil)
        #expect(HTTPAddress("host:99999") == nil)
    }
}
