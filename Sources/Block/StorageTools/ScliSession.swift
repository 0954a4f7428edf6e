import Base
import FoundationEssentials

#if canImport(Glibc)
    import Glibc
#elseif canImport(Musl)
    import Musl
#endif

/// Where `scli` keeps the login between its runs: one token per MDM address, readable by its owner only.
struct ScliSession {
    let path: String

    func token(for address: String) -> String? {
        guard let data = try? Data(contentsOf: URL(filePath: path)),
            let document = try? JSONValue(parsing: [UInt8](data))
        else { return nil }
        return document[address]?.string
    }

    /// Stores or, with nil, forgets the token.
    func store(_ token: String?, for address: String) throws(ScliFailure) {
        var document: JSONValue = [:]
        if let data = try? Data(contentsOf: URL(filePath: path)), let stored = try? JSONValue(parsing: [UInt8](data)) {
            document = stored
        }
        document[address] = token.map(JSONValue.string)
        // Written beside and renamed: the file never exists with other rights or half written.
        let temporary = "\(path).\(getpid())"
        let descriptor = open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw .local("Cannot write \(temporary): \(String(cString: strerror(errno)))") }
        let bytes = document.bytes
        let written = bytes.withUnsafeBytes { write(descriptor, $0.baseAddress, $0.count) }
        close(descriptor)
        guard written == bytes.count, rename(temporary, path) == 0 else {
            unlink(temporary)
            throw .local("Cannot write \(path)")
        }
    }
}

func base64(_ text: String) -> String { Data(text.utf8).base64EncodedString() }
