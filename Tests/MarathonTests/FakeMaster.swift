import Base
import FoundationEssentials
import HTTPKit
import HTTPTypes
import Hummingbird
import Logging
import MesosAPI
import Synchronization

/// The scheduler API of a master with one agent, over real HTTP: offers whenever it is asked to, runs what is launched
/// at once, kills what it is told to kill.
final class FakeMaster: Sendable {
    /// What becomes of launches.
    enum Launching {
        case running
        /// They run, but nobody is told until asked.
        case silent
        /// They are lost on their way.
        case lost
    }
    struct State {
        var feed: BoundedFeed?
        var launching = Launching.running
        var offers = 0
        /// No further offer is made beyond this number.
        var offersMax = Int.max
        /// Calls of schedulers that another has replaced.
        var refused = 0
        /// Updates that nobody has acknowledged; sent again to every new subscriber.
        var unacknowledged: [String: MesosTaskState] = [:]
        /// What ends the next subscription.
        var fault: String?
        var tasks: [String: MesosTaskState] = [:]
        var launched: [MesosTaskInfo] = []
        var acknowledged = 0
        var frameworkID: String?
        var subscriptions = 0
        var isSuppressed = false
        /// Where subscribers are sent instead of being taken.
        var redirection: HTTPAddress?
        var redirected = 0
        /// How often a sign of life was asked for.
        var heartbeats = 0
        /// Nothing is answered or sent any more, and nothing closed, as by a master behind a cut wire.
        var isMute = false
    }
    let state = Mutex(State())

    func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        router.post("/api/v1/scheduler") { request, _ in
            let call = try MediaType.protobuf.decode(SchedulerCall.self, from: try await request.bytes())
            if self.state.withLock({ $0.isMute }) {
                // What came in meanwhile is lost: whoever sent it has long given up.
                while self.state.withLock({ $0.isMute }) { try await Task.sleep(for: .milliseconds(20)) }
                return Response(status: .serviceUnavailable)
            }
            if call.type == .subscribe, let redirection = self.state.withLock({ $0.redirection }) {
                self.state.withLock { $0.redirected += 1 }
                return Response(status: .temporaryRedirect, headers: [.location: "//\(redirection)/api/v1/scheduler"])
            }
            return self.take(call, request: request)
        }
        return router
    }

    private static let streamID = HTTPField.Name("Mesos-Stream-Id")!

    private func take(_ call: SchedulerCall, request: Request) -> Response {
        guard call.type == .subscribe else {
            let isCurrent = state.withLock { state in
                let isCurrent = request.headers[FakeMaster.streamID] == "stream-\(state.subscriptions)"
                if !isCurrent { state.refused += 1 }
                return isCurrent
            }
            guard isCurrent else { return Response(status: .badRequest) }
            answer(call)
            return Response(status: .accepted)
        }
        sendError("Framework failed over")
        disconnect()
        let feed = BoundedFeed()
        let number = state.withLock { $0.subscriptions + 1 }
        feed.onEnd { [weak self] in self?.state.withLock { if $0.subscriptions == number { $0.feed = nil } } }
        let (unacknowledged, fault) = state.withLock { state in
            state.feed = feed
            state.subscriptions += 1
            state.frameworkID = call.hasFrameworkID ? call.frameworkID.value : "framework-\(state.subscriptions)"
            return (state.unacknowledged, state.fault)
        }
        let response = Response.stream(
            feed, request: request,
            headers: [.contentType: MediaType.protobuf.rawValue, FakeMaster.streamID: "stream-\(number)"])
        if let fault {
            sendError(fault)
            return response
        }
        var event = SchedulerEvent()
        event.type = .subscribed
        event.subscribed.frameworkID.value = state.withLock { $0.frameworkID ?? "" }
        event.subscribed.heartbeatIntervalSeconds = 15
        send(event)
        for (task, taskState) in unacknowledged.sorted(by: { $0.key < $1.key }) { update(task, taskState) }
        offer()
        return response
    }

    private func sendError(_ message: String) {
        var event = SchedulerEvent()
        event.type = .error
        event.error.message = message
        send(event)
    }

    private func send(_ event: SchedulerEvent) {
        let feed = state.withLock { $0.isMute ? nil : $0.feed }
        feed?.offer(RecordIO.encode(MediaType.protobuf.encode(event)))
    }

    /// Breaks the subscription, as a master that dies does.
    func disconnect() {
        let feed = state.withLock { $0.feed }
        feed?.finish()
    }

    func offer() {
        let number: Int? = state.withLock { state in
            guard state.offers < state.offersMax else { return nil }
            state.offers += 1
            return state.offers
        }
        guard let number else { return }
        var offer = MesosOffer()
        offer.id.value = "offer-\(number)"
        offer.frameworkID.value = state.withLock { $0.frameworkID ?? "" }
        offer.agentID.value = "agent-1"
        offer.hostname = "127.0.0.1"
        for (name, amount) in [("cpus", 4.0), ("mem", 1024), ("disk", 1024)] {
            var resource = MesosResource()
            resource.name = name
            resource.type = .scalar
            resource.role = "*"
            resource.scalar.value = amount
            offer.resources.append(resource)
        }
        var ports = MesosResource()
        ports.name = "ports"
        ports.type = .ranges
        ports.role = "*"
        var range = MesosValue.Range()
        range.begin = 31000
        range.end = 31100
        ports.ranges.range = [range]
        offer.resources.append(ports)
        var event = SchedulerEvent()
        event.type = .offers
        event.offers.offers = [offer]
        send(event)
    }

    func update(_ task: String, _ taskState: MesosTaskState, uuid: Bool = true) {
        state.withLock { state in
            state.tasks[task] = taskState
            if uuid { state.unacknowledged[task] = taskState }
        }
        var event = SchedulerEvent()
        event.type = .update
        event.update.status.taskID.value = task
        event.update.status.agentID.value = "agent-1"
        event.update.status.state = taskState
        if uuid { event.update.status.uuid = Data(repeating: 7, count: 16) }
        send(event)
    }

    private func answer(_ call: SchedulerCall) {
        switch call.type {
        case .revive:
            state.withLock { $0.isSuppressed = false }
            offer()
        case .suppress: state.withLock { $0.isSuppressed = true }
        case .accept:
            for task in call.accept.operations.flatMap(\.launch.taskInfos) {
                let launching = state.withLock { state in
                    state.launched.append(task)
                    if state.launching == .silent { state.tasks[task.taskID.value] = .taskRunning }
                    return state.launching
                }
                if launching == .running { update(task.taskID.value, .taskRunning) }
            }
        case .kill:
            let task = call.kill.taskID.value
            if state.withLock({ $0.tasks[task] == .taskRunning }) { update(task, .taskKilled) }
        case .acknowledge:
            state.withLock { state in
                state.acknowledged += 1
                state.unacknowledged[call.acknowledge.taskID.value] = nil
            }
        case .reconcile:
            for task in call.reconcile.tasks {
                if task.agentID.value != "agent-1" { state.withLock { $0.heartbeats += 1 } }
                let known = state.withLock { $0.tasks[task.taskID.value] }
                update(task.taskID.value, known ?? .taskUnknown, uuid: false)
            }
        default: break
        }
    }

    var isSubscribed: Bool { state.withLock { $0.feed != nil } }

    var running: [String] { state.withLock { $0.tasks.filter { $0.value == .taskRunning }.keys.sorted() } }
}
