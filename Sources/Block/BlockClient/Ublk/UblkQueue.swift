import Glibc

/// The requests of one ublk device: which tags the kernel has, and which we serve.
///
/// Invariants: a tag is offered to the kernel, served by us, or ended, and only what is served is committed, once. A
/// tag whose command was aborted is never offered again. `over` comes once, when every tag has ended.
struct UblkQueue {
    /// What requests must respect.
    struct Limits: Equatable {
        var size: UInt64
        var blockSize: Int
        var isReadOnly: Bool
    }

    enum Request: Equatable {
        case read(at: UInt64, count: Int)
        case write(at: UInt64, count: Int)
        case flush
        case discard(at: UInt64, count: UInt64)
        case zeroes(at: UInt64, count: UInt64)
    }

    enum Event: Equatable {
        /// The channel is open.
        case start
        /// A tag came back from the kernel: with a request, or with an `errno`.
        case fetched(Int, error: Int32, Ublk.Descriptor?)
        /// The device has done what a tag's request asks for, or failed with an `errno`.
        case served(Int, error: Int32)
        /// The volume is gone: what is being served fails now, and everything else as it comes.
        case withdraw
    }

    enum Action: Equatable {
        case fetch(Int)
        /// `result`: bytes transferred, or a negative `errno`.
        case commit(Int, result: Int32)
        /// Ends with `served`.
        case serve(Int, Request)
        /// The kernel refuses commands for a reason that is not the device's end.
        case fault(Int32)
        /// The kernel has given every tag back for good.
        case over
    }

    private enum Slot: Equatable {
        case idle
        case offered
        /// With the bytes that it transfers.
        case served(Int32)
        case ended
    }

    private var slots: [Slot]
    private var ended = 0
    private var isWithdrawn = false
    /// A tag has been aborted: the others follow, however their commands end.
    private var isEnding = false

    init(depth: Int) { slots = [Slot](repeating: .idle, count: depth) }

    /// Whether the device still works for this tag.
    func isServed(_ tag: Int) -> Bool {
        if case .served = slots[tag] { return !isWithdrawn }
        return false
    }

    mutating func apply(_ event: Event, _ limits: Limits, into actions: inout [Action]) {
        switch event {
        case .start:
            for tag in slots.indices {
                precondition(slots[tag] == .idle, "a queue starts once")
                slots[tag] = .offered
                actions.append(.fetch(tag))
            }
        case .fetched(let tag, let error, let descriptor):
            precondition(slots[tag] == .offered, "a tag came back twice")
            guard error == 0, let descriptor else { return end(tag, error, &actions) }
            take(tag, descriptor, limits, &actions)
        case .served(let tag, let error):
            // What was withdrawn has its answer already.
            if isWithdrawn { return }
            guard case .served(let bytes) = slots[tag] else { preconditionFailure("a request ended twice") }
            commit(tag, error == 0 ? bytes : -error, &actions)
        case .withdraw:
            guard !isWithdrawn else { return }
            isWithdrawn = true
            for tag in slots.indices {
                if case .served = slots[tag] { commit(tag, -EIO, &actions) }
            }
        }
    }

    private mutating func commit(_ tag: Int, _ result: Int32, _ actions: inout [Action]) {
        slots[tag] = .offered
        actions.append(.commit(tag, result: result))
    }

    private mutating func end(_ tag: Int, _ error: Int32, _ actions: inout [Action]) {
        slots[tag] = .ended
        ended += 1
        if error == Ublk.aborted {
            isEnding = true
        } else if !isEnding {
            isEnding = true
            actions.append(.fault(error))
        }
        if ended == slots.count { actions.append(.over) }
    }

    private mutating func take(
        _ tag: Int, _ descriptor: Ublk.Descriptor, _ limits: Limits, _ actions: inout [Action]
    ) {
        if isWithdrawn { return commit(tag, -EIO, &actions) }
        switch UblkQueue.request(descriptor, limits) {
        case .success(let request):
            if case .read(_, let count) = request {
                slots[tag] = .served(Int32(count))
            } else if case .write(_, let count) = request {
                slots[tag] = .served(Int32(count))
            } else {
                slots[tag] = .served(0)
            }
            actions.append(.serve(tag, request))
        case .failure(let refusal): commit(tag, -refusal.error, &actions)
        }
    }

    private struct Refusal: Error { var error: Int32 }

    private static func request(_ descriptor: Ublk.Descriptor, _ limits: Limits) -> Result<Request, Refusal> {
        let flush: UInt8 = 2
        if descriptor.operation == flush { return .success(.flush) }
        let block = UInt64(limits.blockSize)
        let count = UInt64(descriptor.sectors) * Ublk.sectorBytes
        let (start, overflow) = descriptor.start.multipliedReportingOverflow(by: Ublk.sectorBytes)
        guard count > 0, !overflow, start % block == 0, count % block == 0, start <= limits.size,
            count <= limits.size - start
        else { return .failure(Refusal(error: EINVAL)) }
        let isTransfer = descriptor.operation < flush
        if isTransfer && count > Ublk.transferMax { return .failure(Refusal(error: EINVAL)) }
        if descriptor.operation != 0 && limits.isReadOnly { return .failure(Refusal(error: EROFS)) }
        // UBLK_IO_OP_...
        switch descriptor.operation {
        case 0: return .success(.read(at: start, count: Int(count)))
        case 1: return .success(.write(at: start, count: Int(count)))
        case 3: return .success(.discard(at: start, count: count))
        case 5: return .success(.zeroes(at: start, count: count))
        default: return .failure(Refusal(error: EOPNOTSUPP))
        }
    }
}
