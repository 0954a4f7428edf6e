import Glibc
public import LinuxOS
import Yams

/// Simulated machines on this one: each a process tree with network, mount, pid and host name namespaces of its own, on
/// a bridge of its own, with its own Docker and one `holdfast node`.
///
/// Every call reads the lab's state from its directory and writes it back, so that separate invocations work on one
/// lab. Needs root.
public struct Lab: Sendable {
    /// What `up` builds.
    public struct Plan: Sendable {
        public var nodes: Int
        public var index = 0
        /// A node file with `${...}` (see `NodeTemplate`) instead of the standard one.
        public var nodeTemplate: String?
        /// Flags that differ from the node file's.
        public var settings: [LabState.Setting] = []
        /// Runs every role as a process of its own instead of one process for all of a machine.
        public var separatesRoles = false
        public var runsDocker = true
        /// Disks that lose at a power loss what was not flushed.
        public var hasVolatileDisks = false
        /// Real ZooKeeper, masters, Marathons and managers on the first three machines (the white paper's Table 2)
        /// instead of one of each with an embedded store.
        public var usesZooKeeper = false
        /// Name to tarball.
        public var images: [String: String] = [:]
        /// The `holdfast` that the machines run.
        public var executable: String
        /// Names under which the machines' users find it too.
        public var tools: [String] = []

        public init(nodes: Int, executable: String) {
            self.nodes = nodes
            self.executable = executable
        }
    }

    /// Absolute.
    public let directory: String
    /// Told of every step that is done.
    let report: @Sendable (String) -> Void

    public init(directory: String, report: @escaping @Sendable (String) -> Void = { _ in }) {
        self.directory = directory
        self.report = report
    }

    var statePath: String { "\(directory)/lab.json" }

    func nodeDirectory(_ number: Int) -> String { "\(directory)/node\(number)" }

    public func state() throws(LabError) -> LabState { try LabState.read(from: statePath) }

    // MARK: The lab as a whole

    /// Builds a lab and waits until every machine answers. On failure nothing is left but the logs.
    public func up(_ plan: Plan, deadline: Duration = .seconds(180)) async throws {
        guard (1...100).contains(plan.nodes), (0...100).contains(plan.index) else {
            throw LabError(.state, "A lab has 1 to 100 nodes and an index from 0 to 100.")
        }
        try makeDirectories(directory)
        try await locked {
            guard access(statePath, F_OK) != 0 else {
                throw LabError(.state, "A lab lives in \(directory) already; take it down first.")
            }
            let lab = LabState(
                index: plan.index, executable: plan.executable,
                runsDocker: plan.runsDocker && isInstalled("dockerd"), images: plan.images,
                nodeTemplate: plan.nodeTemplate, settings: plan.settings, usesZooKeeper: plan.usesZooKeeper,
                separatesRoles: plan.separatesRoles, hasVolatileDisks: plan.hasVolatileDisks,
                nodes: (1...plan.nodes).map { .init(number: $0, initProcess: nil) })
            guard !plan.usesZooKeeper || access(ZooKeeperServer.program, X_OK) == 0 else {
                throw LabError(
                    .state, "ZooKeeper is not installed (Debian's package zookeeper); --store embedded needs none.")
            }
            try await LabNetwork(lab: lab).reclaim()
            try lab.write(to: statePath)
            do {
                for node in lab.nodes { try linkTools(plan.tools, to: plan.executable, on: node.number) }
                try await LabNetwork(lab: lab).up()
                report("network \(lab.network).0/24 on \(lab.bridge)")
                let end = ContinuousClock.now + deadline
                try await powerOn(lab.nodes.map(\.number), deadline: deadline)
                if lab.nodeTemplate == nil { try await waitUntilLed(lab, end: end) }
            } catch {
                try await tearDown(keepingFiles: true)
                throw error
            }
        }
    }

