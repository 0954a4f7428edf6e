import ArgumentParser
import BlockManager
import Coordination
import FoundationEssentials
import Gateway
import Glibc
import HTTPKit
import Logging
import ServiceLifecycle

/// The flags of the REST gateway, which runs beside the manager.
struct GatewayOptions: ParsableArguments {
    @Option(name: .customLong("gateway-http"), help: "Address of the plain REST API; 'none' to leave it out.")
    var http = "127.0.0.1:8081"

    @Option(
        name: .customLong("gateway-advertise"),
        help: "Where other managers reach --gateway-http, host:port; default: its port on the host of --advertise.")
    var advertise: String?

    @Option(name: .customLong("gateway-https"), help: "Address of the REST API with TLS; 'none' to leave it out.")
    var https = "0.0.0.0:8443"

    @Option(name: .customLong("gateway-certificate"), help: "PEM file; without it a self-signed one is made.")
    var certificate: String?

    @Option(name: .customLong("gateway-key"), help: "PEM file with the key of --gateway-certificate.")
    var key: String?

    @Option(name: .customLong("gateway-user"), help: "Who may log in.")
    var user = "admin"

    @Option(
        name: .customLong("gateway-password-file"), help: "File with the password; made with a random one if missing.")
    var passwordFile: String?

    @Option(
        name: .customLong("gateway-password"),
        help: "The password. Prefer the file: this can be seen by others. The same for all managers of a cluster.")
    var password: String?

    func validate() throws {
        if (certificate == nil) != (key == nil) {
            throw ValidationError("--gateway-certificate and --gateway-key belong together")
        }
    }

    /// Where the other managers' gateways hand on what is for the leader, who may be this one; nil when they cannot.
    func advertised(beside control: String?) -> String? {
        if let advertise { return advertise }
        guard case .tcp(let host, let port)? = HTTPAddress(http), !host.hasPrefix("127."), host != "localhost" else {
            return nil
        }
        guard host == "0.0.0.0" else { return "\(host):\(port)" }
        return control?.split(separator: ":").first.map { "\($0):\(port)" }
    }

    /// - Parameter directory: keeps the certificate and the password when none are given.
    func services(
        manager: ManagerService, store: any MetadataStore, directory: String, logger: Logger
    ) async throws -> [any Service] {
        let gateway = Gateway(
            configuration: GatewayConfiguration(user: user, password: try resolvedPassword(directory, logger)),
            manager: manager, cluster: manager, store: store, logger: logger)
        var endpoints = GatewayEndpoints(
            plain: try address(http, "--gateway-http"), secure: try address(https, "--gateway-https"),
            directory: directory)
        if let certificate, let key { endpoints.certificate = (certificate, key) }
        return try await gateway.servers(endpoints) { isSecure, port in
            logger.notice(
                "Gateway is ready", metadata: ["gateway.port": "\(port)", "gateway.tls": "\(isSecure)"])
        }
    }

    private func address(_ text: String, _ flag: String) throws -> HTTPAddress? {
        if text == "none" { return nil }
        guard let address = HTTPAddress(text) else { throw ValidationError("\(flag) \(text) is no address") }
        return address
    }

    private func resolvedPassword(_ directory: String, _ logger: Logger) throws -> String {
        if let password { return password }
        if let fromEnvironment = ProcessInfo.processInfo.environment["HOLDFAST_GATEWAY_PASSWORD"] {
            return fromEnvironment
        }
        let path = passwordFile ?? "\(directory)/gateway.password"
        if let data = try? Data(contentsOf: URL(filePath: path)) {
            let text = String(decoding: data, as: UTF8.self)
            let password = text.split(whereSeparator: \.isNewline).first.map(String.init) ?? ""
            guard !password.isEmpty else { throw ValidationError("The password file \(path) is empty") }
            return password
        }
        var random = SystemRandomNumberGenerator()
        let password = String(random.next() as UInt64, radix: 36) + String(random.next() as UInt64, radix: 36)
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true, attributes: nil)
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600)
        guard descriptor >= 0 else { throw ValidationError("The password file \(path) cannot be written") }
        defer { close(descriptor) }
        let bytes = Array((password + "\n").utf8)
        guard bytes.withUnsafeBytes({ write(descriptor, $0.baseAddress, $0.count) }) == bytes.count else {
            throw ValidationError("The password file \(path) cannot be written")
        }
        logger.notice("Made a password for the gateway", metadata: ["gateway.password_file": "\(path)"])
        return password
    }
}
