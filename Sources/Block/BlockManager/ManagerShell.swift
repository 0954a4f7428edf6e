import Base
import BlockCore
import BlockIO
import Glibc
import Logging

/// Performs the actions of one `ManagerCore` on a reactor: control connections and the tickets of commands. Commits go
/// out through `commit` and come back as `committed`.
///
/// Everything here runs on the reactor's thread. Without a core (not leading) connections are sent to the leader and
/// commands refused.
final class ManagerShell: ControlLinkOwner, @unchecked Sendable {
    // SAFETY: made before the reactor starts; used on its thread only from then on.
    typealias Reply = @Sendable (Result<ManagerReply, ManagerError>) -> Void

    /// Connections that may wait to be closed by who was sent away; more are closed at once.
    private static let redirectedMax = 1024

    private let reactor: Reactor
    private let logger: Logger
    /// Stores the mutations of leadership number `generation`.
    private let commit: (_ generation: UInt64, [StoreMutation]) -> Void
    private var core: ManagerCore?
    private(set) var generation: UInt64 = 0
    private var random = SystemRandomNumberGenerator()
    private var listener: Listener?
    private var links: [LinkID: ControlLink] = [:]
    /// Whoever was told that this manager does not lead. Closing first could cost them the word: what they sent
    /// meanwhile would be answered by a reset.
    private var redirected: [LinkID: ControlLink] = [:]
    /// Where the leader is told to be, when that is another manager.
    private var leader: String?
    private var nextLink: UInt64 = 1
    private var tickets: [Ticket: Reply] = [:]
    private var nextTicket: UInt64 = 1
    private var events: [ManagerEvent] = []
    private var isHandling = false
    private var isStopped = false
    /// Called with everything that an operator would want to know.
    var happened: (StorageEvent) -> Void = { _ in }

    init(on reactor: Reactor, logger: Logger, commit: @escaping (UInt64, [StoreMutation]) -> Void) {
        self.reactor = reactor
        self.logger = logger
        self.commit = commit
    }

    func start(listening descriptor: Int32, at address: SocketAddress) throws(BlockIOError) {
        listener = try Listener(descriptor, address: address, on: reactor) { [weak self] connection, peer in
            self?.accept(connection, peer: peer)
        }
        reactor.every(.milliseconds(50)) { [weak self] in
            guard let self, !self.isStopped else { return false }
            self.handle(.tick)
            return true
        }
    }

    func stop() {
        listener?.close()
        depose(ManagerError(.unavailable, "the manager is stopping"))
        isStopped = true
    }

    /// Leads from now on with what is stored; answers the number of this leadership.
    func lead(_ core: ManagerCore) -> UInt64 {
        depose(ManagerError(.notLeader, "the manager starts anew"))
        generation += 1
        self.core = core
        let number = generation
        handle(.tick)
        return number
    }

    /// Leads no longer: whoever waits is told, and all connections are closed so that their owners look for the new
    /// leader.
    func depose(_ error: ManagerError) {
        core = nil
        for link in links.values {
            link.send(.redirect(leader: leader))
            link.close(reason: error.message)
        }
        for link in redirected.values { link.close(reason: error.message) }
        links = [:]
        redirected = [:]
        let waiting = tickets.sorted { $0.key < $1.key }
        tickets = [:]
        for (_, reply) in waiting { reply(.failure(error)) }
    }

    /// Another manager leads at `address`; nil: nobody, or this one.
    func learn(leader address: String?) {
        leader = address
        guard core == nil, address != nil else { return }
        for link in redirected.values { link.send(.redirect(leader: address)) }
    }

    func state() -> Result<SystemState, ManagerError> {
        guard let core else { return .failure(ManagerError(.notLeader, "this manager does not lead")) }
        return .success(core.state)
    }

    func submit(_ command: ManagerCommand, _ reply: @escaping Reply) {
        guard core != nil else { return reply(.failure(ManagerError(.notLeader, "this manager does not lead"))) }
        let ticket = Ticket(rawValue: nextTicket)
        nextTicket += 1
        tickets[ticket] = reply
        handle(.submit(ticket, command))
    }

    func committed(_ generation: UInt64, succeeded: Bool) {
        guard generation == self.generation else { return }
        handle(succeeded ? .committed : .commitFailed)
    }

    // MARK: Connections

    private func accept(_ descriptor: Int32, peer: String) {
        do {
            let id = LinkID(rawValue: nextLink)
            nextLink += 1
            let link = try ControlLink(
                accepted: descriptor, peer: peer, id: id, on: reactor, owner: self, logger: logger)
            guard core != nil else { return redirect(link) }
            links[id] = link
            // The store may take its time until the welcome; a greeting tells now that somebody is in charge here.
            link.send(.keepAlive)
        } catch {
            logger.warning("control connection refused", metadata: ["peer": "\(peer)", "error": "\(error)"])
        }
    }

    private func redirect(_ link: ControlLink) {
        guard redirected.count < ManagerShell.redirectedMax else { return link.close(reason: "not leading") }
        let id = link.id
        redirected[id] = link
        link.send(.redirect(leader: leader))
        reactor.after(.seconds(1)) { [weak self] in self?.redirected[id]?.close(reason: "not leading") }
    }

