/// The ids of Mesos are messages with one string; these make them as short to write as the string.
public protocol MesosID: Hashable, Sendable, Comparable, CustomStringConvertible {
    init()
    var value: String { get set }
}

extension MesosID {
    public init(_ value: String) {
        self.init()
        self.value = value
    }

    public static func < (left: Self, right: Self) -> Bool { left.value < right.value }

    public var description: String { value }
}

extension MesosFrameworkID: MesosID {}
extension MesosOfferID: MesosID {}
extension MesosAgentID: MesosID {}
extension MesosTaskID: MesosID {}
extension MesosExecutorID: MesosID {}
extension MesosResourceProviderID: MesosID {}
extension MesosOperationID: MesosID {}
extension MesosContainerID: MesosID {}

/// What is wrong with an id that a user chose (task, executor, persistence id); nil if nothing. Ids become directory
/// names.
public func idFault(_ id: String) -> String? {
    if id.isEmpty { return "ID must not be empty" }
    if id.utf8.count > 255 { return "ID must not be greater than 255 characters" }
    if id == "." || id == ".." { return "'\(id)' is disallowed" }
    for scalar in id.unicodeScalars where scalar.value < 0x20 || scalar.value == 0x7F || scalar == "/" || scalar == "\\"
    {
        return "'\(id)' contains invalid characters"
    }
    return nil
}

extension MesosTaskState {
    /// No update can follow: the task's resources are free.
    public var isTerminal: Bool {
        switch self {
        case .taskFinished, .taskFailed, .taskKilled, .taskError, .taskLost, .taskDropped, .taskGone,
            .taskGoneByOperator:
            true
        case .taskStaging, .taskStarting, .taskRunning, .taskKilling, .taskUnreachable, .taskUnknown: false
        }
    }
}

extension MesosFrameworkInfo {
    public func has(_ capability: MesosFrameworkInfo.Capability.TypeEnum) -> Bool {
        capabilities.contains { $0.type == capability }
    }

    /// The roles the framework is subscribed to, whichever field carries them, in the order given.
    public var subscribedRoles: [String] { has(.multiRole) ? roles : [role] }
}
