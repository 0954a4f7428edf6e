/// The life of one volume as a device of the kernel's NBD client.
///
/// Invariants: at most one command is under way. A device that was connected is disconnected before the end. After
/// `withdraw` no command but that follows. `gone` comes once, and after `withdraw` only.
struct KernelNBDCore {
    enum Event: Equatable {
        /// The volume is there, and with it perhaps the device that a predecessor of this process left.
        case attach(existing: UInt32?)
        /// `connect` has ended; with the device's index when it succeeded.
        case connected(error: Int32, index: UInt32?)
        case reconnected(error: Int32)
        case resized(error: Int32)
        case disconnected(error: Int32)
        /// The kernel closed our socket. `wasUsed`: after it had asked for something on it.
        case linkLost(wasUsed: Bool)
        /// The wait that was asked for is over.
        case retry
        /// The volume has another size.
        case grown
        /// The volume is gone; it fails all requests by now.
        case withdraw
    }

    enum Command: Equatable {
        /// Takes any free device, with a new socket.
        case connect
        /// Gives the device a new socket, and the size of now.
        case reconnect(UInt32)
        case resize(UInt32)
        case disconnect(UInt32)
    }

    enum Action: Equatable {
        /// Ends with `connected`, `reconnected`, `resized` or `disconnected`.
        case perform(Command)
        /// Ends with `retry`.
        case wait(Duration)
        /// The device is there.
        case show(UInt32)
        case hide
        case report(Trouble)
        /// Nothing is left.
        case gone
    }

    enum Trouble: Equatable {
        /// The kernel refused what is needed for a device: there is none until the volume is mapped again.
        case noDevice(error: Int32)
        /// What a predecessor left cannot be used; a new device takes its place.
        case notTakenOver(UInt32, error: Int32)
        case notResized(error: Int32)
        case notDisconnected(error: Int32)
        /// Requests wait until the kernel takes a new socket.
        case linkLost(UInt32)
        /// Somebody else has disconnected the device.
        case takenAway(UInt32, error: Int32)
    }

    /// Longest wait before a socket is offered again.
    static let retryMax = Duration.seconds(5)
    /// About as long as the kernel waits for it.
    static let attemptsMax = 40

    private enum State: Equatable {
        case new
        case connecting
        /// With a predecessor's device, or with ours when it had lost its socket.
        case reconnecting(UInt32)
        case live(UInt32)
        case resizing(UInt32)
        case waiting(UInt32)
        case disconnecting
        /// Without a device for good.
        case broken
        case gone
    }

    private var state = State.new
    private var isShown = false
    private var isWithdrawn = false
    private var hasGrown = false
    private var hasLostLink = false
    /// Sockets offered in a row that the kernel did not use.
    private var attempts = 0

    mutating func apply(_ event: Event, into actions: inout [Action]) {
        switch event {
        case .attach(let existing):
            precondition(state == .new, "attached twice")
            if let existing {
                begin(.reconnect(existing), .reconnecting(existing), &actions)
            } else {
                begin(.connect, .connecting, &actions)
            }
        case .connected(let error, let index): connected(error, index, &actions)
        case .reconnected(let error): reconnected(error, &actions)
        case .resized(let error):
            guard case .resizing(let index) = state else { preconditionFailure("resized in \(state)") }
            if error != 0 { actions.append(.report(.notResized(error: error))) }
            settle(index, &actions)
        case .disconnected(let error):
            precondition(state == .disconnecting, "disconnected in \(state)")
            if error != 0 { actions.append(.report(.notDisconnected(error: error))) }
            finish(&actions)
        case .linkLost(let wasUsed): linkLost(wasUsed, &actions)
        case .retry:
            guard case .waiting(let index) = state else { return }
            begin(.reconnect(index), .reconnecting(index), &actions)
        case .grown:
            hasGrown = true
            if case .live(let index) = state { settle(index, &actions) }
        case .withdraw: withdraw(&actions)
        }
    }

    private mutating func begin(_ command: Command, _ next: State, _ actions: inout [Action]) {
        state = next
        // A socket comes with the size of now.
        switch command {
        case .connect, .reconnect:
            hasLostLink = false
            hasGrown = false
        case .resize: hasGrown = false
        case .disconnect: break
        }
        actions.append(.perform(command))
    }

    private mutating func connected(_ error: Int32, _ index: UInt32?, _ actions: inout [Action]) {
        precondition(state == .connecting, "connected in \(state)")
        guard error == 0, let index else {
            actions.append(.report(.noDevice(error: error)))
            return breakDown(&actions)
        }
        settle(index, &actions)
    }

    private mutating func reconnected(_ error: Int32, _ actions: inout [Action]) {
        guard case .reconnecting(let index) = state else { preconditionFailure("reconnected in \(state)") }
        if error == 0 { return settle(index, &actions) }
        if isShown {
            actions.append(.report(.takenAway(index, error: error)))
            return breakDown(&actions)
        }
        actions.append(.report(.notTakenOver(index, error: error)))
        if isWithdrawn { return breakDown(&actions) }
        begin(.connect, .connecting, &actions)
    }

    /// No command is under way and the device is there: does what has come up meanwhile.
    private mutating func settle(_ index: UInt32, _ actions: inout [Action]) {
        if isWithdrawn {
            begin(.disconnect(index), .disconnecting, &actions)
            return
        }
        state = .live(index)
        if !isShown {
            isShown = true
            actions.append(.show(index))
        }
        if hasLostLink {
            awaitRetry(index, &actions)
        } else if hasGrown {
            begin(.resize(index), .resizing(index), &actions)
        }
    }

    private mutating func linkLost(_ wasUsed: Bool, _ actions: inout [Action]) {
        if wasUsed { attempts = 0 }
        switch state {
        case .connecting, .reconnecting, .resizing: hasLostLink = true
        case .live(let index):
            if !isWithdrawn { awaitRetry(index, &actions) }
        case .new, .waiting, .disconnecting, .broken, .gone: break
        }
    }

    private mutating func awaitRetry(_ index: UInt32, _ actions: inout [Action]) {
        if attempts == 0 { actions.append(.report(.linkLost(index))) }
        guard attempts < KernelNBDCore.attemptsMax else {
            // The kernel has failed all requests by now.
            actions.append(.report(.takenAway(index, error: 0)))
            hide(&actions)
            begin(.disconnect(index), .disconnecting, &actions)
            return
        }
        state = .waiting(index)
        let delay = min(.milliseconds(100) * (1 << min(attempts, 10)), KernelNBDCore.retryMax)
        attempts += 1
        actions.append(.wait(delay))
    }

    private mutating func withdraw(_ actions: inout [Action]) {
        guard !isWithdrawn else { return }
        isWithdrawn = true
        hide(&actions)
        switch state {
        case .live(let index), .waiting(let index): begin(.disconnect(index), .disconnecting, &actions)
        case .new, .broken: finish(&actions)
        case .connecting, .reconnecting, .resizing, .disconnecting, .gone: break
        }
    }

    private mutating func hide(_ actions: inout [Action]) {
        guard isShown else { return }
        isShown = false
        actions.append(.hide)
    }

    /// There is no device any more.
    private mutating func breakDown(_ actions: inout [Action]) {
        hide(&actions)
        finish(&actions)
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
