import ArgumentParser

/// The names under which the executable answers as another tool.
enum MultiCall {
    static let tools: [String: any AsyncParsableCommand.Type] = [
        "mesos-master": MasterCommand.self,
        "mesos-agent": AgentCommand.self,
        "mesos-slave": AgentCommand.self,
        "rexray": RexrayCommand.self,
        "scli": ScliCommand.self,
        "drv_cfg": DrvCfgCommand.self,
    ]

    /// The command that `arguments[0]` names, and its arguments.
    static func resolve(_ arguments: [String]) -> (any AsyncParsableCommand.Type, [String]) {
        let name = arguments.first?.split(separator: "/").last.map(String.init) ?? ""
        return (tools[name] ?? Holdfast.self, Array(arguments.dropFirst()))
    }
}
