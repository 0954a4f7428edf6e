import FoundationEssentials

/// The value of an `authorization` header of the Basic scheme (RFC 7617).
public func basicAuthorization(user: String, password: String) -> String {
    "Basic " + Data("\(user):\(password)".utf8).base64EncodedString()
}
