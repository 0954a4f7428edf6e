import Glibc

/// The life of one volume as a ublk device.
///
/// Invariants: at most one command is under way. A device that was added, or found, is stopped and deleted before the
/// end, but not before its channel is closed. `gone` comes once, and after `withdraw` only.
struct UblkDeviceCore {
    enum Event: Equatable {
        /// The volume is there, and with it perhaps the device that a predecessor of this process left.
        case attach(existing: UInt32?)
        /// The command under way has ended; `add` with the number of the device.
        case finished(error: Int32, device: UInt32?)
        /// The channel is open and its tags are offered, or it could not be opened.
        case opened(error: Int32)
        /// The kernel has given all tags back.
        case queueOver
        /// The kernel does not take our commands on the channel.
        case queueFault(Int32)
        /// The wait of this number is over.
        case retry(Int)
        /// The volume has another size.
        case grown
        /// The volume is gone; it fails all requests by now.
        case withdraw
    }

    enum Command: Equatable, Sendable {
        case add
        case setParameters(UInt32)
        /// Ends when all tags were offered.
        case start(UInt32)
        case startRecovery(UInt32)
        /// Ends when all tags were offered.
        case endRecovery(UInt32)
        /// To the size of now.
        case updateSize(UInt32)
        /// Ends when no request is under way.
        case stop(UInt32)
        case delete(UInt32)
    }

    enum Action: Equatable {
        /// Ends with `finished`.
        case perform(Command)
        /// Ends with `opened`.
        case openChannel(UInt32)
        case closeChannel
        /// Everything that is being served fails, and what comes later too.
        case failRequests
        /// Ends with `retry` of this number.
        case wait(Duration, Int)
        /// The device is there.
        case show(UInt32)
        case hide
        case report(Trouble)
        /// Nothing is left.
        case gone
    }

    enum Trouble: Equatable {
        /// The kernel refused what is needed for a device: there is none until the volume is mapped again.
        case noDevice(Command?, error: Int32)
        /// What a predecessor left cannot be used; a new device takes its place.
        case notTakenOver(UInt32, error: Int32)
        case notResized(error: Int32)
        case notStopped(error: Int32)
        case notDeleted(error: Int32)
        /// The kernel does not give all tags back.
        case notDrained
        /// Somebody else has stopped the device, or the kernel refuses our commands.
        case lost(error: Int32)
    }

    /// How often a device is asked for whose former server the kernel has not buried yet, and how long between.
    static let recoveryAttemptsMax = 150
    static let recoveryPause = Duration.milliseconds(200)
    /// How long a stopped device may take to give its tags back.
    static let drainPatience = Duration.seconds(5)

    private enum State: Equatable {
        case new
        case adding
        case setting(UInt32)
        case awaitingRecovery(UInt32)
        case startingRecovery(UInt32)
        case opening(UInt32)
        case starting(UInt32)
        case live(UInt32)
        case resizing(UInt32)
        case stopping(UInt32)
        case draining(UInt32)
        case deleting
        /// Without a device for good.
        case broken
        case gone
    }

    private let canResize: Bool
    private var state = State.new
    private var isShown = false
    private var isWithdrawn = false
    private var isRecovering = false
    private var hasGrown = false
    private var hasChannel = false
    private var isQueueOver = false
    private var fault: Int32?
    /// A new device follows the one that is being removed.
    private var isReplaced = false
    private var attempts = 0
    private var waits = 0

    /// - Parameter canResize: the kernel has UPDATE_SIZE.
    init(canResize: Bool) { self.canResize = canResize }

    mutating func apply(_ event: Event, into actions: inout [Action]) {
        switch event {
        case .attach(let existing):
            precondition(state == .new, "attached twice")
            if let existing {
                isRecovering = true
                begin(.startRecovery(existing), .startingRecovery(existing), &actions)
            } else {
                begin(.add, .adding, &actions)
            }
        case .finished(let error, let device): finished(error, device, &actions)
        case .opened(let error): opened(error, &actions)
        case .queueOver: queueOver(&actions)
        case .queueFault(let error):
            fault = error
            if case .live(let device) = state { settle(device, &actions) }
        case .retry(let number): if number == waits { retry(&actions) }
        case .grown:
            hasGrown = true
            if case .live(let device) = state { settle(device, &actions) }
        case .withdraw: withdraw(&actions)
        }
    }

    private mutating func begin(_ command: Command, _ next: State, _ actions: inout [Action]) {
        state = next
        actions.append(.perform(command))
    }

    private mutating func wait(_ delay: Duration, _ next: State, _ actions: inout [Action]) {
        state = next
        waits += 1
        actions.append(.wait(delay, waits))
    }

    // MARK: The way up

    private mutating func finished(_ error: Int32, _ device: UInt32?, _ actions: inout [Action]) {
        switch state {
        case .adding:
            guard error == 0, let device else {
                actions.append(.report(.noDevice(.add, error: error)))
                return finish(&actions)
            }
            // The parameters have the size of now.
            hasGrown = false
            if isWithdrawn { return remove(device, &actions) }
            begin(.setParameters(device), .setting(device), &actions)
        case .setting(let device):
            if error != 0 { return giveUp(device, .setParameters(device), error, &actions) }
            open(device, &actions)
        case .startingRecovery(let device): recoveryStarted(device, error, &actions)
        case .starting(let device):
            if error != 0 { return giveUp(device, .start(device), error, &actions) }
            // A recovered device has the size that its former server knew.
            if isRecovering && canResize { hasGrown = true }
            settle(device, &actions)
        case .resizing(let device):
            if error != 0 { actions.append(.report(.notResized(error: error))) }
            settle(device, &actions)
        case .stopping(let device):
            if error != 0 { actions.append(.report(.notStopped(error: error))) }
            drain(device, &actions)
        case .deleting:
            if error != 0 { actions.append(.report(.notDeleted(error: error))) }
            deleted(&actions)
        case .new, .awaitingRecovery, .opening, .live, .draining, .broken, .gone:
            preconditionFailure("a command ended in \(state)")
        }
    }

