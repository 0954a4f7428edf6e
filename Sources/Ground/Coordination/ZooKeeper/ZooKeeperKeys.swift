/// How keys, which may hold anything but NUL, become names of nodes, which may not hold a slash. All keys lie flat under
/// one node, so that a prefix needs one listing.
enum ZooKeeperKeys {
    /// Letters, digits and what is harmless in names stay; everything else becomes %XX of its UTF-8 bytes. Keeps the order of
    /// plain keys, but not of all: who lists sorts again.
    static func name(of key: String) -> String {
        var name = ""
        for byte in key.utf8 {
            switch byte {
            case UInt8(ascii: "a")...UInt8(ascii: "z"), UInt8(ascii: "A")...UInt8(ascii: "Z"),
                UInt8(ascii: "0")...UInt8(ascii: "9"), UInt8(ascii: "-"), UInt8(ascii: "_"), UInt8(ascii: "."),
                UInt8(ascii: ":"):
                name.unicodeScalars.append(Unicode.Scalar(byte))
            default:
                name += "%"
                name += String(byte >> 4, radix: 16, uppercase: true)
                name += String(byte & 15, radix: 16, uppercase: true)
            }
        }
        // "." and ".." are no names.
        return name.allSatisfy { $0 == "." } ? name.replacing(".", with: "%2E") : name
    }

    /// Nil for a name that `name(of:)` never makes.
    static func key(of name: String) -> String? {
        var bytes: [UInt8] = []
        var rest = Array(name.utf8)[...]
        while let byte = rest.popFirst() {
            guard byte == UInt8(ascii: "%") else {
                bytes.append(byte)
                continue
            }
            guard rest.count >= 2, let value = UInt8(String(decoding: rest.prefix(2), as: UTF8.self), radix: 16) else {
                return nil
            }
            bytes.append(value)
            rest = rest.dropFirst(2)
        }
        guard let key = String(validating: bytes, as: UTF8.self), self.name(of: key) == name else { return nil }
        return key
    }
}
