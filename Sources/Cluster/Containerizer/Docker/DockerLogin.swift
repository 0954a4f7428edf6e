public import Base
import FoundationEssentials
import OrderedCollections

/// What `docker login` leaves in a config.json.
public enum DockerLogin {
    /// Registry -> content of the X-Registry-Auth header. Entries that cannot be understood are left out.
    public static func authorizations(_ config: JSONValue) -> [String: String] {
        var result: [String: String] = [:]
        for (registry, entry) in config["auths"]?.object ?? [:] {
            guard let auth = entry["auth"]?.string, let data = Data(base64Encoded: auth) else { continue }
            let text = String(decoding: data, as: UTF8.self)
            guard let colon = text.firstIndex(of: ":") else { continue }
            let header: JSONValue = [
                "username": .string(String(text[..<colon])),
                "password": .string(String(text[text.index(after: colon)...])), "serveraddress": .string(registry),
            ]
            result[registry] = Data(header.bytes).base64EncodedString()
        }
        return result
    }
}
