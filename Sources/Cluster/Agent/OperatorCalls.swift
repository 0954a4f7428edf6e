import AgentCore
import Base
import Containerizer
import FoundationEssentials
import HTTPKit
import HTTPTypes
import Hummingbird
import MesosAPI
import OrderedCollections

/// `POST /api/v1` of the agent: what reads it. Calls that would change something are not implemented and say so.
struct OperatorCalls {
    let agent: AgentService

    func perform(_ call: AgentCall) async throws -> AgentResponse? {
        guard call.hasType, call.type != .unknown else {
            throw HTTPFailure(.badRequest, text: "Failed to validate agent::Call: Expecting 'type' to be present")
        }
        var response = AgentResponse()
        switch call.type {
        case .getHealth:
            response.type = .getHealth
            response.getHealth.healthy = true
        case .getVersion:
            response.type = .getVersion
            response.getVersion.versionInfo.version = AgentConfiguration.version
        case .getFlags:
            response.type = .getFlags
            response.getFlags.flags = agent.configuration.flags.map { flag in
                var entry = MesosFlag()
                entry.name = flag.name
                entry.value = flag.value
                return entry
            }
        case .getMetrics:
            response.type = .getMetrics
            response.getMetrics.metrics = await agent.gauges().map { name, value in
                var metric = MesosMetric()
                metric.name = name
                metric.value = value
                return metric
            }
        case .getAgent:
            response.type = .getAgent
            response.getAgent.agentInfo = await agent.agentInfo
        case .getState:
            response.type = .getState
            response.getState.getTasks = await agent.tasks()
            response.getState.getExecutors = await agent.executors()
            response.getState.getFrameworks = await agent.frameworksAnswer()
        case .getTasks:
            response.type = .getTasks
            response.getTasks = await agent.tasks()
        case .getExecutors:
            response.type = .getExecutors
            response.getExecutors = await agent.executors()
        case .getFrameworks:
            response.type = .getFrameworks
            response.getFrameworks = await agent.frameworksAnswer()
        case .getContainers:
            response.type = .getContainers
            response.getContainers.containers = await agent.containersAnswer()
        case .listFiles, .readFile: try await readFiles(call, &response)
        default: throw HTTPFailure(.notImplemented, text: "The call \(call.type) is not implemented")
        }
        return response
    }

    private func readFiles(_ call: AgentCall, _ response: inout AgentResponse) async throws {
        let files = SandboxFiles(workDirectory: agent.configuration.workDirectory)
        if call.type == .listFiles {
            response.type = .listFiles
            let entries = try await files.browse(await agent.realPath(call.listFiles.path))
            response.listFiles.fileInfos = entries.map { entry in
                var info = MesosFileInfo()
                info.path = entry["path"]?.string ?? ""
                info.nlink = Int32(clamping: entry["nlink"]?.integer ?? 0)
                info.size = UInt64(clamping: entry["size"]?.integer ?? 0)
                info.uid = entry["uid"]?.string ?? ""
                info.gid = entry["gid"]?.string ?? ""
                info.mtime.nanoseconds = (entry["mtime"]?.integer ?? 0) * 1_000_000_000
                return info
            }
            return
        }
        response.type = .readFile
        let (size, bytes) = try await files.bytes(
            await agent.realPath(call.readFile.path), offset: Int(clamping: call.readFile.offset),
            length: call.readFile.hasLength ? Int(clamping: call.readFile.length) : SandboxFiles.pageMax)
        response.readFile.size = UInt64(size)
        response.readFile.data = Data(bytes)
    }
}

extension AgentService {
    var agentInfo: MesosAgentInfo {
        var info = core.configuration.info
        if let id = core.agentID { info.id.value = id }
        return info
    }

    func tasks() -> AgentResponse.GetTasks {
        var answer = AgentResponse.GetTasks()
        for (id, framework) in core.frameworks {
            for executor in framework.executors.values {
                for record in executor.tasks.values {
                    let task = core.describe(record, framework: id, executor: executor)
                    if record.state == .taskStaging {
                        answer.queuedTasks.append(task)
                    } else if record.state.isTerminal {
                        answer.terminatedTasks.append(task)
                    } else {
                        answer.launchedTasks.append(task)
                    }
                }
            }
        }
        for framework in Array(core.frameworks.values) + core.completedFrameworks {
            for executor in framework.completed {
                answer.completedTasks += executor.tasks.values.map {
                    core.describe($0, framework: framework.info.id.value, executor: executor)
                }
            }
        }
        return answer
    }

    func executors() -> AgentResponse.GetExecutors {
        var answer = AgentResponse.GetExecutors()
        let wrap = { (record: ExecutorRecord) in
            var entry = AgentResponse.GetExecutors.Executor()
            entry.executorInfo = record.info
            return entry
        }
        answer.executors = core.frameworks.values.flatMap { $0.executors.values.map(wrap) }
        answer.completedExecutors = core.frameworks.values.flatMap { $0.completed.map(wrap) }
        return answer
    }

    func frameworksAnswer() -> AgentResponse.GetFrameworks {
        var answer = AgentResponse.GetFrameworks()
        let wrap = { (record: FrameworkRecord) in
            var entry = AgentResponse.GetFrameworks.Framework()
            entry.frameworkInfo = record.info
            return entry
        }
        answer.frameworks = core.frameworks.values.map(wrap)
        answer.completedFrameworks = core.completedFrameworks.map(wrap)
        return answer
    }

    func containersAnswer() async -> [AgentResponse.GetContainers.Container] {
        var answer: [AgentResponse.GetContainers.Container] = []
        for (id, runner) in runners.sorted(by: { $0.key < $1.key }) {
            guard let (key, executor) = core.executor(ofContainer: id) else { continue }
            var container = AgentResponse.GetContainers.Container()
            container.frameworkID.value = key.framework
            container.executorID.value = key.executor
            container.executorName = executor.info.name
            container.containerID.value = id
            container.containerStatus = containerStatus(executor)
            if let statistics = await runner.containerizer.statistics(runner.spec) {
                container.resourceStatistics = statistics
            }
            answer.append(container)
        }
        return answer
    }
}
