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
