import FoundationEssentials
public import MesosAPI

extension MesosTaskStatus {
    /// The identity of this update; empty when it wants no acknowledgement.
    public var uuidBytes: [UInt8] {
        get { Array(uuid) }
        set { uuid = Data(newValue) }
    }

    var dataBytes: [UInt8] {
        get { Array(data) }
        set { data = Data(newValue) }
    }
}

extension ClusterMasterMessage.StatusUpdateAcknowledgement {
    var uuidBytes: [UInt8] { Array(uuid) }
}

extension ExecutorEvent.Acknowledged {
    var uuidBytes: [UInt8] {
        get { Array(uuid) }
        set { uuid = Data(newValue) }
    }
}

extension ExecutorEvent {
    static func message(_ data: ClusterMasterMessage.FrameworkMessage) -> ExecutorEvent {
        var event = ExecutorEvent()
        event.type = .message
        event.message.data = data.data
        return event
    }

    static func acknowledged(_ status: MesosTaskStatus) -> ExecutorEvent {
        var event = ExecutorEvent()
        event.type = .acknowledged
        event.acknowledged.taskID = status.taskID
        event.acknowledged.uuid = status.uuid
        return event
    }

    static func launch(_ task: MesosTaskInfo) -> ExecutorEvent {
        var event = ExecutorEvent()
        event.type = .launch
        event.launch.task = task
        return event
    }

    static func kill(_ message: ClusterMasterMessage.KillTask) -> ExecutorEvent {
        var event = ExecutorEvent()
        event.type = .kill
        event.kill.taskID = message.taskID
        if message.hasKillPolicy { event.kill.killPolicy = message.killPolicy }
        return event
    }

    static let shutdown: ExecutorEvent = {
        var event = ExecutorEvent()
        event.type = .shutdown
        return event
    }()
}

extension ClusterAgentMessage {
    init(_ kind: OneOf_Kind) {
        self.init()
        self.kind = kind
    }
}

/// `name` as wait status texts have it (`strsignal`).
public func signalName(_ number: Int32) -> String {
    let names: [Int32: String] = [
        1: "Hangup", 2: "Interrupt", 3: "Quit", 4: "Illegal instruction", 5: "Trace/breakpoint trap", 6: "Aborted",
        7: "Bus error", 8: "Floating point exception", 9: "Killed", 10: "User defined signal 1",
        11: "Segmentation fault", 12: "User defined signal 2", 13: "Broken pipe", 14: "Alarm clock", 15: "Terminated",
        24: "CPU time limit exceeded", 25: "File size limit exceeded", 31: "Bad system call",
    ]
    return names[number] ?? "Unknown signal \(number)"
}
