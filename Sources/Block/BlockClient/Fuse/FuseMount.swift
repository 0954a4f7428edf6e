import Base
import BlockCore
public import BlockIO
import CBlockIO
import Glibc
public import Logging

/// A FUSE file system of one directory with one file per volume, served straight from /dev/fuse on a reactor's thread.
///
/// It exists for loop devices on top of its files: direct I/O, parallel writes on one file, 1 MiB requests. The
/// protocol is that of linux/fuse.h (7.38); whatever a block device does not need answers ENOSYS.
public final class FuseMount: ReadyHandler, BlockRequestOwner {
    /// Requests in the kernel's background queue; its default of 12 would throttle a loop device.
    static let backgroundMax: UInt16 = 128
    static let transferMax = 1 << 20
    private static let rootNode: UInt64 = UInt64(FUSE_ROOT_ID)
    private static let headerLength = MemoryLayout<fuse_in_header>.size
    /// Nodes below were given by releases whose files were all of generation 1.
    private static let oldNodes: UInt64 = 1 << 32

    private struct Request {
        var header: fuse_in_header
        /// Bytes of a write.
        var written: UInt32
        /// Of a write that has to be stable when it is answered: the device.
        var toFlush: (any BlockDeviceBackend)?
    }

    private final class Node {
        let id: UInt64
        let name: String
        /// Nil: not there yet (`isExpected`) or gone for good.
        var device: (any BlockDeviceBackend)?
        var isExpected: Bool
        /// Requests that wait until it is clear what becomes of an expected node.
        var held: [IOBuffer] = []
        init(id: UInt64, name: String, device: (any BlockDeviceBackend)?) {
            self.id = id
            isExpected = device == nil
            self.name = name
            self.device = device
        }
    }

    public let directory: String
    public private(set) var descriptor: Int32
    private let reactor: Reactor
    private let logger: Logger
    private var nodes: [UInt64: Node] = [:]
    private var nodeByName: [String: UInt64] = [:]
    /// Begins where no mount that the kernel may still know had come to: above what releases that counted from 2 gave, and by
    /// a clock that outruns any count of files. A node that was given twice would be the file of the one that has it open.
    private var nextNode = FuseMount.oldNodes + Reactor.now.nanoseconds
    private var input: IOBuffer
    /// What the devices have under way.
    private var requests = SlotTable<Request>()
    private var isOver = false
    /// Called on the reactor's thread when the kernel has ended the connection.
    public var ended: (() -> Void)?

    /// Serves the connection behind `descriptor`: one that `FuseMount.open` made, or one taken over from a predecessor,
    /// after `handOutAgain`.
    public init(descriptor: Int32, directory: String, on reactor: Reactor, logger: Logger) throws(BlockIOError) {
        self.descriptor = descriptor
        self.directory = directory
        self.reactor = reactor
        self.logger = logger
        input = IOBuffer(count: FuseMount.transferMax + 4096)
        guard cbio_set_nonblocking(descriptor) == 0 else { throw .system(errno, "fcntl /dev/fuse") }
        try reactor.watch(descriptor, EPOLLIN.rawValue, self)
    }

    /// Asks the kernel to hand out again what a predecessor had taken from a connection and not answered.
    /// - Throws: when it does not (Linux before 6.9, or the connection has ended): nobody could ever answer that.
    static func handOutAgain(_ descriptor: Int32) throws(BlockIOError) {
        var out = fuse_out_header()
        out.len = UInt32(MemoryLayout<fuse_out_header>.size)
        out.error = Int32(CBIO_FUSE_NOTIFY_RESEND)
        guard write(descriptor, &out, MemoryLayout<fuse_out_header>.size) == Int(out.len) else {
            throw .system(errno, "have FUSE requests handed out again")
        }
    }

