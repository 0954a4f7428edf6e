import Base
public import BlockCore
public import Logging

/// The control connection of a server or a client to the leading manager: connects, and connects again when it breaks,
/// trying the managers in turn with a growing pause.
///
/// Silence of the manager for `silenceMax` counts as a break: a host that vanished sends no reset.
public final class ManagerLink: ControlLinkOwner {
    private static let pauseMin = Duration.milliseconds(50)
    private static let pauseMax = Duration.seconds(1)
    private static let silenceMax = Duration.seconds(3)

    private let managers: [SocketAddress]
    private let reactor: Reactor
    private let logger: Logger
    private var link: ControlLink?
    private var nextManager = 0
    private var pause = ManagerLink.pauseMin
    private var isUp = false
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
        reactor.every(.milliseconds(500)) { [weak self] in self?.watchSilence() ?? false }
    }

    public func stop() {
        isStopped = true
        link?.close(reason: "stopping")
    }

    public func send(_ message: MessageToManager) {
        if isUp { link?.send(message) }
    }

    private func watchSilence() -> Bool {
        if isUp && reactor.now - lastHeard > ManagerLink.silenceMax { link?.close(reason: "the manager is silent") }
        return !isStopped
    }

    private func connect() {
        guard !isStopped else { return }
        let address = managers[nextManager % managers.count]
        nextManager += 1
        nextLink += 1
        do {
            link = try ControlLink(
                to: address, id: LinkID(rawValue: nextLink), on: reactor, owner: self, logger: logger)
        } catch {
            logger.debug("manager not reached", metadata: ["manager": "\(address)", "error": "\(error)"])
            retry()
        }
    }

    private func retry() {
        reactor.after(pause) { [weak self] in self?.connect() }
        pause = min(pause * 2, ManagerLink.pauseMax)
    }

    public func connected(_ link: ControlLink) {
        isUp = true
        lastHeard = reactor.now
        logger.info("connected to the manager", metadata: ["manager": "\(link.peer)"])
        opened()
    }

    public func arrived(_ frame: [UInt8], on link: ControlLink) throws(WireError) {
        let message = try ControlFrame.decodeFromManager(frame)
        lastHeard = reactor.now
        pause = ManagerLink.pauseMin
        received(message)
    }

    public func closed(_ link: ControlLink, reason: String) {
        self.link = nil
        if isUp {
            isUp = false
            logger.notice("lost the manager", metadata: ["reason": "\(reason)"])
            broken()
        }
        if !isStopped { retry() }
    }
}
