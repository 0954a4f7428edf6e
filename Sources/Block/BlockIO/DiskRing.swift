import Base
import CURing
import Glibc

/// Hears how the operations that it asked a `DiskRing` for have ended, on the reactor's thread.
public protocol DiskRingOwner: AnyObject {
    /// `error` is 0, or an `errno`: ENODATA for a read beyond the end, ENOSPC for a write that the file system took no more of;
    /// for a command what the driver says.
    func ended(_ kind: DiskRing.Kind, _ tag: UInt64, error: Int32)
}

/// The io_uring of a reactor: reads, writes and flushes of files, and commands to drivers, that begin together at the end
/// of a round and whose outcomes arrive on the reactor's own thread, without another one in between.
///
/// Used on the reactor's thread. Unbounded by itself: whoever submits bounds what it has under way; what the kernel's
/// queue cannot take waits here in order.
public final class DiskRing: ReadyHandler {
    public enum Kind: Sendable { case read, write, flush, command }

    private struct Operation {
        var kind: Kind
        var descriptor: Int32
        /// Keeps the memory until the kernel is done with it.
        var buffer: IOBuffer?
        var start: Int
        var end: Int
        var offset: UInt64
        var isThrough = false
        var tag: UInt64
        var owner: any DiskRingOwner
        /// What a driver is asked for, and how.
        var command: (operation: UInt32, payload: (UInt64, UInt64)) = (0, (0, 0))
    }

    private static let entries: UInt32 = 256
    /// Transfers and flushes that the kernel has at a time: for no more has it room to tell their ends. Of what ends beyond that
    /// it keeps a list, for which it may lack memory. Commands are not counted, or devices that keep many would stop the others.
    private static let begunMax = Int(entries) * Int(CURING_COMPLETIONS)

    private let queue: OpaquePointer
    private let buffers: BufferPool
    private var operations = SlotTable<Operation>()
    /// Names of operations that wait for room in the queue.
    private var backlog: [UInt64] = []
    /// Operations but commands that the queue or the kernel has.
    private(set) var begun = 0
    /// Of the operations; they may stay for as long as a device lives, and the kernel writes to no memory of ours for them.
    private var commands = 0
    private var completions = [curing_completion](repeating: curing_completion(), count: 64)

    /// Nil when the kernel has no io_uring, or it is forbidden here.
    init?(_ buffers: BufferPool) {
        guard let queue = curing_open(DiskRing.entries) else { return nil }
        self.queue = queue
        self.buffers = buffers
    }

    deinit { curing_close(queue) }

    var descriptor: Int32 { curing_descriptor(queue) }
    /// Operations begun, or about to, and not ended.
    public var underWay: Int { operations.count }

    /// Binds the ring to the calling thread.
    func enable() -> Bool { curing_enable(queue) == 0 }

    // MARK: Operations

    /// Fills a part of the buffer from `offset` on.
    public func read(
        _ descriptor: Int32, _ buffer: IOBuffer, _ range: Range<Int>, at offset: UInt64, tag: UInt64,
        for owner: any DiskRingOwner
    ) {
        begin(
            Operation(
                kind: .read, descriptor: descriptor, buffer: buffer, start: range.lowerBound, end: range.upperBound,
                offset: offset, tag: tag, owner: owner))
    }

    /// Stores a part of the buffer, which must not change until the end. `isThrough`: on stable media by then.
    public func write(
        _ descriptor: Int32, _ buffer: IOBuffer, _ range: Range<Int>, at offset: UInt64, isThrough: Bool = false,
        tag: UInt64, for owner: any DiskRingOwner
    ) {
        begin(
            Operation(
                kind: .write, descriptor: descriptor, buffer: buffer, start: range.lowerBound, end: range.upperBound,
                offset: offset, isThrough: isThrough, tag: tag, owner: owner))
    }

    /// fdatasync: covers the writes that had ended when it was asked for.
    public func flush(_ descriptor: Int32, tag: UInt64, for owner: any DiskRingOwner) {
        begin(
            Operation(
                kind: .flush, descriptor: descriptor, buffer: nil, start: 0, end: 0, offset: 0, tag: tag, owner: owner))
    }