    /// Opens /dev/fuse and mounts it on `directory` (made when absent; a mount left there is ended first, and with it what
    /// waits for its answers). Blocks shortly; not for the reactor's thread.
    public static func open(on directory: String) throws(BlockIOError) -> Int32 {
        while umount2(directory, Int32(MNT_FORCE) | Int32(MNT_DETACH)) == 0 {}
        guard mkdir(directory, 0o700) == 0 || errno == EEXIST else { throw .system(errno, "make \(directory)") }
        let descriptor = cbio_open("/dev/fuse", O_RDWR | O_NONBLOCK, 0)
        guard descriptor >= 0 else { throw .system(errno, "open /dev/fuse") }
        // Whoever else may come this far, the kernel goes by the modes and owners that the files have.
        let access = "user_id=0,group_id=0,allow_other,default_permissions"
        let options = "fd=\(descriptor),rootmode=40000,\(access),max_read=\(transferMax)"
        let flags = UInt(MS_NOSUID) | UInt(MS_NODEV) | UInt(MS_NOEXEC)
        guard mount("holdfast", directory, "fuse.holdfast", flags, options) == 0 else {
            let number = errno
            Glibc.close(descriptor)
            throw .system(number, "mount fuse on \(directory)")
        }
        return descriptor
    }

    /// Detaches the mount without waiting for its users. Not for the reactor's thread.
    public static func detach(_ directory: String) { _ = umount2(directory, Int32(MNT_DETACH)) }

    /// For a successor: what `expect` wants.
    public var record: FuseRecord {
        let files = nodeByName.map { FuseRecord.File(node: $0.value, name: $0.key) }
        return FuseRecord(files: files.sorted { $0.node < $1.node }, nextNode: nextNode)
    }

    /// After a take-over: the kernel knows these files. Requests for them wait for `add` or `forgetExpected`.
    public func expect(_ record: FuseRecord) {
        nextNode = max(nextNode, record.nextNode)
        for file in record.files {
            nextNode = max(nextNode, file.node + 1)
            nodes[file.node] = Node(id: file.node, name: file.name, device: nil)
            nodeByName[file.name] = file.node
        }
    }

    /// Tells files apart whose nodes are the same, by names, which never come again: the kernel then fails the older one.
    /// It compares 32 bits, and what a predecessor said of a file must be said again.
    static func generation(of node: UInt64, _ name: String) -> UInt64 {
        if node < oldNodes { return 1 }
        return UInt64(Array(name.utf8).withUnsafeBytes { crc32c($0) })
    }

    /// Shows `device` as file `name`, under the number by which the kernel may know it already.
    /// - Returns: that number (the inode's) if the file was expected; nil when it is a new one.
    @discardableResult
    public func add(_ name: String, device: any BlockDeviceBackend) -> UInt64? {
        if let id = nodeByName[name], let node = nodes[id], node.isExpected {
            node.device = device
            settle(node)
            return id
        }
        let id = nextNode
        nextNode += 1
        nodes[id] = Node(id: id, name: name, device: device)
        nodeByName[name] = id
        return nil
    }

    /// Files that a predecessor showed and that are not there yet.
    var expectedNames: [String] { nodes.values.filter(\.isExpected).map(\.name).sorted() }

    /// What was expected and did not come is gone: whoever waits gets EIO.
    public func forgetExpected() {
        for node in nodes.values.sorted(by: { $0.id < $1.id }) where node.isExpected {
            nodeByName[node.name] = nil
            settle(node)
        }
    }

    private func settle(_ node: Node) {
        node.isExpected = false
        let held = node.held
        node.held = []
        let own = input
        for request in held {
            input = request
            dispatch()
        }
        input = own
    }

    /// Takes the file away: look-ups fail, and whoever has it open gets EIO for every request from now on.
    public func remove(_ name: String) {
        guard let id = nodeByName.removeValue(forKey: name) else { return }
        nodes[id]?.device = nil
    }

    /// Ends the connection: the kernel answers everything with errors.
    public func close() {
        guard !isOver else { return }
        isOver = true
        reactor.unwatch(descriptor)
        Glibc.close(descriptor)
        descriptor = -1
    }

