import ArgumentParser
import Glibc
import LinuxOS
import Logging
import ServiceLifecycle

struct NodeCommand: Role {
    static let configuration = CommandConfiguration(
        commandName: "node", abstract: "Runs the roles that a node file lists.",
        discussion: """
            A node file is YAML: under "roles", each role with its flags as "flag: value". All roles run in one process except \
            sdc, whose process outlives the node's so that block devices stay, and those that a list "separate" names.
            """)

    @Option(help: "The node file.")
    var config: String

    func services(logger: Logger) async throws -> [any Service] {
        let text = try await offPool { try readText(config) }
        let file = try NodeFile(text: text, path: config)
        var services: [any Service] = []
        for section in file.sections {
            if section.isSeparate {
                services.append(RoleKeeper(role: section.name, flags: section.arguments, logger: logger))
            } else {
                services += try await section.command.services(logger: Logger(label: section.name))
            }
        }
        // A node without roles still runs until it is told to end.
        return services.isEmpty ? [Idle()] : services
    }
}

private struct Idle: Service {
    func run() async throws { try await gracefulShutdown() }
}

/// Keeps one process of a role running beside this one: takes over what an earlier node process started, starts one when
/// there is none, and ends it when the node ends, except for the client, whose devices are in use.
struct RoleKeeper: Service {
    let role: String
    let flags: [String]
    let logger: Logger

    /// Where the present one's identity is written; gone with /run when the machine restarts.
    private var identityPath: String { "/run/holdfast/\(role).process" }

    func run() async throws {
        do {
            try await cancelWhenGracefulShutdown { try await keepRunning() }
        } catch is CancellationError {
            // The way in which a service is told to end.
        }
        if role != "sdc", let present = identity(), present.isAlive {
            present.signal(SIGTERM)
            try await present.waitForExit()
        }
    }

    private func keepRunning() async throws {
        if let present = identity(), present.isAlive {
            logger.notice("Took over a running process", metadata: ["role": "\(role)", "pid": "\(present.pid)"])
            try await present.waitForExit()
            logger.warning("A process ended", metadata: ["role": "\(role)", "pid": "\(present.pid)"])
        }
        while true {
            try await startAndWait()
            try await Task.sleep(for: .milliseconds(500))
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
        var request = ChildProcess.Request([ownExecutable(), role] + flags)
        if role == "sdc" {
            // It outlives whoever reads our output.
            request.standardOutput = .append("/run/holdfast/sdc.log")
            request.standardError = .append("/run/holdfast/sdc.log")
        }
        let child = try ChildProcess.spawn(request)
        let record = "\(child.identity.pid) \(child.identity.startTime)\n"
        try await runChecked(["tee", identityPath], input: Array(record.utf8))
        logger.notice("Started a process", metadata: ["role": "\(role)", "pid": "\(child.pid)"])
        let status = try await child.wait()
        logger.warning("A process ended", metadata: ["role": "\(role)", "pid": "\(child.pid)", "status": "\(status)"])
    }
}
