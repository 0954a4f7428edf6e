import Base
import Glibc
import LinuxOS
import Yams

extension LabState {
    mutating func setInit(_ machine: ProcessIdentity?, of number: Int) {
        for index in nodes.indices where nodes[index].number == number { nodes[index].initProcess = machine }
    }

    mutating func cut(from: Int, to: Int, ports: [Int]) {
        let cut = Cut(from: from, to: to, ports: ports)
        if !cuts.contains(cut) { cuts.append(cut) }
    }
}

extension Lab {
    /// Runs `body` as the only one that changes this lab.
    func locked<Result>(_ body: () async throws -> Result) async throws -> Result {
        let file = try Descriptor.open("\(directory)/lab.lock", O_RDWR | O_CREAT)
        try await poll("the lock of \(directory)", until: .now + .seconds(300)) {
            flock(file.raw, LOCK_EX | LOCK_NB) == 0 ? true : nil
        }
        defer { flock(file.raw, LOCK_UN) }
        return try await body()
    }

    /// Reads the state, lets `body` change it, and writes it back.
    func changing(_ body: (inout LabState) async throws -> Void) async throws {
        try await locked {
            var lab = try state()
            try await body(&lab)
            try lab.write(to: statePath)
        }
    }

    func writeNodeFile(_ number: Int, _ lab: LabState) async throws {
        let directory = nodeDirectory(number)
        let template = lab.nodeTemplate ?? NodeTemplate.standard(number: number, in: lab)
        var text = NodeTemplate.fill(template, lab: lab, number: number, directory: directory)
        text = try NodeTemplate.adapt(text, settings: lab.settings, separatesRoles: lab.separatesRoles)
        try await replaceFile("\(directory)/node.yaml", text)
        try makeDirectories("\(directory)/etc-rexray")
        let rexray = NodeTemplate.fill(NodeTemplate.rexray, lab: lab, number: number, directory: directory)
        try await replaceFile("\(directory)/etc-rexray/config.yml", rexray)
    }

    func toolDirectory(of number: Int) -> String { "\(nodeDirectory(number))/bin" }

    func linkTools(_ names: [String], to executable: String, on number: Int) throws(LinuxError) {
        let directory = toolDirectory(of: number)
        try makeDirectories(directory)
        for name in names {
            guard symlink(executable, "\(directory)/\(name)") == 0 || errno == EEXIST else {
                throw LinuxError(errno: errno, "\(directory)/\(name) could not be made")
            }
        }
    }

    /// The roles that a machine's node file lists.
    func roles(of number: Int) throws -> [String] {
        let text = try readText("\(nodeDirectory(number))/node.yaml")
        guard let roles = try compose(yaml: text)?.mapping?["roles"]?.mapping else { return [] }
        return roles.compactMap { $0.key.string }
    }

    func cgroup(of number: Int, in lab: LabState) -> String { "/holdfast-lab-\(lab.index)/\(lab.name(of: number))" }

    /// Docker leaves the groups of containers that died with their machine.
    func removeCgroups(of number: Int, in lab: LabState) {
        for controller in directoryEntries("/sys/fs/cgroup") {
            removeEmptyDirectories("/sys/fs/cgroup/\(controller)\(cgroup(of: number, in: lab))")
            rmdir("/sys/fs/cgroup/\(controller)/holdfast-lab-\(lab.index)")
        }
    }

    /// A daemon that waits for the volumes of its containers lets connect and does not answer yet.
    func dockerAnswers(_ machine: ProcessIdentity) async throws -> Bool {
        let version = ["nsenter", "-t", "\(machine.pid)", "-m", "-n", "-p", "--", "docker", "version"]
        do {
            return try await runCommand(version, deadline: .seconds(5)).isSuccess
        } catch let error as LinuxError where error.code == .timedOut {
            return false
        }
    }

    /// Imports a root file system as an image, unless the machine's Docker has it. Lines of `TARBALL.changes`
    /// (ENTRYPOINT, WORKDIR, ...) become its configuration.
    func importImage(_ image: String, _ tarball: String, _ machine: ProcessIdentity) async throws {
        let docker = ["nsenter", "-t", "\(machine.pid)", "-m", "-n", "-p", "--", "docker"]
        if try await runCommand(docker + ["image", "inspect", image]).isSuccess { return }
        let lines = ((try? readText(tarball + ".changes")) ?? "").split(separator: "\n")
        let changes = lines.flatMap { ["--change", String($0)] }
        try await runChecked(docker + ["import"] + changes + [tarball, image], deadline: .seconds(120))
    }

