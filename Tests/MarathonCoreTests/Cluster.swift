import Base
import MarathonCore

/// A master and agents by script: takes the core's actions and answers as a cluster would, one step at a time.
struct Cluster {
    var core: SchedulerCore
    var rng = SeededRandom(seed: 7)
    var now = Instant.zero + .seconds(1)
    /// Agent by task; tasks appear here when their launch is accepted.
    var tasks: [String: Task] = [:]
    var launchOrder: [String] = []
    var agents: [String]
    /// Agents that are silent: they take no kill and send nothing.
    var silent: Set<String> = []
    var events: [Event] = []
    var written: [String: JSONValue] = [:]
    var revives = 0
    /// Tasks that were asked for by explicit reconciliation.
    var inquiries: [String] = []
    var probes: [Probe] = []
    var acknowledged = 0
    private var request: UInt64 = 0
    private var offerCount = 0
    /// The most tasks that were alive at once, per app.
    var peak: [AppID: Int] = [:]
    var startsWhileOldAlive = 0

    struct Task {
        var launch: Launch
        var state: TaskState
    }

    init(agents: Int = 3, configuration: CoreConfiguration = CoreConfiguration(), records: [String: JSONValue]? = nil) {
        self.agents = (1...agents).map { "agent-\($0)" }
        if let records {
            let list = records.sorted { $0.key < $1.key }.map { (key: $0.key, value: $0.value) }
            core = try! SchedulerCore(configuration: configuration, records: list)
            written = records
        } else {
            core = SchedulerCore(configuration: configuration)
        }
        apply(.connected)
    }

    mutating func apply(_ input: Input) {
        _ = collect(core.apply(input, now: now, rng: &rng))
    }

    @discardableResult
    private mutating func collect(_ actions: [Action]) -> Result<CommandReply, CommandError>? {
        var result: Result<CommandReply, CommandError>?
        for action in actions {
            switch action {
            case .persist(let writes): for write in writes { written[write.key] = write.value }
            case .reply(_, let reply): result = reply
            case .accept(_, _, let launches):
                for launch in launches {
                    tasks[launch.instance.taskID] = Task(launch: launch, state: .staging)
                    launchOrder.append(launch.instance.taskID)
                    let alive = tasks.values.filter { !$0.state.isTerminal && $0.launch.app.id == launch.app.id }.count
                    peak[launch.app.id] = max(peak[launch.app.id] ?? 0, alive)
                }
            case .decline, .suppress: continue
            case .reconcile(let tasks): inquiries += tasks.map(\.taskID)
            case .revive: revives += 1
            case .kill(let task, _):
                if let agent = tasks[task]?.launch.instance.agentID, !silent.contains(agent) {
                    pendingKills.append(task)
                }
            case .acknowledge: acknowledged += 1
            case .probe(let probe): probes.append(probe)
            case .publish(let event): events.append(event)
            }
        }
        return result
    }
    private var pendingKills: [String] = []

    mutating func submit(_ command: Command) throws(CommandError) -> CommandReply {
        request += 1
        guard let result = collect(core.apply(.command(command, request: request), now: now, rng: &rng)) else {
            preconditionFailure("every command is answered at once")
        }
        return try result.get()
    }

    @discardableResult
    mutating func create(_ text: String) throws -> String {
        try deployment(.change([AppChange(.create, document: try JSONValue(parsing: text))], force: false))
    }

    @discardableResult
    mutating func update(_ id: String, _ text: String, force: Bool = false) throws -> String {
        let change = AppChange(
            .update(isPartial: true, mustExist: false), id: AppID(id), document: try JSONValue(parsing: text))
        return try deployment(.change([change], force: force))
    }

    mutating func deployment(_ command: Command) throws(CommandError) -> String {
        guard case .deployment(let id, _, _, _) = try submit(command) else { preconditionFailure("no deployment") }
        return id
    }

    mutating func pass(_ duration: Duration) {
        now = now + duration
        apply(.tick)
    }

    func offer(_ agent: String, cpus: Double = 8, mem: Double = 4096, attributes: [AgentOffer.Attribute] = [])
        -> AgentOffer
    {
        AgentOffer(
            id: "offer-\(agent)-\(offerCount)", agentID: agent, hostname: agent,
            resources: [
                .init(name: "cpus", amount: .scalar(cpus)), .init(name: "mem", amount: .scalar(mem)),
                .init(name: "disk", amount: .scalar(10_000)), .init(name: "ports", amount: .ranges([31000...32000])),
            ], attributes: attributes)
    }

    mutating func offerAll() {
        offerCount += 1
        apply(.offers(agents.filter { !silent.contains($0) }.map { offer($0) }))
    }

    mutating func report(_ task: String, _ state: TaskState, message: String = "") {
        guard let agent = tasks[task]?.launch.instance.agentID else { return }
        tasks[task]?.state = state
        var report = TaskReport(taskID: task, agentID: agent, state: state, uuid: [1])
        report.message = message
        apply(.report(report))
    }

    /// Delivers kills, starts what is staging, makes offers; repeated until the core wants nothing more.
    mutating func settle(rounds: Int = 50) {
        for _ in 0..<rounds {
            let kills = pendingKills
            pendingKills = []
            for task in kills where tasks[task]?.state.isTerminal == false { report(task, .killed) }
            for task in launchOrder where tasks[task]?.state == .staging {
                if !silent.contains(tasks[task]?.launch.instance.agentID ?? "") { report(task, .running) }
            }
            pass(.milliseconds(200))
            offerAll()
        }
    }

    var running: [Task] { launchOrder.compactMap { tasks[$0] }.filter { $0.state == .running } }
    func types() -> [String] { events.map(\.type) }
}

let redis = """
    {
      "id": "redis",
      "container": {
        "docker": {
          "image": "redis",
          "network": "BRIDGE",
          "portMappings": [
            { "containerPort": 6379, "hostPort": 0, "protocol": "tcp" }
          ],
          "parameters": [
            { "key": "volume-driver", "value": "REX-Ray" },
            { "key": "volume", "value": "redis-data:/data" }
          ]
        }
      },
      "args": ["redis-server", "--appendonly", "yes"],
      "cpus": 0.2,
      "mem": 32.0,
      "instances": 1
    }
    """

func spec(_ text: String, rules: SpecRules = SpecRules()) throws -> AppSpec {
    try AppSpec(parsing: JSONValue(parsing: text), rules: rules)
}
