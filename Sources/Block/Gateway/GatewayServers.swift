public import HTTPKit
import Hummingbird
import LinuxOS
import Logging
public import ServiceLifecycle

/// Where the gateway listens.
public struct GatewayEndpoints: Sendable {
    /// Plain HTTP; nil: not served.
    public var plain: HTTPAddress?
    /// HTTPS; nil: not served. Most clients of the original insist on it.
    public var secure: HTTPAddress?
    /// PEM files. Without them a self-signed certificate is made once and kept in `directory`.
    public var certificate: (certificateFile: String, keyFile: String)?
    public var directory: String

    public init(plain: HTTPAddress?, secure: HTTPAddress?, directory: String) {
        self.plain = plain
        self.secure = secure
        self.directory = directory
    }
}

extension Gateway {
    /// The servers for `endpoints`. Without a certificate and without the `openssl` tool to make one, HTTPS is left out
    /// and the log says so; a certificate that was given but cannot be used is an error.
    ///
    /// - Parameter onServerRunning: called with the port of each server once it accepts; `isSecure` tells them apart.
    public func servers(
        _ endpoints: GatewayEndpoints,
        onServerRunning: @escaping @Sendable (_ isSecure: Bool, _ port: Int) async -> Void = { _, _ in }
    ) async throws -> [any Service] {
        var servers: [any Service] = []
        if let address = endpoints.plain {
            servers.append(
                HTTPServer(name: "holdfast-gateway", address: address, router: router(), logger: logger) {
                    await onServerRunning(false, $0)
                })
        }
        if let address = endpoints.secure, let tls = try await identity(endpoints) {
            servers.append(
                HTTPServer(name: "holdfast-gateway", address: address, router: router(), logger: logger, tls: tls) {
                    await onServerRunning(true, $0)
                })
        }
        return servers
    }

    private func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        addRoutes(to: router)
        return router
    }

    private func identity(_ endpoints: GatewayEndpoints) async throws -> TLSIdentity? {
        if let (certificate, key) = endpoints.certificate {
            return try TLSIdentity(certificateFile: certificate, keyFile: key)
        }
        do {
            let (certificate, key) = try await SelfSignedCertificate.ensure(in: endpoints.directory)
            return try TLSIdentity(certificateFile: certificate, keyFile: key)
        } catch {
            logger.warning(
                "HTTPS is not served: no certificate was given and none could be made",
                metadata: ["error": "\(error)"])
            return nil
        }
    }
}

/// The certificate of a gateway that nobody has given one: RSA, since old clients know nothing else, valid for ten
/// years.
enum SelfSignedCertificate {
    static func ensure(in directory: String) async throws -> (certificateFile: String, keyFile: String) {
        let certificate = "\(directory)/gateway.crt"
        let key = "\(directory)/gateway.key"
        if (try? readText(certificate)) != nil, (try? readText(key)) != nil { return (certificate, key) }
        // The certificate is moved into place last: where it is, its key is complete.
        try await runChecked(["mkdir", "-p", directory])
        try await runChecked([
            "openssl", "req", "-x509", "-newkey", "rsa:2048", "-sha256", "-nodes", "-days", "3650",
            "-subj", "/CN=holdfast", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1",
            "-keyout", key + ".new", "-out", certificate + ".new",
        ])
        try await runChecked(["chmod", "600", key + ".new"])
        try await runChecked(["mv", key + ".new", key])
        try await runChecked(["mv", certificate + ".new", certificate])
        return (certificate, key)
    }
}
