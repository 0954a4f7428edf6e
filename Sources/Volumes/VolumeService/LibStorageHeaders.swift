import Base

/// Who calls the libStorage API, and what is attached to him, as two of its headers say.
struct LibStorageCaller: Hashable, Sendable {
    /// The platform's id of the calling host.
    var instanceID: String?
    /// What stands for it when the host cannot know its id (for ScaleIO the SDC's GUID).
    var metadata: String?
    /// The caller's devices by volume id; nil when the header is missing.
    var devices: [String: String]?

    /// - Parameters:
    ///   - instances: the values of `Libstorage-Instanceid`: `DRIVER[:SERVICE]=ID[,FIELDS[,BASE64]]`.
    ///   - devices: the values of `Libstorage-Localdevices`: `DRIVER=KEY::DEVICE[,KEY::DEVICE...]`.
    init(instances: [String], devices: [String], driver: String, service: String) {
        var isQualified = false
        for value in instances {
            guard let equals = value.firstIndex(of: "=") else { continue }
            let target = value[..<equals].lowercased().split(separator: ":")
            guard target.first.map(String.init) == driver.lowercased(), !isQualified || target.count == 2 else {
                continue
            }
            if target.count == 2 {
                guard target[1] == service.lowercased() else { continue }
                isQualified = true
            }
            let parts = value[value.index(after: equals)...].split(separator: ",", omittingEmptySubsequences: false)
            instanceID = parts.first.flatMap { $0.isEmpty ? nil : String($0) }
            metadata = nil
            if parts.count > 2, let bytes = decodeBase64(String(parts[2])), let json = try? JSONValue(parsing: bytes) {
                metadata = json.string
            }
        }
        for value in devices {
            guard let equals = value.firstIndex(of: "="), value[..<equals].lowercased() == driver.lowercased() else {
                continue
            }
            var found: [String: String] = self.devices ?? [:]
            for pair in value[value.index(after: equals)...].split(separator: ",") {
                guard let separator = pair.firstRange(of: "::") else { continue }
                found[pair[..<separator.lowerBound].lowercased()] = String(pair[separator.upperBound...])
            }
            self.devices = found
        }
    }
}

/// `text` from base64 (RFC 4648), padded or not; nil when it is none.
func decodeBase64(_ text: String) -> [UInt8]? {
    var bytes: [UInt8] = []
    var bits: UInt32 = 0
    var count = 0
    for character in text.utf8 where character != UInt8(ascii: "=") {
        let digit: UInt8
        switch character {
        case UInt8(ascii: "A")...UInt8(ascii: "Z"): digit = character - UInt8(ascii: "A")
        case UInt8(ascii: "a")...UInt8(ascii: "z"): digit = character - UInt8(ascii: "a") + 26
        case UInt8(ascii: "0")...UInt8(ascii: "9"): digit = character - UInt8(ascii: "0") + 52
        case UInt8(ascii: "+"), UInt8(ascii: "-"): digit = 62
        case UInt8(ascii: "/"), UInt8(ascii: "_"): digit = 63
        default: return nil
        }
        bits = bits << 6 | UInt32(digit)
        count += 6
        if count >= 8 {
            count -= 8
            bytes.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        }
    }
    return bytes
}

/// `text` with its `%xx` replaced (RFC 3986); sequences that are none stay.
func percentDecoded(_ text: String) -> String {
    var bytes: [UInt8] = []
    var rest = Array(text.utf8)[...]
    while let byte = rest.popFirst() {
        let digits = rest.prefix(2)
        if byte == UInt8(ascii: "%"), digits.count == 2,
            let value = UInt8(String(decoding: digits, as: UTF8.self), radix: 16)
        {
            bytes.append(value)
            rest.removeFirst(2)
        } else {
            bytes.append(byte)
        }
    }
    return String(decoding: bytes, as: UTF8.self)
}

/// `bytes` in base64 (RFC 4648) with padding.
func encodeBase64(_ bytes: [UInt8]) -> String {
    let digits = Array("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".utf8)
    var text: [UInt8] = []
    for start in stride(from: 0, to: bytes.count, by: 3) {
        let group = bytes[start..<min(start + 3, bytes.count)]
        var bits = 0
        for (index, byte) in group.enumerated() { bits |= Int(byte) << (16 - 8 * index) }
        for index in 0..<4 {
            text.append(index <= group.count ? digits[bits >> (18 - 6 * index) & 63] : UInt8(ascii: "="))
        }
    }
    return String(decoding: text, as: UTF8.self)
}

/// The bits of the query parameter `attachments`.
struct AttachmentMask: OptionSet, Hashable, Sendable {
    var rawValue: Int

    static let requested = AttachmentMask(rawValue: 1)
    static let mine = AttachmentMask(rawValue: 2)
    static let devices = AttachmentMask(rawValue: 4)
    static let attached = AttachmentMask(rawValue: 8)
    static let unattached = AttachmentMask(rawValue: 16)

    /// `true` means 15, `false` and absence 0.
    init(query: String?) {
        switch query?.lowercased() {
        case nil, "false"?: rawValue = 0
        case ""?, "true"?: rawValue = 15
        case let text?: rawValue = Int(text) ?? 0
        }
    }

    init(rawValue: Int) { self.rawValue = rawValue }
}