    private mutating func recoveryStarted(_ device: UInt32, _ error: Int32, _ actions: inout [Action]) {
        if isWithdrawn { return remove(device, &actions) }
        if error == 0 { return open(device, &actions) }
        // The kernel still holds the channel of a process that is dying.
        if error == EBUSY, attempts < UblkDeviceCore.recoveryAttemptsMax {
            attempts += 1
            return wait(UblkDeviceCore.recoveryPause, .awaitingRecovery(device), &actions)
        }
        giveUp(device, nil, error, &actions)
    }

    private mutating func open(_ device: UInt32, _ actions: inout [Action]) {
        if isWithdrawn { return remove(device, &actions) }
        state = .opening(device)
        actions.append(.openChannel(device))
    }

    private mutating func opened(_ error: Int32, _ actions: inout [Action]) {
        guard case .opening(let device) = state else { preconditionFailure("opened in \(state)") }
        if error != 0 { return giveUp(device, nil, error, &actions) }
        hasChannel = true
        if isWithdrawn { return remove(device, &actions) }
        begin(isRecovering ? .endRecovery(device) : .start(device), .starting(device), &actions)
    }

    /// No command is under way and the device is live: does what has come up meanwhile.
    private mutating func settle(_ device: UInt32, _ actions: inout [Action]) {
        if isWithdrawn { return remove(device, &actions) }
        if isQueueOver || fault != nil {
            actions.append(.report(.lost(error: fault ?? ENODEV)))
            return remove(device, &actions)
        }
        state = .live(device)
        if !isShown {
            isShown = true
            actions.append(.show(device))
        }
        guard hasGrown else { return }
        hasGrown = false
        if canResize {
            begin(.updateSize(device), .resizing(device), &actions)
        } else {
            actions.append(.report(.notResized(error: EOPNOTSUPP)))
        }
    }

    /// What is needed for a device failed: a predecessor's is replaced by a new one, a new one is not.
    private mutating func giveUp(_ device: UInt32, _ command: Command?, _ error: Int32, _ actions: inout [Action]) {
        if isRecovering {
            actions.append(.report(.notTakenOver(device, error: error)))
            isReplaced = true
        } else {
            actions.append(.report(.noDevice(command, error: error)))
        }
        remove(device, &actions)
    }

    // MARK: The way down

    private mutating func withdraw(_ actions: inout [Action]) {
        guard !isWithdrawn else { return }
        isWithdrawn = true
        switch state {
        case .live(let device), .awaitingRecovery(let device): remove(device, &actions)
        // The kernel looks for partitions while it starts a device, and waits for our answers.
        case .starting, .resizing:
            hide(&actions)
            failRequests(&actions)
        case .new, .broken: finish(&actions)
        case .adding, .setting, .startingRecovery, .opening, .stopping, .draining, .deleting, .gone: break
        }
    }

    private mutating func hide(_ actions: inout [Action]) {
        guard isShown else { return }
        isShown = false
        actions.append(.hide)
    }

    private mutating func failRequests(_ actions: inout [Action]) {
        if hasChannel { actions.append(.failRequests) }
    }

    /// First the requests fail, then the device stops: the kernel waits for them.
    private mutating func remove(_ device: UInt32, _ actions: inout [Action]) {
        hide(&actions)
        failRequests(&actions)
        begin(.stop(device), .stopping(device), &actions)
    }

    private mutating func drain(_ device: UInt32, _ actions: inout [Action]) {
        if hasChannel && !isQueueOver {
            return wait(UblkDeviceCore.drainPatience, .draining(device), &actions)
        }
        delete(device, &actions)
    }

    private mutating func queueOver(_ actions: inout [Action]) {
        isQueueOver = true
        switch state {
        case .draining(let device): delete(device, &actions)
        case .live(let device): settle(device, &actions)
        case .new, .adding, .setting, .awaitingRecovery, .startingRecovery, .opening, .starting, .resizing, .stopping,
            .deleting, .broken, .gone:
            break
        }
    }

    private mutating func retry(_ actions: inout [Action]) {
        switch state {
        case .awaitingRecovery(let device): begin(.startRecovery(device), .startingRecovery(device), &actions)
        case .draining(let device):
            actions.append(.report(.notDrained))
            delete(device, &actions)
        case .new, .adding, .setting, .startingRecovery, .opening, .starting, .live, .resizing, .stopping, .deleting,
            .broken, .gone:
            break
        }
    }

    private mutating func delete(_ device: UInt32, _ actions: inout [Action]) {
        if hasChannel { actions.append(.closeChannel) }
        hasChannel = false
        isQueueOver = false
        fault = nil
        begin(.delete(device), .deleting, &actions)
    }

    private mutating func deleted(_ actions: inout [Action]) {
        guard isReplaced, !isWithdrawn else { return finish(&actions) }
        isReplaced = false
        isRecovering = false
        begin(.add, .adding, &actions)
    }

    private mutating func finish(_ actions: inout [Action]) {
        guard isWithdrawn else {
            state = .broken
            return
        }
        state = .gone
        actions.append(.gone)
    }
}
