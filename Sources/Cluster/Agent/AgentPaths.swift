import AgentCore
import MesosAPI

/// Where things lie under an agent's work directory, as Mesos lays it out.
struct AgentPaths: Sendable {
    let workDirectory: String

    var bootID: String { "\(workDirectory)/meta/boot_id" }
    var agents: String { "\(workDirectory)/meta/slaves" }
    var latestAgent: String { "\(agents)/latest" }

    func agent(_ id: String) -> String { "\(agents)/\(id)" }
    func agentInfo(_ id: String) -> String { "\(agent(id))/slave.info" }
    func frameworks(_ agent: String) -> String { "\(self.agent(agent))/frameworks" }
    func framework(_ agent: String, _ id: String) -> String { "\(frameworks(agent))/\(id)" }
    func executors(_ agent: String, _ framework: String) -> String {
        "\(self.framework(agent, framework))/executors"
    }
    func executor(_ agent: String, _ framework: String, _ id: String) -> String {
        "\(executors(agent, framework))/\(id)"
    }
    func run(_ agent: String, _ framework: String, _ executor: String, _ container: String) -> String {
        "\(self.executor(agent, framework, executor))/runs/\(container)"
    }
    func task(_ agent: String, _ framework: String, _ executor: String, _ container: String, _ id: String) -> String {
        "\(run(agent, framework, executor, container))/tasks/\(id)"
    }

    /// The directory that the task sees as its own.
    func sandbox(_ agent: String, _ framework: String, _ executor: String, _ container: String) -> String {
        "\(sandboxRuns(agent, framework, executor))/\(container)"
    }
    func sandboxRuns(_ agent: String, _ framework: String, _ executor: String) -> String {
        "\(workDirectory)/slaves/\(agent)/frameworks/\(framework)/executors/\(executor)/runs"
    }

    func sandbox(_ order: AgentCore.LaunchOrder) -> String {
        sandbox(order.agentID, order.framework.id.value, order.executor.executorID.value, order.container)
    }
    func run(_ order: AgentCore.LaunchOrder) -> String {
        run(order.agentID, order.framework.id.value, order.executor.executorID.value, order.container)
    }
}
