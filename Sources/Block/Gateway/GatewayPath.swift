/// What a request's path names. The original's paths carry `Type::id` pairs, so they are parsed here and not by the
/// router.
enum GatewayPath: Equatable {
    case login
    case logout
    case version
    /// Every object of every type.
    case everything
    case list(type: String)
    case object(type: String, id: String)
    case relationship(type: String, id: String, name: String)
    /// An action on one object; `id` is nil in the short forms of the System object.
    case action(type: String, id: String?, name: String)
    case typeAction(type: String, name: String)
    /// The lookups of old clients, `getByName::NAME` and the like.
    case lookup(type: String, method: String, key: String)

    /// - Parameter path: without query, starting with "/api/"; percent-encoded as it arrived.
    init?(_ path: String) {
        var segments: [String] = []
        for raw in path.split(separator: "/") {
            guard let segment = percentDecoded(String(raw)) else { return nil }
            segments.append(segment)
        }
        guard segments.first == "api" else { return nil }
        segments.removeFirst()
        switch segments.first {
        case "login": self = .login
        case "logout": self = .logout
        case "version": self = .version
        case "types":
            self.init(types: segments)
            return
        case "instances":
            self.init(instances: segments)
            return
        default: return nil
        }
        if segments.count > 1 { return nil }
    }

    /// `types/T/instances[/action/A | /getByName::KEY]`
    private init?(types segments: [String]) {
        guard segments.count >= 3, segments[2] == "instances" else { return nil }
        let type = segments[1]
        switch segments.count {
        case 3: self = .list(type: type)
        case 5 where segments[3] == "action": self = .typeAction(type: type, name: segments[4])
        default:
            // A key may itself contain "/" after decoding (names in base64), or end in one.
            guard let (method, key) = Self.pair(segments[3...].joined(separator: "/")),
                let decoded = percentDecoded(key)
            else { return nil }
            self = .lookup(type: type, method: method, key: decoded)
        }
    }

    /// `instances[/T::ID[/relationships/R | /action/A]]`, and for the System also without an id.
    private init?(instances segments: [String]) {
        guard segments.count > 1 else {
            self = .everything
            return
        }
        let pair = Self.pair(segments[1])
        let type = pair?.0 ?? segments[1]
        let id = pair?.1
        switch (segments.count, id) {
        case (2, let id?): self = .object(type: type, id: id)
        case (3, _) where segments[2] == "queryMdmCluster": self = .action(type: type, id: id, name: segments[2])
        case (4, let id?) where segments[2] == "relationships":
            self = .relationship(type: type, id: id, name: segments[3])
        case (4, _) where segments[2] == "action": self = .action(type: type, id: id, name: segments[3])
        default: return nil
        }
    }

    private static func pair(_ text: String) -> (String, String)? {
        let bytes = Array(text.utf8)
        let colon = UInt8(ascii: ":")
        guard let index = bytes.indices.dropLast().first(where: { bytes[$0] == colon && bytes[$0 + 1] == colon }),
            index > 0, index + 2 < bytes.count
        else { return nil }
        return (
            String(decoding: bytes[..<index], as: UTF8.self), String(decoding: bytes[(index + 2)...], as: UTF8.self)
        )
    }
}

/// `text` with `%XX` replaced by its bytes; nil when a percent sign starts no such triple or the bytes are no UTF-8.
func percentDecoded(_ text: String) -> String? {
    guard text.utf8.contains(UInt8(ascii: "%")) else { return text }
    let bytes = Array(text.utf8)
    var result: [UInt8] = []
    var index = 0
    while index < bytes.count {
        guard bytes[index] == UInt8(ascii: "%") else {
            result.append(bytes[index])
            index += 1
            continue
        }
        guard index + 2 < bytes.count, let high = hexDigit(bytes[index + 1]), let low = hexDigit(bytes[index + 2])
        else {
            return nil
        }
        result.append(high << 4 | low)
        index += 3
    }
    return String(validating: result, as: UTF8.self)
}

private func hexDigit(_ byte: UInt8) -> UInt8? {
    switch byte {
    case UInt8(ascii: "0")...UInt8(ascii: "9"): byte - UInt8(ascii: "0")
    case UInt8(ascii: "a")...UInt8(ascii: "f"): byte - UInt8(ascii: "a") + 10
    case UInt8(ascii: "A")...UInt8(ascii: "F"): byte - UInt8(ascii: "A") + 10
    default: nil
    }
}