    /// Each kind of leader is elected on its own.
    private func waitUntilLed(_ lab: LabState, end: ContinuousClock.Instant) async throws {
        let cluster = ClusterView(
            controls: lab.leaders.map(lab.address), password: NodeTemplate.gatewayPassword)
        try await poll("a leading master", until: end) { try? await cluster.leadingMaster() }
        try await poll("a leading Marathon", until: end) { try? await cluster.leadingMarathon() }
        try await poll("a leading manager", until: end) { try? await cluster.leadingManager() }
        report("master, Marathon and manager are led")
    }

    /// Ends everything that runs in the lab and removes what it made on this machine.
    ///
    /// - Parameter keepingFiles: leave the nodes' directories for a look at their logs.
    public func down(keepingFiles: Bool = false) async throws {
        guard access(statePath, F_OK) == 0 else { throw LabError(.state, "No lab lives in \(directory).") }
        try await locked { try await tearDown(keepingFiles: keepingFiles) }
    }

    private func tearDown(keepingFiles: Bool) async throws {
        let lab = try state()
        for node in lab.nodes { try await LabNetwork(lab: lab).unplug(node.number) }
        for node in lab.nodes { try await cutPower(of: node, in: lab) }
        await LabNetwork(lab: lab).down()
        for node in lab.nodes {
            removeCgroups(of: node.number, in: lab)
            if !keepingFiles { try await remove(nodeDirectory(node.number)) }
        }
        try await remove(statePath)
        report("lab \(directory) is down")
    }

    // MARK: Machines

    /// Power loss: the cable first, so that not even a closed connection is noticed, then everything at once.
    public func kill(_ name: String) async throws {
        try await changing { lab in
            let node = try lab.node(named: name)
            guard lab.isRunning(node.number) else { throw LabError(.state, "\(name) is not running.") }
            try await LabNetwork(lab: lab).unplug(node.number)
            try await cutPower(of: node, in: lab)
            lab.setInit(nil, of: node.number)
            report("\(lab.name(of: node.number)) lost power")
        }
    }

    /// Switches a machine on again, with the disks that it had.
    public func start(_ name: String, deadline: Duration = .seconds(120)) async throws {
        try await locked {
            let lab = try state()
            let node = try lab.node(named: name)
            guard !lab.isRunning(node.number) else { throw LabError(.state, "\(name) is running.") }
            try await powerOn([node.number], deadline: deadline)
        }
    }

    /// Puts an empty disk in the place of the one that a machine without power stores on.
    func replaceDisk(of name: String) async throws {
        try await locked {
            let lab = try state()
            let node = try lab.node(named: name)
            guard !lab.isRunning(node.number) else { throw LabError(.state, "\(name) is running.") }
            let disk = "\(nodeDirectory(node.number))/sds.device"
            guard unlink(disk) == 0 else { throw LinuxError(errno: errno, "\(disk) could not be removed") }
            report("\(name) has an empty disk")
        }
    }

    /// Boots machines side by side and waits until they answer.
    private func powerOn(_ numbers: [Int], deadline: Duration) async throws {
        let end = ContinuousClock.now + deadline
        var lab = try state()
        for number in numbers { try await plugIn(number, &lab) }
        try lab.write(to: statePath)
        let booted = lab
        try await withThrowingTaskGroup(of: Void.self) { group in
            for number in numbers {
                group.addTask {
                    try await waitUntilUp(number, in: booted, end: end)
                    report("\(booted.name(of: number)) is up at \(booted.address(of: number))")
                }
            }
            try await group.waitForAll()
        }
    }

