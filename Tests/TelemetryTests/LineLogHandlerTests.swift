import Base
import Logging
import Synchronization
import Telemetry
import Testing

@Suite struct LineLogHandlerTests {
    private final class Lines: Sendable {
        let text = Mutex("")
        func logger(_ format: LineLogHandler.Format, level: Logger.Level = .info) -> Logger {
            Logger(label: "master") { label in
                LineLogHandler(label: label, level: level, format: format) { line in
                    self.text.withLock { $0 += String(decoding: line, as: UTF8.self) }
                }
            }
        }
    }

    @Test func jsonLinesAreParsableWhateverTheyCarry() throws {
        let lines = Lines()
        var logger = lines.logger(.json)
        logger[metadataKey: "agent.id"] = "S1"
        logger.notice("Agent \"lost\"\n", metadata: ["n": "1", "list": ["a", "b"]])
        logger.debug("not shown")
        let text = lines.text.withLock { $0 }
        #expect(text.filter { $0 == "\n" }.count == 1)
        let line = try JSONValue(parsing: text)
        #expect(line["message"] == "Agent \"lost\"\n")
        #expect(line["level"] == "notice")
        #expect(line["agent.id"] == "S1")
        #expect(line["list"] == ["a", "b"])
    }

    @Test func plainLinesListMetadataInOrder() {
        let lines = Lines()
        lines.logger(.plain).warning("Slow", metadata: ["b": "2", "a": "1"])
        #expect(lines.text.withLock { $0 }.hasSuffix(" WARNING  master: Slow a=1 b=2\n"))
    }
}

@Suite struct WallTimeTests {
    @Test(
        arguments: [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_449_933_120, "2026-11-23T16:05:33.120Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ] as [(Int64, String)])
    func isWrittenAsTheCalendarHasIt(_ milliseconds: Int64, _ text: String) {
        #expect(WallTime(milliseconds: milliseconds).iso8601 == text)
    }
}