    public func ready(_ events: UInt32) {
        for _ in 0..<64 {
            guard !isOver else { return }
            let count = read(descriptor, input.base, FuseMount.transferMax + 4096)
            if count < 0 {
                if errno == EINTR || errno == ENOENT { continue }
                if errno == EAGAIN { return }
                if errno != ENODEV {
                    logger.error("FUSE connection failed", metadata: ["error": "\(String(cString: strerror(errno)))"])
                }
                close()
                ended?()
                return
            }
            guard count >= FuseMount.headerLength else { continue }
            input.count = count
            dispatch()
        }
    }

    // MARK: Requests

    private func dispatch() {
        let bytes = input.bytes
        let header = bytes.loadUnaligned(as: fuse_in_header.self)
        let node = nodes[header.nodeid]
        if let waiting = expectedNode(header, node) {
            waiting.held.append(IOBuffer(copying: input.bytes))
            return
        }
        switch fuse_opcode(header.opcode) {
        case FUSE_INIT: initialise(header)
        case FUSE_LOOKUP: lookUp(header)
        // Have no answer; nodes live as long as their volume.
        case FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT: break
        case FUSE_GETATTR, FUSE_SETATTR: attributes(header)
        case FUSE_OPEN: open(header)
        case FUSE_OPENDIR: answer(header, fuse_open_out())
        case FUSE_READDIR, FUSE_FSYNCDIR, FUSE_RELEASEDIR, FUSE_RELEASE, FUSE_FLUSH, FUSE_ACCESS, FUSE_DESTROY:
            answer(header)
        case FUSE_STATFS: answer(header, FuseMount.statistics)
        case FUSE_READ: readFile(header, node)
        case FUSE_WRITE: writeFile(header, node)
        case FUSE_FSYNC: submit(header, node, .flush, at: 0)
        case FUSE_FALLOCATE: allocate(header, node)
        default: fail(header, ENOSYS)
        }
    }

    /// The node that a request has to wait for. Requests without an answer wait for nothing.
    private func expectedNode(_ header: fuse_in_header, _ node: Node?) -> Node? {
        switch fuse_opcode(header.opcode) {
        case FUSE_FORGET, FUSE_BATCH_FORGET, FUSE_INTERRUPT: return nil
        case FUSE_LOOKUP:
            let target = nodeByName[nameArgument].flatMap { nodes[$0] }
            return target?.isExpected == true ? target : nil
        default: return node?.isExpected == true ? node : nil
        }
    }

    private var nameArgument: String {
        String(decoding: input.bytes[FuseMount.headerLength...].prefix { $0 != 0 }, as: UTF8.self)
    }

    /// The argument that follows the header; nil (and answered) when the request is too short for it.
    private func argument<T: BitwiseCopyable>(_ header: fuse_in_header, as type: T.Type) -> T? {
        guard input.count >= FuseMount.headerLength + MemoryLayout<T>.size else {
            fail(header, EINVAL)
            return nil
        }
        return input.bytes.loadUnaligned(fromByteOffset: FuseMount.headerLength, as: T.self)
    }

    private func initialise(_ header: fuse_in_header) {
        // The argument grew over time; only its first four words are sure to be there.
        guard input.count >= FuseMount.headerLength + 16 else { return fail(header, EINVAL) }
        let bytes = input.bytes
        let major: UInt32 = bytes.littleEndian(FuseMount.headerLength)
        let minor: UInt32 = bytes.littleEndian(FuseMount.headerLength + 4)
        let offered: UInt32 = bytes.littleEndian(FuseMount.headerLength + 12)
        guard major == FUSE_KERNEL_VERSION, minor >= 31 else { return fail(header, EPROTO) }
        let wanted = [FUSE_ASYNC_READ, FUSE_BIG_WRITES, FUSE_ASYNC_DIO, FUSE_MAX_PAGES, FUSE_PARALLEL_DIROPS]
        var out = fuse_init_out()
        out.major = UInt32(FUSE_KERNEL_VERSION)
        out.minor = min(minor, UInt32(FUSE_KERNEL_MINOR_VERSION))
        out.flags = wanted.reduce(0) { $0 | UInt32($1) } & offered
        out.max_readahead = 0
        out.max_background = FuseMount.backgroundMax
        out.congestion_threshold = FuseMount.backgroundMax
        out.max_write = UInt32(FuseMount.transferMax)
        out.max_pages = UInt16(FuseMount.transferMax / 4096)
        out.time_gran = 1
        answer(header, out)
    }

