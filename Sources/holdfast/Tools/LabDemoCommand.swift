import ArgumentParser
import Lab
import LinuxOS

/// The white paper's demonstration on a lab that is up.
struct LabDemoCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "demo", abstract: "The white paper's demonstration, and the death of the machine on top of it.")

    @OptionGroup var options: LabCommand.Options
    @Option(help: "The app document that is deployed.") var app = "examples/redis.json"
    @Option(
        parsing: .upToNextOption,
        help: ArgumentHelp(
            "The acts: stop (deploy, write, docker stop), kill (the app's machine loses power), leaders (so does the one "
                + "that also leads everything; not for labs with --store embedded), isolate (the app's machine is cut off "
                + "from all others, still writing), zombie (from master and manager only, still writing; only for labs with "
                + "--store embedded)."))
    var acts: [Act] = [.stop, .kill]

    enum Act: String, ExpressibleByArgument, CaseIterable { case stop, kill, leaders, isolate, zombie }

    func run() async throws {
        let document = try await offPool { [app] in try readFile(app) }
        // The lab's own steps would repeat the demo's.
        let lab = Lab(directory: absolutePath(options.dir))
        let usesZooKeeper = try lab.state().usesZooKeeper
        // With ZooKeeper a cut between two machines may move leaderships, to the cut machine too.
        for act in acts where act == (usesZooKeeper ? .zombie : .leaders) {
            throw ValidationError(
                "The act \(act.rawValue) is not for a lab \(usesZooKeeper ? "with" : "without") ZooKeeper.")
        }
        let machines = try LabMachines(lab)
        let login = ["scli", "--login", "--username", "admin", "--password", NodeTemplate.gatewayPassword]
        let session = try await machines.execute(on: 1, login, deadline: .seconds(20))
        guard session.isSuccess else {
            throw ValidationError("scli --login: \(session.errorText)\(session.outputText)")
        }

        let demo = Demo(
            machines: machines, report: StepReport(), controlNodes: try lab.state().leaders,
            password: NodeTemplate.gatewayPassword)
        for act in acts {
            switch act {
            case .stop: try await demo.deployAndStop(document: document)
            case .kill: try await demo.killMachine()
            case .leaders: try await demo.killLeaders()
            case .isolate: try await demo.cutOff(from: nil, title: "Cut off from every other machine, still writing")
            case .zombie:
                try await demo.cutOff(from: [1], title: "Cut off from master and manager only, still writing")
            }
        }
    }
}
