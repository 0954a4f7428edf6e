import Base
import BlockCore
import BlockIO
import Glibc
import Logging

/// What happens to the volumes of a client, on the reactor's thread.
protocol ClientVolumes: AnyObject {
    func welcomed(system: SystemID, sdc: SdcID)
    func attached(_ device: VolumeDevice)
    func changed(_ device: VolumeDevice)
    /// Every request of the device fails already.
    func detached(_ device: VolumeDevice)
    /// Everything that is mapped here has been told.
    func mapReceived()
    func refused(_ reason: String)
}

/// A mapped volume as a block device. After a withdrawal it answers EIO for good.
final class VolumeDevice: BlockDeviceBackend {
    /// The core takes I/Os up to 64 MiB; longer zeroings go in pieces.
    private static let pieceMax: UInt64 = 64 << 20

    let attachment: Attachment
    private(set) var volume: AttachedVolume
    private weak var shell: ClientShell?
    private var isGone = false

    init(_ volume: AttachedVolume, _ shell: ClientShell) {
        attachment = volume.attachment
        self.volume = volume
        self.shell = shell
    }

    var size: UInt64 { volume.sizeBytes }
    var blockSize: Int { Int(Geometry.blockBytes) }
    var isReadOnly: Bool { volume.mode != .readWrite }
    var acknowledgesDurably: Bool { true }

    func update(_ volume: AttachedVolume) { self.volume = volume }
    func withdraw() { isGone = true }

    func submit(_ operation: BlockOperation, at offset: UInt64, tag: UInt64, for owner: any BlockRequestOwner) {
        guard !isGone, let shell else { return owner.ended(tag, error: EIO, bytes: nil) }
        switch operation {
        case .read(let count): shell.read(attachment, at: offset, count: count, tag, owner)
        case .write(let slice): shell.write(attachment, slice, at: offset, tag, owner)
        case .flush: shell.flush(attachment, tag, owner)
        case .zeroes(let count): zero(offset, offset + count, tag, owner)
        // Exactly: a unit gives its space back when its last block is gone, whichever request that was.
        case .trim(let count): zero(offset, offset + count, tag, owner)
        }
    }

    /// Asks for the maps of at most `pieceMax` bytes of units at a time.
    func extents(at offset: UInt64, count: UInt64, completion: @escaping (Int32, [BlockExtent]) -> Void) {
        guard !isGone, let shell else { return completion(EIO, []) }
        let unit = UInt64(Geometry.unitBytes)
        let start = offset / unit * unit
        let end = min((offset + count + unit - 1) / unit * unit, start + VolumeDevice.pieceMax)
        let question = MapQuestion { error, maps in
            guard error == 0, let maps else { return completion(error == 0 ? EIO : error, []) }
            completion(0, BlockExtent.list(maps.bytes, from: offset - start, to: min(offset + count, end) - start))
        }
        shell.map(attachment, at: start, count: UInt32(end - start), question)
    }

    private final class MapQuestion: BlockRequestOwner {
        let completion: (Int32, IOSlice?) -> Void
        init(_ completion: @escaping (Int32, IOSlice?) -> Void) { self.completion = completion }
        func ended(_ tag: UInt64, error: Int32, bytes: IOSlice?) { completion(error, bytes) }
    }

    private func zero(_ start: UInt64, _ end: UInt64, _ tag: UInt64, _ owner: any BlockRequestOwner) {
        guard !isGone, let shell else { return owner.ended(tag, error: EIO, bytes: nil) }
        let count = min(end - start, VolumeDevice.pieceMax)
        guard start + count < end else { return shell.writeZeroes(attachment, at: start, count: count, tag, owner) }
        let rest = LongZeroing(device: self, start: start + count, end: end, tag: tag, owner: owner)
        shell.writeZeroes(attachment, at: start, count: count, 0, rest)
    }

    /// Zeroes piece after piece; the first failure ends it.
    private final class LongZeroing: BlockRequestOwner {
        let device: VolumeDevice
        let start: UInt64
        let end: UInt64
        let tag: UInt64
        let owner: any BlockRequestOwner

        init(device: VolumeDevice, start: UInt64, end: UInt64, tag: UInt64, owner: any BlockRequestOwner) {
            self.device = device
            self.start = start
            self.end = end
            self.tag = tag
            self.owner = owner
        }

        func ended(_ piece: UInt64, error: Int32, bytes: IOSlice?) {
            if error != 0 { return owner.ended(tag, error: error, bytes: nil) }
            device.zero(start, end, tag, owner)
        }
    }
}

/// Performs the actions of one `ClientCore` on a reactor.
///
/// Everything here runs on the reactor's thread. Events that arise while the core's actions are performed wait in a
/// queue, so that the core is never entered twice.
final class ClientShell: DataLinkOwner, @unchecked Sendable {
    // SAFETY: made before the reactor starts; used on its thread only from then on.
    private struct Pending {
        var tag: UInt64
        var owner: any BlockRequestOwner
        /// The bytes of a write, or those that a read has collected.
        var slice: IOSlice?
        /// Bytes that a read asks for.
        var wanted = 0
    }

