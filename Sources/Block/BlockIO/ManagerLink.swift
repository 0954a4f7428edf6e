import Base
public import BlockCore
public import Logging

/// The control connection of a server or a client to the leading manager: connects, and connects again when it breaks,
/// trying the managers in turn. A manager that does not lead names the one that does, which is tried at once.
///
/// A host that vanished sends no reset and a stopped process lets connect: silence counts as a break.
public final class ManagerLink: ControlLinkOwner {
    private static let pauseMin = Duration.milliseconds(50)
    private static let pauseMax = Duration.seconds(1)
    /// Short, since the next manager may be the one that leads.
    private static let connectPatience = Duration.milliseconds(600)
    /// A manager greets whoever connects, before anything has to be stored.
    private static let greetingPatience = Duration.seconds(1)
    private static let silenceMax = Duration.seconds(3)
    /// Managers that name each other lead nowhere.
    private static let redirectsMax = 3

    private let managers: [SocketAddress]
    private let reactor: Reactor
    private let logger: Logger
    private var link: ControlLink?
    private var nextManager = 0
    /// Named by a manager that does not lead itself.
    private var leader: SocketAddress?
    private var redirects = 0
    /// Attempts since a manager last led us, and whether any manager answered in this round of them.
    private var attempts = 0
    private var isAnswered = false
    private var pause = ManagerLink.pauseMin
    private var isUp = false
    /// Something was heard on this connection that only a leader says.
    private var isLed = false
    private var isStopped = false
    private var lastHeard = Reactor.now
    private var nextLink: UInt64 = 1

    public var opened: () -> Void = {}
    public var broken: () -> Void = {}
    public var received: (MessageFromManager) -> Void = { _ in }

    /// - Parameter managers: resolved addresses, at least one.
    public init(_ managers: [SocketAddress], on reactor: Reactor, logger: Logger) {
        precondition(!managers.isEmpty, "a manager's address is required")
        self.managers = managers
        self.reactor = reactor
        self.logger = logger
    }

    /// On the reactor's thread.
    public func start() {
        connect()
        reactor.every(.milliseconds(250)) { [weak self] in self?.watchSilence() ?? false }
    }

    public func stop() {
        isStopped = true
        link?.close(reason: "stopping")
    }

    public func send(_ message: MessageToManager) {
        if isUp { link?.send(message) }
    }

    private func watchSilence() -> Bool {
        let patience = isLed ? ManagerLink.silenceMax : ManagerLink.greetingPatience
        if isUp && reactor.now - lastHeard > patience { link?.close(reason: "the manager is silent") }
        return !isStopped
    }

    private func connect() {
        guard !isStopped else { return }
        let address: SocketAddress
        if let leader {
            address = leader
        } else {
            address = managers[nextManager % managers.count]
            nextManager += 1
        }
        leader = nil
        nextLink += 1
        do {
            link = try ControlLink(
                to: address, id: LinkID(rawValue: nextLink), on: reactor, owner: self, logger: logger,
                patience: ManagerLink.connectPatience)
        } catch {
            logger.debug("manager not reached", metadata: ["manager": "\(address)", "error": "\(error)"])
            retry()
        }
    }

    /// After a whole round in which nobody answered, rounds become slower: everything is down or this host cut off.
    /// While managers answer that none of them leads, an election is under way and worth asking for often.
    private func retry() {
        attempts += 1
        if attempts % managers.count == 0 {
            pause = isAnswered ? ManagerLink.pauseMin : min(pause * 2, ManagerLink.pauseMax)
            isAnswered = false
        }
        reactor.after(pause) { [weak self] in self?.connect() }
    }

    public func connected(_ link: ControlLink) {
        isUp = true
        isLed = false
        lastHeard = reactor.now
        opened()
    }

    public func arrived(_ frame: [UInt8], on link: ControlLink) throws(WireError) {
        let message = try ControlFrame.decodeFromManager(frame)
        // What a link still says whose end is decided is not news any more.
        guard link === self.link else { return }
        lastHeard = reactor.now
        isAnswered = true
        if case .redirect(let text) = message {
            if let text, redirects < ManagerLink.redirectsMax, case .inet(let host, let port)? = SocketAddress(text) {
                leader = .inet(host: host, port: port)
                redirects += 1
            }
            return link.close(reason: "it does not lead, \(text ?? "nobody known") does")
        }
        if !isLed {
            isLed = true
            redirects = 0
            attempts = 0
            pause = ManagerLink.pauseMin
            logger.info("connected to the manager", metadata: ["manager": "\(link.peer)"])
        }
        received(message)
    }

    public func closed(_ link: ControlLink, reason: String) {
        guard link === self.link else { return }
        self.link = nil
        if isLed { logger.notice("lost the manager", metadata: ["reason": "\(reason)"]) }
        isLed = false
        if isUp {
            isUp = false
            broken()
        }
        guard !isStopped else { return }
        if leader != nil { return connect() }
        redirects = 0
        retry()
    }
}
