import Base
import Testing

@Suite struct JSONTests {
    @Test(arguments: [
        "null", "true", "-12", "0.5", "\"a\\\"b\\\\\\n\"", "[]", "{}", "[1,[2,{\"a\":null}]]", "{\"b\":1,\"a\":2}",
        "9223372036854775807", "\"ä€😀\"",
    ])
    func writesWhatItRead(_ text: String) throws {
        #expect(try JSONValue(parsing: text).text == text)
    }

    @Test func understandsEscapesAndSpace() throws {
        let value = try JSONValue(parsing: " { \"\\u0041\\ud83d\\ude00\\/\" : [ 1e2 , -0.5E-1 ] }\n")
        #expect(value["A😀/"]?[0]?.double == 100)
        #expect(value["A😀/"]?[1]?.double == -0.05)
        #expect(try JSONValue(parsing: "{\"a\":1,\"a\":2}")["a"] == 2)
        #expect(try JSONValue(parsing: "3.0").integer == 3)
        // Half a surrogate pair is legal JSON but no character.
        #expect(try JSONValue(parsing: "\"\\ud800\"") == "\u{FFFD}")
    }

    @Test(arguments: [
        "", " ", "{", "[1,]", "{\"a\"}", "{\"a\":}", "{a:1}", "tru", "nulll", "01", "1.", "-", "\"", "\"\\x\"",
        "\"\u{1}\"",
        "[1] 2", "\"\\u12\"", "{\"a\":1,}", "'a'",
    ])
    func refusesWhatIsNoJSON(_ text: String) {
        #expect(throws: JSONError.self) { try JSONValue(parsing: text) }
    }

    @Test func refusesDepthAndRandomBytesWithoutCrashing() {
        let deep = String(repeating: "[", count: 100_000)
        #expect(throws: JSONError.self) { try JSONValue(parsing: deep) }
        var random = SeededRandom(seed: 7)
        let alphabet = Array("{}[]\",:0123456789.eE+-truefalsn\\u \u{FF}".utf8)
        for _ in 0..<20_000 {
            let bytes = (0..<Int.random(in: 0..<24, using: &random)).map { _ in alphabet.randomElement(using: &random)!
            }
            if let value = try? JSONValue(parsing: bytes) {
                // What was accepted can be written and read again.
                #expect((try? JSONValue(parsing: value.bytes)) == value)
            }
        }
    }

    @Test func objectsKeepTheirOrderAndTheLastOfEqualNames() {
        let value = JSONValue.object(members: [("b", 1), ("a", 2), ("b", 3)])
        #expect(value.text == "{\"b\":3,\"a\":2}")
    }
}