    private let reactor: Reactor
    private let logger: Logger
    private var core: ClientCore
    private var actions: [ClientAction] = []
    private let managerLink: ManagerLink
    private weak var volumes: (any ClientVolumes)?
    private var links: [LinkID: DataLink] = [:]
    private var serverOfLink: [LinkID: SdsID] = [:]
    /// The connection asked for last; only its end is news for the core.
    private var linkOfServer: [SdsID: LinkID] = [:]
    private var nextLink: UInt64 = 1
    private var payloads = PayloadTable()
    private var pending = SlotTable<Pending>()
    private var devices: [Attachment: VolumeDevice] = [:]
    private var events: [ClientEvent] = []
    private var isHandling = false
    private var isStopped = false
    private(set) var isManagerConnected = false
    private var hasMap = false

    init(core: ClientCore, managerLink: ManagerLink, volumes: any ClientVolumes, on reactor: Reactor, logger: Logger) {
        self.core = core
        self.managerLink = managerLink
        self.volumes = volumes
        self.reactor = reactor
        self.logger = logger
    }

    func start() {
        managerLink.opened = { [weak self] in
            self?.isManagerConnected = true
            self?.handle(.managerConnected)
        }
        managerLink.broken = { [weak self] in
            self?.isManagerConnected = false
            self?.handle(.managerClosed)
        }
        managerLink.received = { [weak self] message in
            guard let self else { return }
            self.handle(.manager(message))
            if case .update = message, !self.hasMap {
                self.hasMap = true
                self.volumes?.mapReceived()
            }
        }
        managerLink.start()
        reactor.every(.milliseconds(20)) { [weak self] in
            guard let self, !self.isStopped else { return false }
            self.handle(.tick)
            return true
        }
    }

    /// Drops every connection; what is under way fails.
    func stop() {
        isStopped = true
        managerLink.stop()
        for link in links.values { link.close(reason: "stopping") }
        links = [:]
        for device in devices.values { device.withdraw() }
    }

    // MARK: I/O

    func read(
        _ attachment: Attachment, at offset: UInt64, count: Int, _ tag: UInt64, _ owner: any BlockRequestOwner
    ) {
        let io = pending.insert(Pending(tag: tag, owner: owner, wanted: count))
        submit(io, attachment, .read, offset, UInt32(count))
    }

    /// Answers with the block maps of whole units.
    func map(_ attachment: Attachment, at offset: UInt64, count: UInt32, _ owner: any BlockRequestOwner) {
        let length = Int(count / Geometry.unitBytes * BlockMap.encodedSize)
        let io = pending.insert(Pending(tag: 0, owner: owner, wanted: length))
        submit(io, attachment, .map, offset, count)
    }

    func write(
        _ attachment: Attachment, _ slice: IOSlice, at offset: UInt64, _ tag: UInt64, _ owner: any BlockRequestOwner
    ) {
        let io = pending.insert(Pending(tag: tag, owner: owner, slice: slice))
        let payload = payloads.insert(slice.buffer, start: slice.start)
        submit(io, attachment, .write(payload), offset, UInt32(slice.count))
    }

    func writeZeroes(
        _ attachment: Attachment, at offset: UInt64, count: UInt64, _ tag: UInt64, _ owner: any BlockRequestOwner
    ) {
        submit(pending.insert(Pending(tag: tag, owner: owner)), attachment, .writeZeroes, offset, UInt32(count))
    }

    func flush(_ attachment: Attachment, _ tag: UInt64, _ owner: any BlockRequestOwner) {
        submit(pending.insert(Pending(tag: tag, owner: owner)), attachment, .flush, 0, 0)
    }

    private func submit(
        _ io: UInt64, _ attachment: Attachment, _ kind: ClientIOKind, _ offset: UInt64, _ length: UInt32
    ) {
        handle(.submit(ClientIO(rawValue: io), attachment, kind, offset: offset, length: length))
    }

    // MARK: Events

    private func handle(_ event: ClientEvent) {
        guard !isStopped else { return }
        events.append(event)
        guard !isHandling else { return }
        isHandling = true
        var position = 0
        while position < events.count {
            let next = events[position]
            position += 1
            core.apply(next, now: reactor.now, into: &actions)
            performActions()
        }
        events.removeAll(keepingCapacity: true)
        isHandling = false
    }

    private func performActions() {
        var position = 0
        while position < actions.count {
            perform(actions[position])
            position += 1
        }
        actions.removeAll(keepingCapacity: true)
    }

    func connected(_ link: DataLink) {
        guard let server = serverOfLink[link.id] else { return }
        handle(.serverConnected(server, link.id))
    }

