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
    struct State {
        var feed: BoundedFeed?
        var offers = 0
        var tasks: [String: MesosTaskState] = [:]
        var launched: [MesosTaskInfo] = []
        var acknowledged = 0
        var frameworkID: String?
        var subscriptions = 0
        var isSuppressed = false
    }
    let state = Mutex(State())

    func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        router.post("/api/v1/scheduler") { request, _ in
            let call = try MediaType.protobuf.decode(SchedulerCall.self, from: try await request.bytes())
            return self.take(call, request: request)
        }
        return router
    }

    private func take(_ call: SchedulerCall, request: Request) -> Response {
        guard call.type == .subscribe else {
            answer(call)
            return Response(status: .accepted)
        }
        let feed = BoundedFeed()
        state.withLock { state in
            state.feed = feed
            state.subscriptions += 1
            state.frameworkID = call.hasFrameworkID ? call.frameworkID.value : "framework-1"
        }
        var event = SchedulerEvent()
        event.type = .subscribed
        event.subscribed.frameworkID.value = state.withLock { $0.frameworkID ?? "" }
        event.subscribed.heartbeatIntervalSeconds = 15
        send(event)
        offer()
        return .stream(
            feed, request: request,
            headers: [.contentType: MediaType.protobuf.rawValue, HTTPField.Name("Mesos-Stream-Id")!: "stream"])
    }

    private func send(_ event: SchedulerEvent) {
        let feed = state.withLock { $0.feed }
        feed?.offer(RecordIO.encode(MediaType.protobuf.encode(event)))
    }

    /// Breaks the subscription, as a master that dies does.
    func disconnect() { state.withLock { $0.feed }?.finish() }

    func offer() {
        let number = state.withLock { state in
            state.offers += 1
            return state.offers
        }
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
        state.withLock { $0.tasks[task] = taskState }
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
                state.withLock { $0.launched.append(task) }
                update(task.taskID.value, .taskRunning)
            }
        case .kill:
            let task = call.kill.taskID.value
            if state.withLock({ $0.tasks[task] == .taskRunning }) { update(task, .taskKilled) }
        case .acknowledge: state.withLock { $0.acknowledged += 1 }
        case .reconcile:
            for task in call.reconcile.tasks {
                let known = state.withLock { $0.tasks[task.taskID.value] }
                update(task.taskID.value, known ?? .taskUnknown, uuid: false)
            }
        default: break
        }
    }

    var running: [String] { state.withLock { $0.tasks.filter { $0.value == .taskRunning }.keys.sorted() } }
}
