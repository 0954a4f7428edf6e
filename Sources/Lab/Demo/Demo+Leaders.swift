import Base

// The worst machine to lose: the one that leads everything and runs the app.
extension Demo {
    /// What is elected, each kind on its own.
    enum Office: String, CaseIterable {
        case master
        case marathon = "Marathon"
        case manager
    }

    /// Brings the app and the leading master, Marathon and manager onto one machine, and cuts its power.
    /// - Returns: seconds from the kill to the keys answered from another machine.
    @discardableResult
    public func killLeaders() async throws -> Duration {
        report.title("The death of the machine that leads everything")
        let target = try await report.step("the app runs on a machine that may lead", { try await standingNode() }) {
            "node\($0)"
        }
        for office in Office.allCases {
            try await report.step("node\(target) holds the leading \(office.rawValue)") {
                try await until("node\(target) leads", deadline: .seconds(120)) {
                    if try await leader(office) == target { return true }
                    try await move(office, to: target)
                    return nil
                }
            }
        }
        // What moved the offices may have stopped a storage server for a moment.
        try await twoCopies("the volume has two copies")
        let began = ContinuousClock.now
        async let successions = successions(after: target, since: began)
        let failover = try await dieAndReturn(title: nil)
        for (office, duration) in try await successions {
            report.say("\(office.rawValue) killed -> another leads: \(report.seconds(duration))")
        }
        return failover
    }

    /// When each office was held by another machine.
    private func successions(
        after dead: Int, since began: ContinuousClock.Instant
    ) async throws -> [(Office, Duration)] {
        try await withThrowingTaskGroup(of: (Office, Duration).self) { group in
            for office in Office.allCases {
                group.addTask {
                    _ = try await until("another \(office.rawValue) leads", deadline: .seconds(120)) {
                        try await self.leader(office) != dead ? true : nil
                    }
                    return (office, ContinuousClock.now - began)
                }
            }
            var result: [(Office, Duration)] = []
            for try await entry in group { result.append(entry) }
            return result.sorted { $0.0.rawValue < $1.0.rawValue }
        }
    }

    /// The app's machine, once it is one of those that stand for leadership.
    private func standingNode() async throws -> Int {
        for _ in 0..<10 {
            let instance = try await answering()
            let node = try node(of: instance)
            if controlNodes.contains(node) { return node }
            let container = try await container(on: instance)
            _ = try await checked(instance, ["docker", "stop", container], deadline: .seconds(40))
            _ = try await keysAnswered(after: instance)
        }
        throw ScenarioFailure("the app never came to a machine that may lead")
    }

    private func leader(_ office: Office) async throws -> Int? {
        let address =
            switch office {
            case .master: try await cluster.leadingMaster()
            case .marathon: try await cluster.leadingMarathon()
            case .manager: try await cluster.leadingManager()
            }
        return machines.nodes.first { machines.address(of: $0) == address }
    }

    /// One move that takes the office from whoever has it, or gives it to the target.
    private func move(_ office: Office, to target: Int) async throws {
        guard let present = try await leader(office) else { return }
        switch office {
        case .master:
            // Masters know no way to give way but to end; the supervisor starts them again.
            try await machines.crash(present, role: "master")
        case .marathon: try await cluster.abdicateMarathon()
        case .manager:
            _ = try await checked(node: target, cluster.login)
            _ = try await checked(
                node: target,
                ["scli", "--switch_mdm_ownership", "--new_master_mdm_ip", machines.address(of: target)])
        }
        _ = try await until("node\(present) leads no longer", deadline: .seconds(60)) {
            let now = try await leader(office)
            return now != nil && now != present ? true : nil
        }
    }
}
