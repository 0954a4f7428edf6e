import Base
import BlockCore

extension Simulation {
    enum FaultKind: CaseIterable {
        case serverCrash, anyCrash, powerFailure, everyServer, diesWriting, pause, longPause
        case oneWay, partition, clog
        case lonelyServer, deafPair, deafNode
        case diskError, slowDisk, bitRot, misdirectedWrite
        case managerCrash, commitFault, leaderChange, slowStore
        case wiped, lastCopy
        case allDieWriting
        case splitView, splitLeaders, unreadable

        /// Whether only some profiles know it.
        var isSpecial: Bool {
            [.wiped, .lastCopy, .allDieWriting, .splitView, .splitLeaders, .unreadable].contains(self)
        }
    }

    /// Each run knows only some kinds, so that some runs are all of a kind.
    func chooseFaults() {
        faultKinds = FaultKind.allCases.filter { !$0.isSpecial && Int.random(in: 0..<3, using: &random) > 0 }
        if options.profile == .quiet {
            faultKinds = [.diesWriting, .diesWriting, .diesWriting, .allDieWriting, .allDieWriting, .allDieWriting]
            faultKinds += [.serverCrash, .powerFailure, .everyServer, .lonelyServer]
        }
        if losesDisks { faultKinds += [.wiped, .lastCopy, .lastCopy, .lastCopy, .everyServer] }
        // These are where most rules are broken, if they are.
        faultKinds += [.lonelyServer, .deafPair]
        if Int.random(in: 0..<3, using: &random) == 0 { faultKinds += [.diesWriting, .diesWriting, .diesWriting] }
        if Int.random(in: 0..<3, using: &random) == 0 {
            faultKinds += [.bitRot, .bitRot, .bitRot, .misdirectedWrite, .misdirectedWrite]
        }
        // One kind of loss at a time: what is lost otherwise is not to be put down to the disks.
        if losesDisks || ![.busy, .lasting].contains(options.profile) {
            faultKinds.removeAll { $0 == .bitRot || $0 == .misdirectedWrite }
        }
        if options.profile == .shared { addSplits() }
    }

    /// Does one bad thing, and comes back for the next.
    func adversary() {
        if isHealed { return }
        if now < splitEnd { return heap.add(.adversary, at: splitEnd + delay(100, 500)) }
        heap.add(.adversary, at: now + pauseBetweenFaults())
        let until = now + delay(300, 7000)
        let kind = faultKinds.randomElement(using: &random) ?? .anyCrash
        switch kind {
        case .serverCrash, .anyCrash, .powerFailure, .everyServer, .diesWriting, .pause, .longPause:
            troubleProcesses(kind, until)
        case .oneWay, .partition, .clog, .lonelyServer, .deafPair, .deafNode: troubleNetwork(kind, until)
        case .diskError, .slowDisk, .bitRot, .misdirectedWrite: troubleDisk(kind, until)
        case .managerCrash, .commitFault, .leaderChange, .slowStore: troubleManager(kind, until)
        case .wiped: wipe(someServer)
        case .lastCopy: loseLastCopy()
        case .allDieWriting:
            let victim = someServer
            servers[victim]?.writesToLive = Int.random(in: 1...3, using: &random)
            servers[victim]?.takesAll = true
        case .splitView: splitView()
        case .splitLeaders: splitLeaders()
        case .unreadable: servers[someServer]?.failsNextRead = true
        }
    }

    /// In lasting runs mostly long enough to find the balance again, sometimes not.
    private func pauseBetweenFaults() -> Duration {
        guard options.profile == .lasting, Int.random(in: 0..<3, using: &random) > 0 else { return delay(100, 1500) }
        return delay(5000, 60_000)
    }

    /// Until a server that died is started again: in lasting runs sometimes so late that its data are elsewhere.
    private func absence(_ low: Double, _ high: Double) -> Duration {
        guard options.profile == .lasting, Int.random(in: 0..<4, using: &random) == 0 else { return delay(low, high) }
        return delay(5000, 90_000)
    }

    private var someServer: NodeID { serverIDs.randomElement(using: &random) ?? serverIDs[0] }
    private var someClient: NodeID { clientIDs.randomElement(using: &random) ?? clientIDs[0] }
    private var someone: NodeID { ([leader] + serverIDs + clientIDs).randomElement(using: &random) ?? leader }

