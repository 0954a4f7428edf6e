import Base
import Containerizer
import HTTPKit
import MesosAPI
import NIOCore
import NIOHTTP1
import NIOPosix

/// Health checks and checks of one container's task. They reach it by its own address, or where it shares the host's
/// network by the loopback address.
struct Probes: Sendable {
    let runner: AgentService.Runner
    let address: String?

    private var host: String { address ?? "127.0.0.1" }

    // MARK: Health

    /// Runs until cancelled.
    func repeatHealthCheck(_ check: MesosHealthCheck, _ report: @Sendable (Bool) async -> Void) async {
        guard await pause(check.delaySeconds) else { return }
        let timeout = seconds(check.timeoutSeconds, zero: 3600)
        while !Task.isCancelled {
            let success: Bool
            switch check.type {
            case .command: success = await execute(check.command, timeout) == 0
            case .http:
                let path = check.http.path.isEmpty ? "/" : check.http.path
                let isSecure = check.http.scheme == "https"
                let status = await get(port: Int(check.http.port), path, isSecure: isSecure, timeout)
                success = status.map { (200..<400).contains($0) } ?? false
            case .tcp: success = await connect(port: Int(check.tcp.port), timeout)
            case .unknown: return
            }
            if Task.isCancelled { return }
            await report(success)
            guard await pause(check.intervalSeconds) else { return }
        }
    }

    // MARK: Checks

    /// Runs until cancelled; reports only changes.
    func repeatCheck(_ check: MesosCheckInfo, _ report: @Sendable (MesosCheckStatusInfo) async -> Void) async {
        guard await pause(check.delaySeconds) else { return }
        let timeout = seconds(check.timeoutSeconds, zero: 3600)
        var last: MesosCheckStatusInfo?
        while !Task.isCancelled {
            var status = MesosCheckStatusInfo()
            status.type = check.type
            switch check.type {
            case .command:
                status.command = .init()
                if let exit = await execute(check.command.command, timeout) {
                    status.command.exitCode = Int32(clamping: exit)
                }
            case .http:
                status.http = .init()
                let path = check.http.path.isEmpty ? "/" : check.http.path
                if let code = await get(port: Int(check.http.port), path, isSecure: false, timeout) {
                    status.http.statusCode = UInt32(code)
                }
            case .tcp: status.tcp.succeeded = await connect(port: Int(check.tcp.port), timeout)
            case .unknown: return
            }
            if Task.isCancelled { return }
            if status != last { await report(status) }
            last = status
            guard await pause(check.intervalSeconds) else { return }
        }
    }

    // MARK: Kinds

    private func execute(_ command: MesosCommandInfo, _ timeout: Duration) async -> Int? {
        try? await runner.containerizer.execute(runner.spec, command, deadline: timeout)
    }

    /// TLS is not verified by Mesos' checks, and not spoken by ours: an HTTPS check answers by whether the port
    /// accepts.
    private func get(port: Int, _ path: String, isSecure: Bool, _ timeout: Duration) async -> Int? {
        if isSecure { return await connect(port: port, timeout) ? 200 : nil }
        let reply = try? await HTTPCaller().call(
            .GET, .tcp(host: host, port: port), path, deadline: timeout, bodyLimit: 1 << 20)
        return reply?.status
    }

    private func connect(port: Int, _ timeout: Duration) async -> Bool {
        guard (1...65535).contains(port) else { return false }
        do {
            let channel = try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
                .connectTimeout(.nanoseconds(timeout.wholeNanoseconds))
                .connect(host: host, port: port).get()
            try await channel.close()
            return true
        } catch {
            return false
        }
    }

    // MARK: Time

    private func seconds(_ value: Double, zero: Double) -> Duration {
        .seconds(value > 0 ? min(value, 86400) : zero)
    }

    /// False when cancelled.
    private func pause(_ seconds: Double) async -> Bool {
        (try? await Task.sleep(for: .seconds(max(0.01, min(seconds, 1e6))))) != nil
    }
}
