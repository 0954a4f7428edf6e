import BlockIO
import CBlockIO
import Glibc

/// The channel of a ublk device: /dev/ublkcN with its shared descriptors, and commands on the io_uring of a reactor,
/// which must have one. The kernel takes them only from the thread that gave the first.
final class UblkCharacterDevice: UblkChannel, DiskRingOwner, @unchecked Sendable {
    // SAFETY: made by one thread and handed over to the reactor's, which alone uses it from then on.
    private let descriptor: Int32
    private let descriptors: UnsafeMutableRawPointer
    private let length: Int
    /// Keeps us while it has commands of ours.
    private weak var ring: DiskRing?
    private var fetched: (Int, Int32) -> Void = { _, _ in }
    private var isClosed = false

    init(_ path: String, depth: Int) throws(BlockIOError) {
        length = Ublk.descriptorBytes(depth: depth)
        descriptor = cbio_open(path, O_RDWR, 0)
        guard descriptor >= 0 else { throw .system(errno, "open \(path)") }
        // Of queue 0, whose descriptors lie at the beginning.
        guard let memory = cbio_map_read_only(descriptor, length) else {
            let number = errno
            Glibc.close(descriptor)
            throw .system(number, "map \(path)")
        }
        descriptors = memory
    }

    deinit { close() }

    func start(on reactor: Reactor, fetched: @escaping (Int, Int32) -> Void) {
        guard let ring = reactor.diskRing else { preconditionFailure("the reactor has no io_uring") }
        self.ring = ring
        self.fetched = fetched
    }

    func fetch(_ tag: Int) { command(.fetch, tag, result: 0) }
    func commit(_ tag: Int, result: Int32) { command(.commitAndFetch, tag, result: result) }

    private func command(_ operation: Ublk.IOOperation, _ tag: Int, result: Int32) {
        ring?.command(
            descriptor, operation.rawValue, payload: Ublk.ioCommand(tag: tag, result: result), tag: UInt64(tag),
            for: self)
    }

    func ended(_ kind: DiskRing.Kind, _ tag: UInt64, error: Int32) { fetched(Int(tag), error) }

    func descriptor(_ tag: Int) -> Ublk.Descriptor {
        let size = Ublk.Descriptor.encodedSize
        return Ublk.Descriptor(UnsafeRawBufferPointer(start: descriptors + tag * size, count: size))
    }

    func take(_ tag: Int, into buffer: IOBuffer) -> Int32 {
        transfer(buffer.count) {
            pread(descriptor, buffer.base + $0, buffer.count - $0, Ublk.position(tag: tag) + $0)
        }
    }

    func give(_ tag: Int, _ bytes: UnsafeRawBufferPointer) -> Int32 {
        guard let base = bytes.baseAddress else { return 0 }
        return transfer(bytes.count) {
            pwrite(descriptor, base + $0, bytes.count - $0, Ublk.position(tag: tag) + $0)
        }
    }

    /// Copies between memories; never waits.
    private func transfer(_ count: Int, _ body: (Int) -> Int) -> Int32 {
        var done = 0
        while done < count {
            let moved = body(done)
            if moved < 0 && errno == EINTR { continue }
            guard moved > 0 else { return moved < 0 ? errno : EIO }
            done += moved
        }
        return 0
    }

    func close() {
        guard !isClosed else { return }
        isClosed = true
        fetched = { _, _ in }
        munmap(descriptors, length)
        Glibc.close(descriptor)
    }
}