    private func attributes(of id: UInt64) -> fuse_attr? {
        var out = fuse_attr()
        out.ino = id
        out.nlink = 1
        out.blksize = 4096
        if id == FuseMount.rootNode {
            out.mode = 0o040700
            return out
        }
        guard let device = nodes[id]?.device else { return nil }
        out.mode = device.isReadOnly ? 0o100400 : 0o100600
        out.size = device.size
        out.blocks = device.size / 512
        return out
    }

    /// A loop device over a file discards in pieces of this block size, and not at all if there is none.
    private static let statistics: fuse_statfs_out = {
        var out = fuse_statfs_out()
        out.st.bsize = UInt32(Geometry.blockBytes)
        out.st.frsize = UInt32(Geometry.blockBytes)
        out.st.namelen = 255
        return out
    }()

    private func lookUp(_ header: fuse_in_header) {
        guard header.nodeid == FuseMount.rootNode, let id = nodeByName[nameArgument],
            let attributes = attributes(of: id)
        else { return fail(header, ENOENT) }
        var out = fuse_entry_out()
        out.nodeid = id
        out.generation = FuseMount.generation(of: id, nameArgument)
        out.attr = attributes
        answer(header, out)
    }

    private func attributes(_ header: fuse_in_header) {
        guard let attributes = attributes(of: header.nodeid) else { return fail(header, EIO) }
        var out = fuse_attr_out()
        out.attr = attributes
        answer(header, out)
    }

    private func open(_ header: fuse_in_header) {
        guard let device = nodes[header.nodeid]?.device else { return fail(header, ENOENT) }
        guard let argument = argument(header, as: fuse_open_in.self) else { return }
        if device.isReadOnly && argument.flags & UInt32(O_ACCMODE) != UInt32(O_RDONLY) { return fail(header, EROFS) }
        var out = fuse_open_out()
        out.fh = header.nodeid
        out.open_flags = UInt32(FOPEN_DIRECT_IO) | UInt32(FOPEN_PARALLEL_DIRECT_WRITES) | UInt32(FOPEN_NOFLUSH)
        answer(header, out)
    }

    private func readFile(_ header: fuse_in_header, _ node: Node?) {
        guard let argument = argument(header, as: fuse_read_in.self) else { return }
        guard let device = node?.device else { return fail(header, EIO) }
        guard argument.offset < device.size else { return answer(header) }
        let count = Int(min(UInt64(argument.size), device.size - argument.offset))
        guard count <= FuseMount.transferMax, isAligned(argument.offset, UInt64(count), device) else {
            return fail(header, EINVAL)
        }
        guard count > 0 else { return answer(header) }
        submit(.read(count: count), to: device, at: argument.offset, header)
    }

    private func submit(
        _ operation: BlockOperation, to device: any BlockDeviceBackend, at offset: UInt64, _ header: fuse_in_header,
        written: UInt32 = 0, toFlush: (any BlockDeviceBackend)? = nil
    ) {
        let tag = requests.insert(Request(header: header, written: written, toFlush: toFlush))
        device.submit(operation, at: offset, tag: tag, for: self)
    }

    public func ended(_ tag: UInt64, error: Int32, bytes: IOSlice?) {
        guard let request = requests.remove(tag) else { preconditionFailure("a request ended twice") }
        if error != 0 {
            fail(request.header, error)
        } else if let bytes {
            answer(request.header, body: bytes.bytes)
        } else if let device = request.toFlush {
            submit(.flush, to: device, at: 0, request.header, written: request.written)
        } else if request.written > 0 {
            var out = fuse_write_out()
            out.size = request.written
            answer(request.header, out)
        } else {
            answer(request.header)
        }
    }

