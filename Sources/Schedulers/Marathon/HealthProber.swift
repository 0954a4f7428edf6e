import Base
import HTTPKit
import MarathonCore
import NIOCore
import NIOHTTP1
import NIOPosix

/// Carries out the health checks that Marathon runs itself.
struct HealthProber: Sendable {
    private let caller = HTTPCaller()

    /// Nil when healthy, otherwise what is wrong.
    func check(_ probe: Probe) async -> String? {
        switch probe.kind {
        case .http(let path, _, let ignores1xx): await http(probe, path: path, ignores1xx: ignores1xx)
        case .tcp: await tcp(probe)
        }
    }

    private func http(_ probe: Probe, path: String, ignores1xx: Bool) async -> String? {
        do throws(HTTPCallError) {
            let reply = try await caller.call(
                .GET, .tcp(host: probe.host, port: probe.port), path.hasPrefix("/") ? path : "/" + path,
                deadline: probe.timeout, bodyLimit: 16 << 20)
            if (200..<400).contains(reply.status) || (ignores1xx && (100..<200).contains(reply.status)) { return nil }
            return "HTTP status \(reply.status)"
        } catch {
            return error.description
        }
    }

    private func tcp(_ probe: Probe) async -> String? {
        do {
            let channel = try await ClientBootstrap(group: MultiThreadedEventLoopGroup.singleton)
                .connectTimeout(.nanoseconds(probe.timeout.wholeNanoseconds))
                .connect(host: probe.host, port: probe.port).get()
            try? await channel.close()
            return nil
        } catch {
            return "\(probe.host):\(probe.port) does not accept connections"
        }
    }
}