    private func plugIn(_ number: Int, _ lab: inout LabState) async throws {
        let directory = nodeDirectory(number)
        try makeDirectories(directory)
        try await writeNodeFile(number, lab)
        try await Machine.Description(
            number: number, name: lab.name(of: number), directory: directory, executable: lab.executable,
            runsDocker: lab.runsDocker, hasVolatileDisk: lab.hasVolatileDisks,
            zooKeeper: lab.zooKeeper(of: number, directory: directory),
            dockerNetwork: "172.\(20 + number % 200).0.1/24",
            cgroup: cgroup(of: number, in: lab)
        ).write(to: "\(directory)/machine.json")
        var request = ChildProcess.Request([
            "unshare", "--net", "--uts", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child",
            "--mount-proc", lab.executable, "lab-init", "\(directory)/machine.json",
        ])
        request.workingDirectory = "/"
        request.standardOutput = .append("\(directory)/console.log")
        request.standardError = .append("\(directory)/console.log")
        let child = try ChildProcess.spawn(request)
        let machine = try await poll("the first process of \(lab.name(of: number))", until: .now + .seconds(10)) {
            if let status = child.exitStatus { throw LabError(.system, "unshare \(status)") }
            return firstChild(of: child.pid)
        }
        lab.setInit(machine, of: number)
        try await LabNetwork(lab: lab).plug(number, into: machine)
        try await LabNetwork(lab: lab).applyCuts(at: number, machine: machine)
    }

    /// Kills the init of the machine's pid namespace, with which the kernel kills everything in it, and waits for the
    /// end.
    private func cutPower(of node: LabState.Node, in lab: LabState) async throws {
        if let machine = node.initProcess, machine.isAlive {
            machine.signal(SIGKILL)
            try await poll("the end of \(lab.name(of: node.number))", until: .now + .seconds(60)) {
                machine.isAlive ? nil : true
            }
        }
        try await releaseLoopDevices(of: node.number)
    }

    /// Loop devices are the kernel's, not a namespace's: those on the machine's files would survive it if somebody
    /// else, such as a mount namespace copied at the wrong moment, still held them.
    private func releaseLoopDevices(of number: Int) async throws {
        let prefix = nodeDirectory(number) + "/"
        for (device, status) in LoopDevice.attached() where status.backingFile.hasPrefix(prefix) {
            try? await offPool { try LoopDevice.open(device).detach() }
        }
    }

    func waitUntilUp(_ number: Int, in lab: LabState, end: ContinuousClock.Instant) async throws {
        guard let machine = lab.nodes.first(where: { $0.number == number })?.initProcess else { return }
        let name = lab.name(of: number)
        if lab.runsDocker {
            try await poll("Docker of \(name)", until: end) {
                try checkAlive(machine, name)
                return try await dockerAnswers(machine) ? true : nil
            }
            for (image, tarball) in lab.images.sorted(by: { $0.key < $1.key }) {
                try await importImage(image, tarball, machine)
            }
        }
        if lab.zooKeeper(of: number, directory: directory) != nil {
            // Without a majority none of them serves.
            let hasMajority = lab.leaders.count(where: lab.isRunning) * 2 > lab.leaders.count
            try await poll("ZooKeeper of \(name)", until: end) {
                try checkAlive(machine, name)
                return try await offPool {
                    let address = lab.address(of: number)
                    return hasMajority ? zooKeeperServes(address) : canConnect(address, port: 2181)
                } ? true : nil
            }
        }
        for role in try roles(of: number) {
            for port in NodeTemplate.ports(of: role) {
                try await poll("\(role) of \(name) at port \(port)", until: end) {
                    try checkAlive(machine, name)
                    return try await offPool { canConnect(lab.address(of: number), port: port) ? true : nil }
                }
            }
        }
    }

    private func checkAlive(_ machine: ProcessIdentity, _ name: String) throws(LabError) {
        guard machine.isAlive else {
            throw LabError(.system, "\(name) has died; see \(directory)/\(name)/console.log.")
        }
    }

    /// Kills the process in which a role of a machine runs; its supervisor starts it again. Roles of one node file
    /// share a process, except `sdc`.
    public func crash(_ name: String, role: String) async throws {
        try await signal(name, role: role, SIGKILL, "crashed")
    }

    /// Makes the process in which a role runs stand still, until `resume`.
    public func pause(_ name: String, role: String) async throws {
        try await signal(name, role: role, SIGSTOP, "stands still")
    }

    public func resume(_ name: String, role: String) async throws {
        try await signal(name, role: role, SIGCONT, "goes on")
    }