    private func writeFile(_ header: fuse_in_header, _ node: Node?) {
        guard let argument = argument(header, as: fuse_write_in.self) else { return }
        guard let device = node?.device else { return fail(header, EIO) }
        let start = FuseMount.headerLength + MemoryLayout<fuse_write_in>.size
        let count = Int(argument.size)
        guard count > 0, input.count >= start + count, isAligned(argument.offset, UInt64(count), device) else {
            return fail(header, EINVAL)
        }
        guard argument.offset < device.size, UInt64(count) <= device.size - argument.offset else {
            return fail(header, ENOSPC)
        }
        let slice: IOSlice
        if count >= 64 << 10 {
            // Large: pass the buffer on and read the next request into another.
            slice = IOSlice(input, start: start, count: count)
            input = reactor.buffers.take(FuseMount.transferMax + 4096)
        } else {
            let bytes = UnsafeRawBufferPointer(rebasing: input.bytes[start..<start + count])
            slice = IOSlice(reactor.buffers.take(copying: bytes))
        }
        // The kernel leaves it to us to make a write stable that has to be when it is answered.
        let isSynchronous = argument.flags & UInt32(O_SYNC | O_DSYNC) != 0 && !device.acknowledgesDurably
        submit(
            .write(slice), to: device, at: argument.offset, header, written: argument.size,
            toFlush: isSynchronous ? device : nil)
    }

    private func allocate(_ header: fuse_in_header, _ node: Node?) {
        guard let argument = argument(header, as: fuse_fallocate_in.self) else { return }
        guard let device = node?.device else { return fail(header, EIO) }
        guard argument.length > 0, argument.offset < device.size, argument.length <= device.size - argument.offset,
            isAligned(argument.offset, argument.length, device)
        else { return fail(header, EINVAL) }
        if argument.mode & UInt32(FALLOC_FL_PUNCH_HOLE) != 0 {
            // The kernel uses holes both for discard and for zeroing: only zeros satisfy both.
            submit(header, node, .zeroes(count: argument.length), at: argument.offset)
        } else if argument.mode & UInt32(FALLOC_FL_ZERO_RANGE) != 0 {
            submit(header, node, .zeroes(count: argument.length), at: argument.offset)
        } else {
            fail(header, EOPNOTSUPP)
        }
    }

    private func submit(_ header: fuse_in_header, _ node: Node?, _ operation: BlockOperation, at offset: UInt64) {
        guard let device = node?.device else { return fail(header, EIO) }
        submit(operation, to: device, at: offset, header)
    }

    private func isAligned(_ offset: UInt64, _ count: UInt64, _ device: any BlockDeviceBackend) -> Bool {
        (offset | count) % UInt64(device.blockSize) == 0
    }

    // MARK: Answers

    private func answer(_ header: fuse_in_header) {
        answer(header, body: UnsafeRawBufferPointer(start: nil, count: 0))
    }

    private func answer<T: BitwiseCopyable>(_ header: fuse_in_header, _ value: T) {
        withUnsafeBytes(of: value) { answer(header, body: $0) }
    }

    private func answer(_ header: fuse_in_header, body: UnsafeRawBufferPointer, error: Int32 = 0) {
        guard !isOver else { return }
        var out = fuse_out_header()
        out.unique = header.unique
        out.error = -error
        out.len = UInt32(MemoryLayout<fuse_out_header>.size + body.count)
        let length = Int(out.len)
        let written = withUnsafeMutablePointer(to: &out) { pointer -> Int in
            withUnsafeTemporaryAllocation(of: iovec.self, capacity: 2) { parts in
                parts[0] = iovec(iov_base: pointer, iov_len: MemoryLayout<fuse_out_header>.size)
                parts[1] = iovec(iov_base: UnsafeMutableRawPointer(mutating: body.baseAddress), iov_len: body.count)
                return writev(descriptor, parts.baseAddress, body.count > 0 ? 2 : 1)
            }
        }
        // ENOENT: the request was interrupted or already answered by a predecessor; nobody waits for it.
        if written != length && errno != ENOENT && errno != ENODEV {
            logger.error(
                "FUSE answer refused",
                metadata: ["opcode": "\(header.opcode)", "error": "\(String(cString: strerror(errno)))"])
        }
    }

    private func fail(_ header: fuse_in_header, _ error: Int32) {
        answer(header, body: UnsafeRawBufferPointer(start: nil, count: 0), error: error)
    }
}
