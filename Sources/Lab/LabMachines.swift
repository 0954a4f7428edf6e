public import LinuxOS

/// The machines of a lab as scenarios drive them.
public struct LabMachines: Machines {
    let lab: Lab
    public let nodes: [Int]
    private let network: LabState

    /// - Parameter lab: one that is up.
    public init(_ lab: Lab) throws(LabError) {
        self.lab = lab
        network = try lab.state()
        nodes = network.nodes.map(\.number)
    }

    public func address(of node: Int) -> String { network.address(of: node) }

    public func execute(on node: Int, _ arguments: [String], deadline: Duration) async throws -> CommandResult {
        try await lab.run(network.name(of: node), arguments, deadline: deadline)
    }

    public func kill(_ node: Int) async throws { try await lab.kill(network.name(of: node)) }

    public func start(_ node: Int) async throws { try await lab.start(network.name(of: node)) }

    public func crash(_ node: Int, role: String) async throws {
        try await lab.crash(network.name(of: node), role: role)
    }

    public func partition(_ first: Int, _ second: Int) async throws {
        try await lab.partition(network.name(of: first), from: network.name(of: second))
    }

    public func heal() async throws { try await lab.heal() }
}
