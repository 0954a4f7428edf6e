public import LinuxOS

/// What a scenario does to the machines of a lab. Nodes are numbered from 1.
public protocol Machines: Sendable {
    /// The nodes, running or not, ascending.
    var nodes: [Int] { get }
    /// The node's address on the lab's network.
    func address(of node: Int) -> String
    /// Runs a program inside a node; answers also for a failing status.
    func execute(on node: Int, _ arguments: [String], deadline: Duration) async throws -> CommandResult
    /// Power loss: the link goes down first, so that no FIN or RST leaks out, then everything in the node dies at once.
    func kill(_ node: Int) async throws
    /// Starts a killed node and waits until its roles answer.
    func start(_ node: Int) async throws
    /// Kills the process in which a role runs; the node's supervisor starts it again.
    func crash(_ node: Int, role: String) async throws
    /// Drops all packets between two nodes, in both directions.
    func partition(_ first: Int, _ second: Int) async throws
    /// Undoes every partition.
    func heal() async throws
}

/// Why a scenario did not go as it must.
public struct ScenarioFailure: Error, CustomStringConvertible {
    public var description: String
    init(_ description: String) { self.description = description }
}

/// Repeats `attempt` every `interval` until it answers a value; throws with the last reason after `deadline`.
func until<Value>(
    _ what: String, deadline: Duration = .seconds(60), interval: Duration = .milliseconds(100),
    _ attempt: () async throws -> Value?
) async throws -> Value {
    let end = ContinuousClock.now + deadline
    var reason = "never true"
    while ContinuousClock.now < end {
        do {
            if let value = try await attempt() { return value }
        } catch let error as CancellationError {
            throw error
        } catch {
            reason = "\(error)"
        }
        try await Task.sleep(for: interval)
    }
    throw ScenarioFailure("\(what): not within \(deadline) (\(reason))")
}
