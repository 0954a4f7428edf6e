import AgentCore
import Base
import LinuxOS
import Logging
import MesosAPI
import SwiftProtobuf

/// An agent's memory on disk. Blocks: call it on a thread that may.
///
/// Messages are stored in protobuf's binary form. `task.updates` is a list of records, each a kind (1: update, 2:
/// acknowledged uuid), a 32-bit big-endian length, and so many bytes; a torn record at its end was never acted upon and
/// is cut off.
struct AgentStore: Sendable {
    let paths: AgentPaths

    private static let updateRecord: UInt8 = 1
    private static let acknowledgementRecord: UInt8 = 2
    private static let commandMarker = "command.marker"
    static let sentinel = "executor.sentinel"

    // MARK: Writing

    func write(_ checkpoint: AgentCore.Checkpoint, agent: String) throws {
        switch checkpoint {
        case .agent(let info):
            try DurableFile.write(try info.serializedBytes(), to: paths.agentInfo(info.id.value))
            try DurableFile.link(paths.latestAgent, to: info.id.value)
        case .framework(let info):
            let path = "\(paths.framework(agent, info.id.value))/framework.info"
            try DurableFile.write(try info.serializedBytes(), to: path)
        case .executor(let framework, let info, let container, let isCommand):
            let directory = paths.executor(agent, framework, info.executorID.value)
            try DurableFile.write(try info.serializedBytes(), to: "\(directory)/executor.info")
            let run = paths.run(agent, framework, info.executorID.value, container)
            try DurableFile.makeDirectory(run)
            if isCommand { try DurableFile.write([], to: "\(run)/\(AgentStore.commandMarker)") }
            try DurableFile.link("\(directory)/runs/latest", to: container)
        case .task(let framework, let executor, let container, let info):
            let directory = paths.task(agent, framework, executor, container, info.taskID.value)
            try DurableFile.write(try info.serializedBytes(), to: "\(directory)/task.info")
        case .update(let framework, let executor, let container, let status):
            let directory = paths.task(agent, framework, executor, container, status.taskID.value)
            let bytes: [UInt8] = try status.serializedBytes()
            try DurableFile.append(
                AgentStore.record(AgentStore.updateRecord, bytes), to: "\(directory)/task.updates")
        case .acknowledgement(let framework, let executor, let container, let task, let uuid):
            let directory = paths.task(agent, framework, executor, container, task)
            try DurableFile.append(
                AgentStore.record(AgentStore.acknowledgementRecord, uuid), to: "\(directory)/task.updates")
        }
    }

    private static func record(_ kind: UInt8, _ bytes: [UInt8]) -> [UInt8] {
        let length = UInt32(bytes.count)
        let header = [kind] + [24, 16, 8, 0].map { UInt8(truncatingIfNeeded: length >> UInt32($0)) }
        return header + bytes
    }

    /// The run is over and everything about it acknowledged: the next recovery passes it by.
    func retire(_ order: AgentCore.LaunchOrder) throws {
        try DurableFile.write([], to: "\(paths.run(order))/\(AgentStore.sentinel)")
    }

    /// The next start is that of a new agent.
    func forgetAgent() throws { try DurableFile.remove(paths.latestAgent) }

    func makeSandbox(_ order: AgentCore.LaunchOrder) throws {
        let sandbox = paths.sandbox(order)
        try DurableFile.makeDirectory(sandbox)
        try DurableFile.makeDirectory(paths.run(order))
        try DurableFile.link("\(DurableFile.parent(of: sandbox))/latest", to: order.container)
        let agents = "\(paths.workDirectory)/slaves"
        if DurableFile.linkTarget("\(agents)/latest") != order.agentID {
            try DurableFile.link("\(agents)/latest", to: order.agentID)
        }
    }

    // MARK: Reading

    /// What one run was, read from disk; its container is still to be looked at.
    struct Run {
        var framework: MesosFrameworkInfo
        var executor: MesosExecutorInfo
        var container: String
        var isCommand: Bool
        var tasks: [RecoveredState.Task]
    }

    struct Contents {
        var info: MesosAgentInfo?
        var frameworks: [MesosFrameworkInfo] = []
        var runs: [Run] = []
        /// What could not be read, and why.
        var errors: [String] = []
    }

    func read() -> Contents {
        var contents = Contents()
        guard let agent = DurableFile.linkTarget(paths.latestAgent) else { return contents }
        do {
            contents.info = try MesosAgentInfo(knownFieldsIn: readFile(paths.agentInfo(agent)))
        } catch {
            contents.errors.append("\(paths.agentInfo(agent)): \(error)")
            return contents
        }
        for id in directoryEntries(paths.frameworks(agent)).sorted() {
            do {
                let path = "\(paths.framework(agent, id))/framework.info"
                let framework = try MesosFrameworkInfo(knownFieldsIn: readFile(path))
                let runs = readRuns(agent, framework, &contents.errors)
                if !runs.isEmpty { contents.frameworks.append(framework) }
                contents.runs += runs
            } catch {
                contents.errors.append("framework \(id): \(error)")
            }
        }
        return contents
    }

    private func readRuns(_ agent: String, _ framework: MesosFrameworkInfo, _ errors: inout [String]) -> [Run] {
        var runs: [Run] = []
        let frameworkID = framework.id.value
        for id in directoryEntries(paths.executors(agent, frameworkID)).sorted() {
            let directory = paths.executor(agent, frameworkID, id)
            guard let container = DurableFile.linkTarget("\(directory)/runs/latest") else { continue }
            let run = paths.run(agent, frameworkID, id, container)
            if DurableFile.exists("\(run)/\(AgentStore.sentinel)") { continue }
            do {
                let info = try MesosExecutorInfo(knownFieldsIn: readFile("\(directory)/executor.info"))
                var tasks: [RecoveredState.Task] = []
                for task in directoryEntries("\(run)/tasks").sorted() {
                    // Without its description the task was never launched: that is written first.
                    guard DurableFile.exists("\(run)/tasks/\(task)/task.info") else { continue }
                    tasks.append(try readTask("\(run)/tasks/\(task)"))
                }
                let isCommand = DurableFile.exists("\(run)/\(AgentStore.commandMarker)")
                if tasks.isEmpty, isCommand { continue }
                runs.append(
                    Run(framework: framework, executor: info, container: container, isCommand: isCommand, tasks: tasks))
            } catch {
                errors.append("executor \(id): \(error)")
            }
        }
        return runs
    }

    private func readTask(_ directory: String) throws -> RecoveredState.Task {
        var task = RecoveredState.Task(info: try MesosTaskInfo(knownFieldsIn: readFile("\(directory)/task.info")))
        let path = "\(directory)/task.updates"
        guard DurableFile.exists(path) else { return task }
        let bytes = try readFile(path, limit: 1 << 30)
        var position = 0
        while bytes.count - position >= 5 {
            let length = bytes[position + 1..<position + 5].reduce(0) { $0 << 8 | Int($1) }
            guard bytes.count - position - 5 >= length else { break }
            let body = Array(bytes[position + 5..<position + 5 + length])
            switch bytes[position] {
            case AgentStore.updateRecord: task.updates.append(try MesosTaskStatus(knownFieldsIn: body))
            case AgentStore.acknowledgementRecord: task.acknowledged.append(body)
            default: throw AgentError(.storage, "\(path) has a record of unknown kind \(bytes[position])")
            }
            position += 5 + length
        }
        // What follows a torn record would be misread.
        if position < bytes.count { try DurableFile.write(Array(bytes[..<position]), to: path) }
        return task
    }
}