    /// Gives the driver of a file a command, with the 16 bytes of its payload in memory's order. It is never repeated.
    public func command(
        _ descriptor: Int32, _ operation: UInt32, payload: (UInt64, UInt64), tag: UInt64, for owner: any DiskRingOwner
    ) {
        commands += 1
        begin(
            Operation(
                kind: .command, descriptor: descriptor, buffer: nil, start: 0, end: 0, offset: 0, tag: tag,
                owner: owner, command: (operation, payload)))
    }

    private func begin(_ operation: Operation) { enqueue(operations.insert(operation), operation) }

    private func enqueue(_ name: UInt64, _ operation: Operation) {
        if !backlog.isEmpty || !prepare(name, operation) { backlog.append(name) }
    }

    private func prepare(_ name: UInt64, _ operation: Operation) -> Bool {
        if operation.kind == .command { return fill(name, operation) }
        guard begun < DiskRing.begunMax, fill(name, operation) else { return false }
        begun += 1
        return true
    }

    /// Puts it into the queue, if that has room.
    private func fill(_ name: UInt64, _ operation: Operation) -> Bool {
        switch operation.kind {
        case .flush: return curing_fdatasync(queue, operation.descriptor, name)
        case .command:
            return withUnsafeBytes(of: operation.command.payload) {
                curing_command(queue, operation.descriptor, operation.command.operation, $0.baseAddress, name)
            }
        case .read, .write:
            guard let base = operation.buffer?.base else { preconditionFailure("a transfer has a buffer") }
            let count = UInt32(operation.end - operation.start)
            let start = base + operation.start
            return operation.kind == .read
                ? curing_read(queue, operation.descriptor, start, count, operation.offset, name)
                : curing_write(
                    queue, operation.descriptor, start, count, operation.offset, operation.isThrough, name)
        }
    }

    /// Hands what was asked for to the kernel.
    /// - Returns: false when the kernel takes nothing just now: try again soon.
    func submit() -> Bool {
        while true {
            let result = curing_submit(queue)
            if result < 0 {
                // Out of memory or of completions' room for the moment.
                precondition([EAGAIN, EBUSY, EINTR, ENOMEM].contains(-result), "io_uring_enter: errno \(-result)")
                return false
            }
            if backlog.isEmpty { return true }
            var taken = 0
            while taken < backlog.count {
                guard let operation = operations[backlog[taken]] else { preconditionFailure("an unknown operation") }
                guard prepare(backlog[taken], operation) else { break }
                taken += 1
            }
            // The rest has to wait until others end.
            if taken == 0 { return begun >= DiskRing.begunMax }
            backlog.removeFirst(taken)
        }
    }

    // MARK: Outcomes

    public func ready(_ events: UInt32) { reap() }

    /// Tells the owners what has ended.
    func reap() {
        while true {
            let count = Int(curing_reap(queue, &completions, UInt32(completions.count)))
            for index in 0..<count { finish(completions[index].tag, completions[index].result) }
            if count < completions.count { return }
        }
    }

    private func finish(_ name: UInt64, _ result: Int32) {
        guard var operation = operations[name] else { preconditionFailure("an operation ended twice") }
        if operation.kind == .command {
            _ = operations.remove(name)
            commands -= 1
            return operation.owner.ended(.command, operation.tag, error: max(0, -result))
        }
        begun -= 1
        if result == -EINTR || result == -EAGAIN { return enqueue(name, operation) }
        // A short transfer goes on where it ended; direct I/O ends early only before something that the rest will tell.
        var error = max(0, -result)
        if result >= 0, operation.kind != .flush {
            operation.start += Int(result)
            operation.offset += UInt64(result)
            if result > 0, operation.start < operation.end {
                operations[name] = operation
                return enqueue(name, operation)
            }
            if operation.start < operation.end { error = operation.kind == .read ? ENODATA : ENOSPC }
        }
        _ = operations.remove(name)
        operation.owner.ended(operation.kind, operation.tag, error: error)
        buffers.giveBack(&operation.buffer)
    }

    /// Waits until nothing but commands is under way: the kernel writes to the memory of unfinished reads even after the
    /// ring is closed.
    /// - Returns: false when the device answers nothing for ten seconds.
    func drain() -> Bool {
        var silentRounds = 0
        while operations.count > commands && silentRounds < 10 {
            let before = operations.count
            _ = submit()
            _ = curing_wait(queue, 1000)
            reap()
            silentRounds = operations.count < before ? 0 : silentRounds + 1
        }
        return operations.count == commands
    }
}
