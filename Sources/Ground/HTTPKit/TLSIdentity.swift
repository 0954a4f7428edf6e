public import Base
import HummingbirdCore
import HummingbirdTLS

/// Why a certificate cannot be used.
public struct TLSIdentityError: CodedError {
    public enum Code: Hashable, Sendable {
        /// A file is missing or holds no PEM certificate or key.
        case unreadable
        /// Certificate and key do not make a server configuration together.
        case unusable
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}

/// A server's certificate with its key, ready to serve HTTPS.
///
/// TLS 1.2 stays allowed, with the classic RSA suites: old storage clients carry their own TLS stack and know nothing
/// newer.
public struct TLSIdentity: Sendable {
    let builder: HTTPServerBuilder

    /// Reads PEM files. Blocks on the file system: call it while starting, not while serving.
    public init(certificateFile: String, keyFile: String) throws(TLSIdentityError) {
        let certificates: [NIOSSLCertificate]
        let key: NIOSSLPrivateKey
        do {
            certificates = try NIOSSLCertificate.fromPEMFile(certificateFile)
            key = try NIOSSLPrivateKey(file: keyFile, format: .pem)
        } catch {
            throw TLSIdentityError(
                .unreadable, "The certificate \(certificateFile) with key \(keyFile) cannot be read", cause: error)
        }
        var configuration = TLSConfiguration.makeServerConfiguration(
            certificateChain: certificates.map { .certificate($0) }, privateKey: .privateKey(key))
        configuration.minimumTLSVersion = .tlsv12
        do {
            builder = try .tls(HTTPConnections.builder, tlsConfiguration: configuration)
        } catch {
            throw TLSIdentityError(.unusable, "The certificate \(certificateFile) cannot serve TLS", cause: error)
        }
    }
}