    func connected(_ link: ControlLink) {}

    func arrived(_ frame: [UInt8], on link: ControlLink) throws(WireError) {
        let message = try ControlFrame.decodeToManager(frame)
        if links[link.id] != nil { handle(.message(link.id, message)) }
    }

    func closed(_ link: ControlLink, reason: String) {
        redirected[link.id] = nil
        guard links.removeValue(forKey: link.id) != nil else { return }
        logger.info("control connection closed", metadata: ["peer": "\(link.peer)", "reason": "\(reason)"])
        handle(.linkClosed(link.id))
    }

    // MARK: The core

    private func handle(_ event: ManagerEvent) {
        guard !isStopped else { return }
        events.append(event)
        guard !isHandling else { return }
        isHandling = true
        var position = 0
        while position < events.count {
            let next = events[position]
            position += 1
            for action in core?.apply(next, now: reactor.now, rng: &random) ?? [] { perform(action) }
        }
        events.removeAll(keepingCapacity: true)
        isHandling = false
    }

    private func perform(_ action: ManagerAction) {
        switch action {
        case .commit(let mutations): commit(generation, mutations)
        case .reply(let ticket, let result): tickets.removeValue(forKey: ticket)?(result)
        case .send(let id, let message): links[id]?.send(message)
        case .close(let id): links[id]?.close(reason: "closed by the manager")
        case .notice(let notice):
            tell(notice)
            var time = timespec()
            clock_gettime(CLOCK_REALTIME, &time)
            let milliseconds = UInt64(max(0, time.tv_sec)) * 1000 + UInt64(time.tv_nsec / 1_000_000)
            if let core, let event = notice.event(core.state, milliseconds: milliseconds) { happened(event) }
        }
    }

    private func tell(_ notice: ManagerNotice) {
        switch notice {
        case .serverRegistered(let id): logger.notice("server registered", metadata: ["sds.id": "\(id)"])
        case .serverUp(let id): logger.notice("server is up", metadata: ["sds.id": "\(id)"])
        case .hostRebooted(let id): logger.notice("server's host was started anew", metadata: ["sds.id": "\(id)"])
        case .serverDown(let id, let reason):
            logger.warning("server is down", metadata: ["sds.id": "\(id)", "reason": "\(reason)"])
        case .clientRegistered(let id): logger.notice("client registered", metadata: ["sdc.id": "\(id)"])
        case .deviceFailed(let id): logger.error("device failed", metadata: ["device.id": "\(id)"])
        case .combsDegraded(let count, let pool):
            logger.warning("combs degraded", metadata: ["count": "\(count)", "pool.id": "\(pool)"])
        case .combsUnavailable(let count, let pool):
            logger.error("combs unavailable", metadata: ["count": "\(count)", "pool.id": "\(pool)"])
        case .rebuildFinished(let pool): logger.notice("rebuild finished", metadata: ["pool.id": "\(pool)"])
        case .nodeMerged(let tree, let node):
            logger.info("node of snapshots merged", metadata: ["tree.id": "\(tree)", "node": "\(node)"])
        case .staleCopiesPromoted(let count, let pool, let lost):
            logger.critical(
                "older copies promoted by an operator",
                metadata: ["count": "\(count)", "pool.id": "\(pool)", "sds.id": "\(lost)"])
        case .volumeLostData(let id, let units):
            logger.critical("volume lost data", metadata: ["volume.id": "\(id)", "units": "\(units)"])
        case .dataLossCleared(let id):
            logger.notice("data loss mark cleared by an operator", metadata: ["volume.id": "\(id)"])
        case .serverRemoved(let id): logger.notice("server removed", metadata: ["sds.id": "\(id)"])
        case .damageFound(let id, let blocks):
            logger.error("blocks damaged", metadata: ["device.id": "\(id)", "blocks": "\(blocks)"])
        case .damageMended(let id, let blocks):
            logger.notice("blocks mended", metadata: ["device.id": "\(id)", "blocks": "\(blocks)"])
        case .deviceRemoved(let id): logger.notice("device removed", metadata: ["device.id": "\(id)"])
        case .maintenanceEntered(let id): logger.notice("server is in maintenance", metadata: ["sds.id": "\(id)"])
        case .maintenanceLeft(let id): logger.notice("maintenance of server ended", metadata: ["sds.id": "\(id)"])
        case .serverOscillates(let id, let count):
            logger.warning("server oscillates", metadata: ["sds.id": "\(id)", "count": "\(count)"])
        case .fenced(let proof):
            let entries = proof.entries.map { "\($0.sds) \($0.evidence)" }.joined(separator: ", ")
            logger.notice(
                "older rights proven fenced",
                metadata: [
                    "volume.id": "\(proof.volume)", "attach.epoch": "\(proof.attachEpoch)", "proof": "\(entries)",
                    "seconds": "\(proof.elapsed.inSeconds)",
                ])
        case .connectionRefused(let link, let error):
            logger.warning(
                "introduction refused",
                metadata: ["peer": "\(links[link]?.peer ?? "closed")", "error": "\(error)"])
        }
    }
}