    func arrived(_ header: DataHeader, payload: IOBuffer?, on link: DataLink) {
        handle(.answer(link.id, header, payload.map { payloads.insert($0) }))
    }

    func closed(_ link: DataLink, reason: String) {
        links[link.id] = nil
        guard let server = serverOfLink.removeValue(forKey: link.id), linkOfServer[server] == link.id else { return }
        linkOfServer[server] = nil
        logger.info("connection to a server closed", metadata: ["sds.id": "\(server)", "reason": "\(reason)"])
        handle(.serverClosed(server))
    }

    // MARK: Actions

    private func perform(_ action: ClientAction) {
        switch action {
        case .sendManager(let message): managerLink.send(message)
        case .connect(let server, let address): connect(server, address)
        case .close(let id): links[id]?.close(reason: "closed by the protocol")
        case .send(let id, let header, let slice):
            guard let link = links[id] else { return }
            if let slice {
                let (buffer, range) = payloads[slice]
                link.send(header, buffer, range)
            } else {
                link.send(header)
            }
        case .deliver(let io, let offset, let length, let payload):
            deliver(io, Int(offset), Int(length), payload.map { payloads.remove($0) })
        case .complete(let io, let result):
            complete(io, ClientShell.errno(of: result))
        case .release(let payload): payloads.release(payload, to: reactor.buffers)
        case .wake(let delay): reactor.after(delay) { [weak self] in self?.handle(.wake) }
        case .welcomed(let system, let sdc):
            logger.notice("client admitted", metadata: ["system.id": "\(system)", "sdc.id": "\(sdc)"])
            volumes?.welcomed(system: system, sdc: sdc)
        case .refused(let code, let message):
            logger.critical("client refused by the manager", metadata: ["code": "\(code)", "reason": "\(message)"])
            volumes?.refused("\(code): \(message)")
        case .attached(let volume):
            let device = VolumeDevice(volume, self)
            devices[volume.attachment] = device
            volumes?.attached(device)
        case .changed(let volume):
            guard let device = devices[volume.attachment] else { return }
            device.update(volume)
            volumes?.changed(device)
        case .detached(let attachment):
            guard let device = devices.removeValue(forKey: attachment) else { return }
            device.withdraw()
            volumes?.detached(device)
        }
    }

    private func deliver(_ io: ClientIO, _ offset: Int, _ length: Int, _ delivered: IOBuffer?) {
        var buffer = delivered
        guard let read = pending[io.rawValue], offset + length <= read.wanted else {
            preconditionFailure("\(io) awaits no such bytes")
        }
        if let buffer, length == read.wanted {
            precondition(length <= buffer.count, "fewer bytes than the core believes")
            pending[io.rawValue]?.slice = IOSlice(buffer, count: length)
            return
        }
        let slice = read.slice ?? IOSlice(reactor.buffers.take(read.wanted))
        pending[io.rawValue]?.slice = slice
        if let buffer {
            precondition(length <= buffer.count, "fewer bytes than the core believes")
            (slice.base + offset).copyMemory(from: buffer.base, byteCount: length)
        } else {
            slice.buffer.zero(slice.start + offset..<slice.start + offset + length)
        }
        reactor.buffers.giveBack(&buffer)
    }

    private func complete(_ io: ClientIO, _ error: Int32) {
        guard var done = pending.remove(io.rawValue) else { preconditionFailure("\(io) completed twice") }
        let isRead = done.wanted > 0
        done.owner.ended(done.tag, error: error, bytes: isRead && error == 0 ? done.slice : nil)
        var buffer = done.slice.take()?.buffer
        reactor.buffers.giveBack(&buffer)
    }

    private func connect(_ server: SdsID, _ text: String) {
        if let old = linkOfServer.removeValue(forKey: server) { links[old]?.close(reason: "replaced by a newer one") }
        let id = LinkID(rawValue: nextLink)
        nextLink += 1
        do {
            guard let address = SocketAddress(text) else { throw BlockIOError(.invalid, "\(text) is no address") }
            serverOfLink[id] = server
            links[id] = try DataLink(to: address, id: id, on: reactor, owner: self, logger: logger)
            linkOfServer[server] = id
        } catch {
            serverOfLink[id] = nil
            logger.info("server not reached", metadata: ["sds.id": "\(server)", "error": "\(error)"])
            // Not at once: the core would ask again at once.
            reactor.after(.milliseconds(100)) { [weak self] in self?.handle(.serverClosed(server)) }
        }
    }

    private static func errno(of result: ClientIOResult) -> Int32 {
        switch result {
        case .ok: 0
        case .fenced, .timedOut, .mediaError: EIO
        case .noSpace: ENOSPC
        case .readOnly: EROFS
        case .invalid: EINVAL
        case .overloaded: EBUSY
        }
    }
}
