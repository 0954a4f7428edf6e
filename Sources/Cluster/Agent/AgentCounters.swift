/// What an agent counts since its start, under Mesos' flat names in `/metrics/snapshot`.
struct AgentCounters: Sendable {
    var launchErrors = 0
    var validStatusUpdates = 0
    var invalidStatusUpdates = 0
}