    /// All processes in the pid namespace of a machine.
    func machineProcesses(_ machine: ProcessIdentity) -> [ProcessIdentity] {
        let namespace = linkTarget("/proc/\(machine.pid)/ns/pid")
        return runningProcesses().compactMap { pid in
            guard pid != machine.pid, linkTarget("/proc/\(pid)/ns/pid") == namespace else { return nil }
            return ProcessIdentity.of(pid)
        }
    }

    /// The processes of a machine in which `role` runs: those of its own (`holdfast sdc`, `dockerd`), or else the node's.
    func processes(of role: String, in machine: ProcessIdentity) throws -> [ProcessIdentity] {
        let all = machineProcesses(machine).map { (process: $0, name: programName($0)) }
        let own = all.filter { $0.name == role }
        if !own.isEmpty || ["sdc", "sdc-keeper", "dockerd", "zookeeper"].contains(role) { return own.map(\.process) }
        return all.filter { $0.name == "node" }.map(\.process)
    }

    /// The role that a `holdfast` process was started as, the file name of any other program.
    private func programName(_ process: ProcessIdentity) -> String {
        // A fork of the client, with its command line but a name of its own.
        if (try? readText("/proc/\(process.pid)/comm")) == "sdc-keeper" { return "sdc-keeper" }
        guard let line = try? readFile("/proc/\(process.pid)/cmdline") else { return "" }
        let words = line.split(separator: 0).map { String(decoding: $0, as: UTF8.self) }
        let program = words.first?.split(separator: "/").last.map(String.init) ?? ""
        if program == "java" { return "zookeeper" }
        return program == "holdfast" && words.count > 1 ? words[1] : program
    }
}

/// Polls until `value` answers something. Errors end it at once.
@discardableResult
func poll<Value>(
    _ what: String, until end: ContinuousClock.Instant, isolation: isolated (any Actor)? = #isolation,
    _ value: () async throws -> Value?
) async throws -> Value {
    while true {
        if let value = try await value() { return value }
        guard ContinuousClock.now < end else { throw LabError(.timedOut, "Waited too long for \(what).") }
        try await Task.sleep(for: .milliseconds(50))
    }
}

/// The child of a process that has exactly one.
func firstChild(of pid: Int32) -> ProcessIdentity? {
    guard let list = try? readText("/proc/\(pid)/task/\(pid)/children"), let first = list.split(separator: " ").first
    else { return nil }
    return Int32(first).flatMap { ProcessIdentity.of($0) }
}

func linkTarget(_ path: String) -> String {
    var target = [CChar](repeating: 0, count: 4096)
    let count = readlink(path, &target, target.count)
    return String(decoding: target.prefix(max(0, count)).map { UInt8(bitPattern: $0) }, as: UTF8.self)
}

func isInstalled(_ program: String) -> Bool {
    (currentEnvironment()["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin").split(separator: ":").contains {
        access("\($0)/\(program)", X_OK) == 0
    }
}

/// Makes a directory and those above it that are missing.
func makeDirectories(_ path: String) throws(LinuxError) {
    var made = ""
    for part in path.split(separator: "/") {
        made += "/\(part)"
        guard mkdir(made, 0o755) == 0 || errno == EEXIST else {
            throw LinuxError(errno: errno, "\(made) could not be made")
        }
    }
}

/// Removes a tree of directories; on files, such as those of a control group, it does nothing.
func removeEmptyDirectories(_ path: String) {
    for name in directoryEntries(path) { removeEmptyDirectories("\(path)/\(name)") }
    rmdir(path)
}

/// Removes a tree. Quick enough for Docker's thousands of files because rm(1) does it.
func remove(_ path: String) async throws {
    try await runChecked(["rm", "-rf", "--one-file-system", "--", path], deadline: .seconds(120))
}

func replaceFile(_ path: String, _ text: String) async throws {
    try await offPool {
        let file = try Descriptor.open(path + ".new", O_WRONLY | O_CREAT | O_TRUNC)
        var rest = Array(text.utf8)[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes { write(file.raw, $0.baseAddress, $0.count) }
            guard count > 0 else { throw LinuxError(errno: errno, "\(path) could not be written") }
            rest.removeFirst(count)
        }
        guard rename(path + ".new", path) == 0 else { throw LinuxError(errno: errno, "\(path) could not be replaced") }
    }
}