    private func troubleProcesses(_ kind: FaultKind, _ until: Instant) {
        switch kind {
        case .serverCrash:
            let victim = someServer
            crash(victim)
            heap.add(.start(victim), at: now + absence(50, 6000))
        case .anyCrash:
            let victim = someone
            crash(victim)
            heap.add(.start(victim), at: now + absence(50, 4000))
        case .powerFailure:
            // The power fails for some, and is soon back: nobody has missed them.
            did("power failure of several")
            for victim in serverIDs + clientIDs where Bool.random(using: &random) {
                crash(victim)
                heap.add(.start(victim), at: now + delay(20, 450))
            }
        case .everyServer:
            did("every server restarted")
            let pause = Bool.random(using: &random) ? 300.0 : 4000.0
            for victim in serverIDs {
                crash(victim)
                heap.add(.start(victim), at: now + delay(20, pause))
            }
        case .diesWriting:
            // Mostly with what it could tell nobody.
            let victim = someServer
            servers[victim]?.writesToLive = Int.random(in: 1...3, using: &random)
            if Int.random(in: 0..<4, using: &random) > 0 {
                let end = now + delay(100, 1000)
                for peer in serverIDs where peer != victim { network.block(victim, peer, until: end) }
            }
        case .pause:
            let victim = someone
            did(managers[victim] != nil ? "manager pause" : servers[victim] != nil ? "server pause" : "client pause")
            pause(victim, until: until)
        default:
            // Declared down, it comes to as the primary it no longer is, and its clients may not have heard either.
            let (victim, client) = (someServer, someClient)
            let end = now + delay(2200, 6000)
            did("server pause beyond its timeout")
            pause(victim, until: end)
            if Bool.random(using: &random) {
                isolateFromManagers(client, end + delay(0, 2000))
                heap.add(.preempt(client), at: now + delay(10, 6000))
            }
        }
    }

    private func troubleNetwork(_ kind: FaultKind, _ until: Instant) {
        switch kind {
        case .oneWay:
            let (one, other) = somePair()
            did("one way cut, \(role(one)) to \(role(other))")
            network.block(one, other, until: until)
        case .partition:
            let (one, other) = somePair()
            did("cut between \([role(one), role(other)].sorted().joined(separator: " and "))")
            isolate(one, other, until)
        case .clog:
            let (one, other) = somePair()
            did("clogged, \(role(one)) to \(role(other))")
            network.clog(one, other, until: until)
        case .lonelyServer:
            did("server reached by clients only")
            let server = someServer
            isolateFromManagers(server, until)
            for peer in serverIDs where peer != server { isolate(server, peer, until) }
        case .deafPair:
            // A client and a server that both miss what the manager decides.
            did("client and server without manager")
            let (client, server) = (someClient, someServer)
            isolateFromManagers(client, until)
            isolateFromManagers(server, until)
            heap.add(.preempt(client), at: now + delay(10, 200))
        default:
            let one = Bool.random(using: &random) ? someServer : someClient
            did("\(role(one)) without manager")
            isolateFromManagers(one, until)
        }
    }

    private func troubleDisk(_ kind: FaultKind, _ until: Instant) {
        let victim = someServer
        switch kind {
        case .slowDisk:
            did("slow disk")
            servers[victim]?.slowUntil = until
        case .bitRot: for _ in 0..<Int.random(in: 1...4, using: &random) { rot() }
        case .misdirectedWrite: servers[victim]?.isMisdirecting = true
        default:
            servers[victim]?.operationsToError = Int.random(in: 0..<40, using: &random)
            heap.add(.restart(victim, life: life(victim)), at: now + delay(500, 8000))
        }
    }

    private func troubleManager(_ kind: FaultKind, _ until: Instant) {
        switch kind {
        case .managerCrash:
            crash(leader)
            heap.add(.start(managerIDs.randomElement(using: &random) ?? leader), at: now + delay(50, 4000))
        case .commitFault:
            managers[leader]?.nextCommit = CommitFault.allCases.dropFirst().randomElement(using: &random) ?? .none
        case .slowStore:
            did("slow store")
            store.slowUntil = until
        default:
            // With the former leader sometimes stopped in the middle of what it was doing.
            if Bool.random(using: &random) { pause(leader, until: until) }
            if let heir = managerIDs.first(where: { !isUp($0) }) { startNode(heir) }
        }
    }

    /// A server that is about to hand over what it leads reaches the others late, and a client that does not send again what
    /// was under way dies.
    func hamper(_ server: SdsID) {
        guard let id = serverIDs.first(where: { servers[$0]?.sds == server }) else { return }
        did("server slow to hand over")
        let until = now + delay(100, 900)
        for peer in serverIDs where peer != id { network.clog(id, peer, until: until) }
        for client in clientIDs where Bool.random(using: &random) {
            crash(client)
            heap.add(.start(client), at: now + delay(200, 2000))
        }
    }

    // MARK: Who and whom

    private func role(_ id: NodeID) -> String {
        managers[id] != nil ? "manager" : servers[id] != nil ? "server" : "client"
    }

    /// Two that talk to each other.
    private func somePair() -> (NodeID, NodeID) {
        let server = someServer
        let other = serverIDs.filter { $0 != server }.randomElement(using: &random) ?? server
        let pairs = [(leader, server), (leader, someClient), (server, someClient), (server, other)]
        let (one, two) = pairs.randomElement(using: &random) ?? (server, other)
        return Bool.random(using: &random) ? (one, two) : (two, one)
    }

    func isolate(_ one: NodeID, _ other: NodeID, _ until: Instant) {
        network.block(one, other, until: until)
        network.block(other, one, until: until)
    }

    func isolateFromManagers(_ one: NodeID, _ until: Instant) {
        for manager in managerIDs { isolate(one, manager, until) }
    }
}
