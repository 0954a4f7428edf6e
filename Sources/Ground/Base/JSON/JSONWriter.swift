import OrderedCollections

extension JSONValue {
    /// The document as compact text: members in their order, no spaces.
    public var text: String { String(decoding: bytes, as: UTF8.self) }

    /// The document as compact UTF-8.
    public var bytes: [UInt8] {
        var writer = JSONWriter(indentation: nil)
        writer.write(self, level: 0)
        return writer.output
    }

    /// The document indented by two spaces, for people.
    public var prettyText: String {
        var writer = JSONWriter(indentation: 2)
        writer.write(self, level: 0)
        return String(decoding: writer.output, as: UTF8.self)
    }
}

private struct JSONWriter {
    let indentation: Int?
    var output: [UInt8] = []

    init(indentation: Int?) { self.indentation = indentation }

    mutating func write(_ value: JSONValue, level: Int) {
        switch value {
        case .null: output += "null".utf8
        case .bool(let value): output += (value ? "true" : "false").utf8
        case .integer(let value): output += String(value).utf8
        case .number(let value): write(number: value)
        case .string(let value): write(string: value)
        case .array(let elements):
            write(open: "[", close: "]", count: elements.count, level: level) { writer, index in
                writer.write(elements[index], level: level + 1)
            }
        case .object(let members):
            write(open: "{", close: "}", count: members.count, level: level) { writer, index in
                let member = members.elements[index]
                writer.write(string: member.key)
                writer.output += (writer.indentation == nil ? ":" : ": ").utf8
                writer.write(member.value, level: level + 1)
            }
        }
    }

    /// Numbers that JSON cannot express (infinities, NaN) become null.
    private mutating func write(number: Double) {
        guard number.isFinite else {
            output += "null".utf8
            return
        }
        output += number.description.utf8
    }

    private mutating func write(
        open: String, close: String, count: Int, level: Int, _ element: (inout JSONWriter, Int) -> Void
    ) {
        output += open.utf8
        for index in 0..<count {
            if index > 0 { output.append(UInt8(ascii: ",")) }
            breakLine(level: level + 1)
            element(&self, index)
        }
        if count > 0 { breakLine(level: level) }
        output += close.utf8
    }

    private mutating func breakLine(level: Int) {
        guard let indentation else { return }
        output.append(UInt8(ascii: "\n"))
        output += String(repeating: " ", count: level * indentation).utf8
    }

    private mutating func write(string: String) {
        output.append(UInt8(ascii: "\""))
        for byte in string.utf8 {
            switch byte {
            case UInt8(ascii: "\""): output += "\\\"".utf8
            case UInt8(ascii: "\\"): output += "\\\\".utf8
            case 0x0A: output += "\\n".utf8
            case 0x0D: output += "\\r".utf8
            case 0x09: output += "\\t".utf8
            case 0..<0x20:
                let digits = String(byte, radix: 16)
                output += ("\\u" + String(repeating: "0", count: 4 - digits.count) + digits).utf8
            default: output.append(byte)
            }
        }
        output.append(UInt8(ascii: "\""))
    }
}
