/// Server-sent events (WHATWG HTML, section 9.2) as Marathon writes them: `event:` and `data:` lines, CRLF, an empty
/// line.
public enum ServerSentEvent {
    public static func encode(event: String, data: String, id: String? = nil) -> [UInt8] {
        var text = ""
        if let id { text += "id: \(id)\r\n" }
        text += "event: \(event)\r\n"
        for line in data.split(separator: "\n", omittingEmptySubsequences: false) { text += "data: \(line)\r\n" }
        return Array((text + "\r\n").utf8)
    }

    /// A bare line break: keeps connections alive and lets the sender notice a dead reader.
    public static let heartbeat: [UInt8] = Array("\r\n".utf8)
}
