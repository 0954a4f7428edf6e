import ArgumentParser
import Glibc
import Lab
import LinuxOS
import Logging

struct LabCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab", abstract: "Simulated machines on this one (root).",
        subcommands: [
            Up.self, Down.self, Status.self, Kill.self, Start.self, Crash.self, Pause.self, Resume.self, Partition.self,
            Heal.self, Exec.self,
            LabDemoCommand.self, LabTortureCommand.self,
        ])

    struct Options: ParsableArguments {
        @Option(help: "The lab's directory.")
        var dir = "/tmp/holdfast-lab"

        /// The lab, telling on standard output what it did and after how many seconds.
        func lab() -> Lab {
            let start = ContinuousClock.now
            return Lab(directory: absolutePath(dir)) { step in printStep(step, since: start) }
        }
    }

    struct Up: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Builds a lab and waits until its machines answer.")
        @OptionGroup var options: Options
        @Option(help: "How many machines.") var nodes = 4
        @Option(
            help: ArgumentHelp(
                "A node file for every machine instead of the standard ones; ${NAME}, ${NUMBER}, ${ADDRESS}, ${DIR}, ${FIRST} "
                    + "and ${NODES} are replaced."))
        var nodeConfig: String?
        @Option(help: "A flag of a role on every machine, as ROLE.FLAG=VALUE.") var set: [String] = []
        @Flag(help: "Every role is a process of its own.") var separateRoles = false
        @Flag(help: "Disks that lose at a power loss what was not flushed.") var volatileDisks = false
        @Option(help: "An image for every machine's Docker, as NAME=TARBALL.") var image: [String] = []
        @Option(
            help: ArgumentHelp(
                "zookeeper: three machines run ZooKeeper and stand for leadership of each kind. embedded: the first machine "
                    + "leads alone."))
        var store: Store = .zookeeper
        @Flag(help: "Machines without Docker.") var withoutDocker = false
        @Option(help: "Another number for another network beside a running lab: 10.(71+N).0.0/24.") var index = 0
        @Option(help: "Seconds until everything must answer.") var deadline = 180

        enum Store: String, ExpressibleByArgument, CaseIterable { case embedded, zookeeper }

        func run() async throws {
            var plan = Lab.Plan(nodes: nodes, executable: ownExecutable())
            plan.index = index
            plan.runsDocker = !withoutDocker
            if let nodeConfig { plan.nodeTemplate = try await offPool { try readText(nodeConfig) } }
            plan.tools = MultiCall.tools.keys.sorted() + ["holdfast"]
            plan.separatesRoles = separateRoles
            plan.hasVolatileDisks = volatileDisks
            plan.usesZooKeeper = store == .zookeeper
            plan.settings = try set.map { entry in
                let parts = entry.split(separator: "=", maxSplits: 1).map(String.init)
                let place = (parts.first ?? "").split(separator: ".").map(String.init)
                guard parts.count == 2, place.count == 2 else {
                    throw ValidationError("\"\(entry)\" is not ROLE.FLAG=VALUE.")
                }
                return LabState.Setting(role: place[0], flag: place[1], value: parts[1])
            }
            for entry in image {
                let parts = entry.split(separator: "=", maxSplits: 1).map(String.init)
                guard parts.count == 2 else { throw ValidationError("\"\(entry)\" is not NAME=TARBALL.") }
                plan.images[parts[0]] = absolutePath(parts[1])
            }
            try await options.lab().up(plan, deadline: .seconds(deadline))
        }
    }

    struct Down: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Ends the lab and removes all that it made.")
        @OptionGroup var options: Options
        @Flag(help: "Keep the machines' directories.") var keepFiles = false

        func run() async throws { try await options.lab().down(keepingFiles: keepFiles) }
    }

    struct Status: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Shows the machines, who leads, and what is cut.")
        @OptionGroup var options: Options

        func run() async throws {
            let lab = options.lab()
            let state = try lab.state()
            for node in state.nodes {
                let power = state.isRunning(node.number) ? "on" : "off"
                let services = await lab.services(of: node.number, in: state)
                print("\(state.name(of: node.number))  \(state.address(of: node.number))  \(power)  \(services)")
            }
            for cut in state.cuts {
                let ports = cut.ports.isEmpty ? "" : " at port \(cut.ports.map(String.init).joined(separator: ", "))"
                print("cut: \(state.name(of: cut.from)) -> \(state.name(of: cut.to))\(ports)")
            }
            if state.usesZooKeeper { await LabCommand.printLeaders(state) }
        }
    }

    /// Straight from ZooKeeper, which knows better than those who lead.
    private static func printLeaders(_ lab: LabState) async {
        let places = [
            ("master", "/mesos-registry/mesos", "/mesos"), ("Marathon", "/marathon", nil),
            ("manager", "/holdfast/mdm", nil),
        ]
        for (title, path, masters) in places {
            do {
                let standings = try await StoreCommand.standings(
                    at: "zk://\(lab.zooKeeperServers)\(path)", masters: masters)
                for standing in standings { print(StoreCommand.line(title, standing)) }
            } catch {
                print("\(title): \(error)")
            }
        }
    }

    struct Kill: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Cuts a machine's power.")
        @OptionGroup var options: Options
        @Argument var node: String

        func run() async throws { try await options.lab().kill(node) }
    }

    struct Start: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Switches a machine on again.")
        @OptionGroup var options: Options
        @Argument var node: String

        func run() async throws { try await options.lab().start(node) }
    }

    struct Crash: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Kills the process in which a role runs (or dockerd, or sdc-keeper).")
        @OptionGroup var options: Options
        @Argument var node: String
        @Argument var role: String

        func run() async throws { try await options.lab().crash(node, role: role) }
    }

    struct Pause: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            abstract: "Makes the process in which a role runs stand still (SIGSTOP).")
        @OptionGroup var options: Options
        @Argument var node: String
        @Argument var role: String

        func run() async throws { try await options.lab().pause(node, role: role) }
    }

    struct Resume: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Lets a paused process go on.")
        @OptionGroup var options: Options
        @Argument var node: String
        @Argument var role: String

        func run() async throws { try await options.lab().resume(node, role: role) }
    }

    struct Partition: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Drops packets between two machines.")
        @OptionGroup var options: Options
        @Argument var node: String
        @Argument(help: "A machine, or \"all\".") var peer: String
        @Flag(help: "Only packets from the first to the second.") var oneWay = false
        @Option(
            name: .customLong("port"),
            help: "Only connections to this port, of either machine; \"all\" then means the machine itself too.")
        var ports: [Int] = []

        func run() async throws {
            try await options.lab().partition(node, from: peer, oneWay: oneWay, ports: ports)
        }
    }

    struct Heal: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Ends all partitions.")
        @OptionGroup var options: Options

        func run() async throws { try await options.lab().heal() }
    }

    struct Exec: AsyncParsableCommand {
        static let configuration = CommandConfiguration(abstract: "Runs a command inside a machine.")
        @OptionGroup var options: Options
        @Argument var node: String
        @Argument(parsing: .postTerminator, help: "The command, behind \"--\".") var command: [String]

        func run() async throws {
            guard !command.isEmpty else { throw ValidationError("No command is given.") }
            try replaceProcess(try options.lab().enter(node, command))
        }
    }
}

/// A line of a step list: seconds since its start, then what was done.
func printStep(_ step: String, since start: ContinuousClock.Instant) {
    let tenths = (ContinuousClock.now - start) / .milliseconds(100)
    let text = "\(Double(Int(tenths)) / 10)"
    print("\(String(repeating: " ", count: max(0, 6 - text.count)))\(text) s  \(step)")
    fflush(nil)
}

/// The disk of a lab's machine; started by its first process only.
struct LabDiskCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab-disk", abstract: "The disk of a lab's machine.", shouldDisplay: false)

    @Argument(help: "The file that holds what was flushed.") var file: String
    @Argument(help: "Where the disk is shown, as \"device\".") var directory: String
    @Option(help: "Bytes.") var size: UInt64 = 10 << 30

    func run() async throws {
        try await VolatileDisk.serve(file, size: size, in: directory, logger: Logger(label: "lab-disk"))
    }
}

/// The first process of a lab's machine; started by the lab only.
struct LabInitCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "lab-init", abstract: "The first process of a lab's machine.", shouldDisplay: false)

    @Argument var description: String

    func run() async throws { try await Machine(descriptionAt: description, logger: Logger(label: "lab-init")).run() }
}
