import ArgumentParser
import LinuxOS
import Logging
import ServiceLifecycle

struct NodeCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "node", abstract: "Runs the roles that a node file lists.",
        discussion: """
            A node file is YAML: under "roles", each role with its flags as "flag: value". All roles run in one process except \
            sdc, which is started as a process of its own so that block devices outlive a restart of the rest.
            """)

    @Option(help: "The node file.")
    var config: String

    func services(logger: Logger) async throws -> [any Service] {
        let text = try await offPool { try readText(config) }
        let file = try NodeFile(text: text, path: config)
        var services: [any Service] = []
        for section in file.sections {
            switch section.command {
            case let client as SdcCommand:
                services.append(ClientKeeper(arguments: ["sdc"] + section.arguments, client: client, logger: logger))
            case let role:
                services += try await role.services(logger: Logger(label: section.name))
            }
        }
        // A node without roles still runs until it is told to end.
        return services.isEmpty ? [Idle()] : services
    }
}

private struct Idle: Service {
    func run() async throws { try await gracefulShutdown() }
}

/// Keeps one `sdc` running beside this process: takes over the one that an earlier node process started, starts one
/// when there is none, and leaves it running when the node ends.
struct ClientKeeper: Service {
    /// With the role's name first.
    let arguments: [String]
    let client: SdcCommand
    let logger: Logger

    /// Where the present one's identity is written; gone with /run when the machine restarts.
    private var identityPath: String { "/run/holdfast/sdc.process" }
    private var logPath: String { "/run/holdfast/sdc.log" }

    func run() async throws {
        try await cancelWhenGracefulShutdown {
            var isFirst = true
            while !Task.isCancelled {
                if isFirst, let present = identity(), present.isAlive {
                    logger.notice("Took over the running client", metadata: ["pid": "\(present.pid)"])
                    try await present.waitForExit()
                    logger.warning("The client ended", metadata: ["pid": "\(present.pid)"])
                } else {
                    try await startAndWait()
                }
                isFirst = false
                try await Task.sleep(for: .milliseconds(500))
            }
        }
    }

    private func identity() -> ProcessIdentity? {
        guard let text = try? readText(identityPath) else { return nil }
        let numbers = text.split(separator: " ")
        guard numbers.count == 2, let pid = Int32(numbers[0]), let startTime = UInt64(numbers[1]) else { return nil }
        return ProcessIdentity(pid: pid, startTime: startTime)
    }

    private func startAndWait() async throws {
        try await runChecked(["mkdir", "-p", "/run/holdfast"])
        var request = ChildProcess.Request([ownExecutable()] + arguments)
        request.standardOutput = .append(logPath)
        request.standardError = .append(logPath)
        let child = try ChildProcess.spawn(request)
        let record = "\(child.identity.pid) \(child.identity.startTime)\n"
        try await runChecked(["tee", identityPath], input: Array(record.utf8))
        logger.notice("Started the client", metadata: ["pid": "\(child.pid)"])
        let status = try await child.wait()
        logger.warning("The client ended", metadata: ["pid": "\(child.pid)", "status": "\(status)"])
    }
}