    private func signal(_ name: String, role: String, _ signal: Int32, _ outcome: String) async throws {
        let lab = try state()
        let node = try lab.node(named: name)
        guard let machine = node.initProcess, machine.isAlive else { throw LabError(.state, "\(name) is not running.") }
        let victims = try processes(of: role, in: machine)
        guard !victims.isEmpty else { throw LabError(.state, "No process of \(name) runs \(role).") }
        for victim in victims { victim.signal(signal) }
        let count = "\(victims.count) process\(victims.count == 1 ? "" : "es")"
        report("\(lab.name(of: node.number)): \(role) \(outcome) (\(count))")
    }

    // MARK: Cables

    /// Drops packets between two nodes, or between one node and all others (`peer` "all").
    ///
    /// - Parameters:
    ///   - oneWay: only those from `name` to `peer`.
    ///   - ports: only connections to these ports, of either node. "all" then means the node itself too.
    public func partition(
        _ name: String, from peer: String, oneWay: Bool = false, ports: [Int] = []
    ) async throws {
        try await changing { lab in
            let node = try lab.node(named: name)
            let others =
                peer == "all"
                ? lab.nodes.map(\.number).filter { $0 != node.number || !ports.isEmpty }
                : [try lab.node(named: peer).number]
            for other in others {
                lab.cut(from: node.number, to: other, ports: ports)
                if !oneWay { lab.cut(from: other, to: node.number, ports: ports) }
            }
            try await applyCuts(in: lab)
            let what = ports.isEmpty ? "" : " at port \(ports.map(String.init).joined(separator: ", "))"
            report("\(name) \(oneWay ? "no longer reaches" : "is cut off from") \(peer)\(what)")
        }
    }

    /// Mends all cables.
    public func heal() async throws {
        try await changing { lab in
            lab.cuts = []
            try await applyCuts(in: lab)
            report("all nodes reach each other")
        }
    }

    private func applyCuts(in lab: LabState) async throws {
        for node in lab.nodes {
            guard let machine = node.initProcess, machine.isAlive else { continue }
            try await LabNetwork(lab: lab).applyCuts(at: node.number, machine: machine)
        }
    }

    // MARK: Looking inside

    /// The roles of a machine whose ports accept connections, for people.
    public func services(of number: Int, in lab: LabState) async -> String {
        guard lab.isRunning(number) else { return "" }
        var words: [String] = []
        if lab.usesZooKeeper, lab.leaders.contains(number) {
            let serves = (try? await offPool { zooKeeperServes(lab.address(of: number)) }) ?? false
            words.append("zookeeper:2181\(serves ? "" : " (silent)")")
        }
        for role in (try? roles(of: number)) ?? [] {
            for port in NodeTemplate.ports(of: role) {
                let address = lab.address(of: number)
                let answers = (try? await offPool { canConnect(address, port: port) }) ?? false
                words.append("\(role):\(port)\(answers ? "" : " (silent)")")
            }
        }
        return words.joined(separator: ", ")
    }

    /// The program and arguments that run `command` inside a machine, where the tools of `Plan.tools` are in the PATH.
    public func enter(_ name: String, _ command: [String]) throws(LabError) -> [String] {
        let node = try state().node(named: name)
        guard let machine = node.initProcess, machine.isAlive else { throw LabError(.state, "\(name) is not running.") }
        let path = currentEnvironment()["PATH"] ?? "/usr/sbin:/usr/bin:/sbin:/bin"
        let environment = [
            "PATH=\(toolDirectory(of: node.number)):\(path)", "SCLI_SESSION_FILE=/run/holdfast/scli-session",
        ]
        return ["nsenter", "-t", "\(machine.pid)", "-m", "-u", "-n", "-p", "--", "env"] + environment + command
    }

    /// Runs `command` inside a machine and collects what it prints.
    public func run(_ name: String, _ command: [String], deadline: Duration = .seconds(60)) async throws
        -> CommandResult
    {
        try await runCommand(enter(name, command), deadline: deadline)
    }
}
