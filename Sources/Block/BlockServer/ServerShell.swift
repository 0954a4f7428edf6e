import Base
import BlockCore
import BlockIO
import Logging

/// Performs the actions of one `ServerCore` on a reactor: data connections, the control connection and the devices.
///
/// Everything here runs on the reactor's thread. Events that arise while the core's actions are performed wait in a
/// queue, so that the core is never entered twice.
final class ServerShell: DataLinkOwner, DeviceQueueOwner, @unchecked Sendable {
    // SAFETY: made before the reactor starts; used on its thread only from then on.

    /// Beyond this many payload bytes in work, clients' connections are read no further until half of it is done. Other
    /// servers' are: their clients are held back there, and waiting for each other would hold up both.
    private static let payloadBytesMax = 64 << 20

    private struct DiskWork {
        var device: DeviceID
        var operation: DiskOperationID
        /// Of a read: what is being filled, and the parts of it that are zeros.
        var buffer: IOBuffer?
        var holes: [Range<UInt32>] = []
        /// Of a write of data: what is handed over to be written.
        var checksums: BlockChecksums?
    }

    private let reactor: Reactor
    private let logger: Logger
    private var core: ServerCore
    private var actions: [ServerAction] = []
    private let files: [DeviceID: DeviceFile]
    private var devices: [DeviceID: DeviceQueue] = [:]
    /// What the core asked of the devices, by the tag that they know.
    private var diskWork = SlotTable<DiskWork>()
    /// Of the reads that have several parts: how many have not ended, and the first error.
    private var gathers: [UInt64: (left: Int, error: BlockIOError?)] = [:]
    private let managerLink: ManagerLink
    private var listener: Listener?
    private var links: [LinkID: DataLink] = [:]
    private var peerOfLink: [LinkID: PeerChannel] = [:]
    /// The connection asked for last; only its end is news for the core.
    private var linkOfPeer: [PeerChannel: LinkID] = [:]
    private var nextLink: UInt64 = 1
    private var payloads = PayloadTable()
    private var pausedLinks: [LinkID] = []
    private var events: [ServerEvent] = []
    private var isHandling = false
    private var isStopped = false
    /// Called when the manager refuses this server for good.
    var refused: (String) -> Void = { _ in }

    init(
        core: ServerCore, devices: [DeviceID: DeviceFile], managerLink: ManagerLink, on reactor: Reactor, logger: Logger
    ) {
        self.core = core
        files = devices
        self.managerLink = managerLink
        self.reactor = reactor
        self.logger = logger
    }

    /// Takes connections on `listening` and looks for the manager.
    func start(listening descriptor: Int32, at address: SocketAddress) throws(BlockIOError) {
        listener = try Listener(descriptor, address: address, on: reactor) { [weak self] connection, peer in
            self?.accept(connection, peer: peer)
        }
        for (id, file) in files { devices[id] = DeviceQueue(file, on: reactor, owner: self) }
        core.begin(into: &actions)
        performActions()
        managerLink.opened = { [weak self] in self?.handle(.managerConnected) }
        managerLink.broken = { [weak self] in self?.handle(.managerClosed) }
        managerLink.received = { [weak self] in self?.handle(.manager($0)) }
        managerLink.start()
        reactor.every(.milliseconds(20)) { [weak self] in
            guard let self, !self.isStopped else { return false }
            self.handle(.tick)
            return true
        }
    }

    /// Drops every connection at once, as the death of the process would.
    func stop() {
        isStopped = true
        listener?.close()
        managerLink.stop()
        for link in links.values { link.close(reason: "stopping") }
        links = [:]
        for device in devices.values { device.stop() }
    }

    private func accept(_ descriptor: Int32, peer: String) {
        do {
            let id = newLink()
            links[id] = try DataLink(
                accepted: descriptor, peer: peer, id: id, on: reactor, owner: self, logger: logger)
        } catch {
            logger.warning("data connection refused", metadata: ["peer": "\(peer)", "error": "\(error)"])
        }
    }

    private func newLink() -> LinkID {
        defer { nextLink += 1 }
        return LinkID(rawValue: nextLink)
    }

    // MARK: Events

    private func handle(_ event: ServerEvent) {
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
        if !pausedLinks.isEmpty, payloads.bytes <= Self.payloadBytesMax / 2 { resumeLinks() }
    }

    private func resumeLinks() {
        let paused = pausedLinks
        pausedLinks = []
        // Not from within the events of another connection.
        reactor.perform { [weak self] in
            for id in paused { self?.links[id]?.resumeReading() }
        }
    }

    func connected(_ link: DataLink) {
        guard let peer = peerOfLink[link.id] else { return }
        handle(.peerConnected(peer, link.id))
    }

    func arrived(_ header: DataHeader, payload: IOBuffer?, on link: DataLink) {
        if peerOfLink[link.id] == nil {
            let payload = payload.map { payloads.insert($0) }
            handle(.request(link.id, header, payload))
            if payloads.bytes > Self.payloadBytesMax, !core.isServer(link.id) {
                link.pauseReading()
                pausedLinks.append(link.id)
            }
        } else {
            if header.opcode == .fetch, let payload {
                return handle(.fetched(link.id, header, payloads.insert(payload)))
            }
            // Of servers' other answers only lists and digests carry bytes; those of others are dropped.
            let isForCore = header.opcode == .listUnits || header.opcode == .verify
            let list = isForCore ? payload?.bytes.prefix(header.payloadLength) : nil
            handle(.answer(link.id, header, list.map { [UInt8]($0) } ?? []))
        }
    }

    func closed(_ link: DataLink, reason: String) {
        links[link.id] = nil
        if let peer = peerOfLink.removeValue(forKey: link.id) {
            guard linkOfPeer[peer] == link.id else { return }
            linkOfPeer[peer] = nil
            logger.info("connection to a server closed", metadata: ["sds.id": "\(peer.peer)", "reason": "\(reason)"])
            handle(.peerClosed(peer))
        } else {
            handle(.linkClosed(link.id))
        }
    }

    // MARK: Actions

    private func perform(_ action: ServerAction) {
        switch action {
        case .sendManager(let message): managerLink.send(message)
        case .send(let id, let header, let slice):
            guard let link = links[id] else { return }
            if let slice {
                let (buffer, range) = payloads[slice]
                link.send(header, buffer, range)
            } else {
                link.send(header)
            }
        case .sendBytes(let id, let header, let bytes):
            let buffer = bytes.withUnsafeBytes { IOBuffer(copying: $0) }
            links[id]?.send(header, buffer, 0..<bytes.count)
        case .close(let id): links[id]?.close(reason: "closed by the protocol")
        case .connectPeer(let peer, let address): connect(peer, address)
        case .disk(let device, let operation, let request): start(request, device, operation)
        case .release(let payload): payloads.release(payload, to: reactor.buffers)
        case .notice(let notice): tell(notice)
        }
    }

    private func connect(_ peer: PeerChannel, _ text: String) {
        if let old = linkOfPeer.removeValue(forKey: peer) { links[old]?.close(reason: "replaced by a newer one") }
        let id = newLink()
        peerOfLink[id] = peer
        do {
            guard let address = SocketAddress(text) else { throw BlockIOError(.invalid, "\(text) is no address") }
            links[id] = try DataLink(to: address, id: id, on: reactor, owner: self, logger: logger)
            linkOfPeer[peer] = id
        } catch {
            peerOfLink[id] = nil
            logger.info("server not reached", metadata: ["sds.id": "\(peer.peer)", "error": "\(error)"])
            // Not at once: the core would ask again at once.
            reactor.after(.milliseconds(100)) { [weak self] in self?.handle(.peerClosed(peer)) }
        }
    }

    private func start(_ request: DiskRequest, _ device: DeviceID, _ operation: DiskOperationID) {
        guard let queue = devices[device] else { preconditionFailure("operation on unknown device \(device)") }
        var asked = DiskWork(device: device, operation: operation)
        let work: DeviceOperation
        switch request {
        case .write(let offset, let slice), .writeThrough(let offset, let slice):
            let (buffer, range) = payloads[slice]
            asked.checksums = BlockChecksums(of: UnsafeRawBufferPointer(rebasing: buffer.bytes[range]))
            let isThrough = if case .writeThrough = request { true } else { false }
            work = .write(at: offset, buffer, range, isThrough: isThrough)
        case .writeZeros(let offset, let length): work = .writeZeros(at: offset, length: Int(length))
        case .writeBytes(let offset, let bytes):
            let buffer = bytes.withUnsafeBytes { reactor.buffers.take(copying: $0) }
            work = .write(at: offset, buffer, 0..<bytes.count)
        case .read(let offset, let length, let holes):
            let buffer = reactor.buffers.take(Int(length))
            asked.buffer = buffer
            asked.holes = holes
            work = .read(at: offset, buffer, 0..<buffer.count)
        case .gather(let parts, let length, let holes): return gather(parts, length, holes, asked, queue)
        case .flush: work = .flush
        case .punch(let offset, let length): work = .punch(at: offset, length: UInt64(length))
        }
        queue.submit(work, tag: diskWork.insert(asked))
    }

    /// Reads that fill one buffer: the operation ends with the last of them.
    private func gather(
        _ parts: [ReadPart], _ length: UInt32, _ holes: [Range<UInt32>], _ work: DiskWork, _ queue: DeviceQueue
    ) {
        let buffer = reactor.buffers.take(Int(length))
        var asked = work
        asked.buffer = buffer
        asked.holes = holes
        let tag = diskWork.insert(asked)
        // Nothing is to be read; but nothing ends before this returns either.
        if parts.isEmpty {
            reactor.after(.zero) { [weak self] in self?.ended(tag, nil) }
            return
        }
        gathers[tag] = (parts.count, nil)
        for part in parts {
            queue.submit(.read(at: part.at, buffer, Int(part.into.lowerBound)..<Int(part.into.upperBound)), tag: tag)
        }
    }

    func ended(_ tag: UInt64, _ error: BlockIOError?) {
        var error = error
        if !gathers.isEmpty, let (left, failure) = gathers[tag] {
            error = failure ?? error
            gathers[tag] = left > 1 ? (left - 1, error) : nil
            if left > 1 { return }
        }
        guard let work = diskWork.remove(tag) else { preconditionFailure("a device operation ended twice") }
        guard !isStopped else { return }
        if let error { return handle(.disk(work.device, work.operation, .failed(reason: error.description))) }
        guard let buffer = work.buffer else {
            return handle(.disk(work.device, work.operation, work.checksums.map { .written($0) } ?? .done))
        }
        for hole in work.holes { buffer.zero(Int(hole.lowerBound)..<Int(hole.upperBound)) }
        let checksums = BlockChecksums(of: buffer.bytes)
        handle(.disk(work.device, work.operation, .read(payloads.insert(buffer), checksums)))
    }

    private func tell(_ notice: ServerNotice) {
        switch notice {
        case .welcomed(let system): logger.notice("server admitted", metadata: ["system.id": "\(system)"])
        case .refused(let code, let message):
            logger.critical("server refused by the manager", metadata: ["code": "\(code)", "reason": "\(message)"])
            refused("\(code): \(message)")
        case .deviceStopped(let device, let reason):
            logger.error("device stopped", metadata: ["device.id": "\(device)", "reason": "\(reason)"])
        case .copying(let comb, let place, let since, let units, let all):
            logger.info(
                since == nil ? "rebuild begins" : "resync begins",
                metadata: [
                    "comb": "\(comb)", "target": "\(place)", "units.lacking": "\(units)", "units": "\(all)",
                    "since.epoch": "\(since ?? 0)",
                ])
        case .damaged(let device, let unit, let blocks):
            logger.warning(
                "blocks damaged on a device",
                metadata: ["device.id": "\(device)", "unit": "\(unit)", "blocks": "\(blocks.runs())"])
        case .examined(let device, let unit, let result):
            logger.log(
                level: result.lost > 0 ? .error : .notice, result.lost > 0 ? "blocks lost" : "unit mended",
                metadata: [
                    "device.id": "\(device)", "unit": "\(unit)", "damaged.own": "\(result.ownDamaged)",
                    "damaged.other": "\(result.otherDamaged)", "differing": "\(result.differing)",
                    "mended": "\(result.mended)", "lost": "\(result.lost)",
                ])
        case .peerUnanswering(let sds): logger.warning("server does not answer", metadata: ["sds.id": "\(sds)"])
        case .protocolViolation(let link, let what):
            logger.warning(
                "data connection broke the protocol",
                metadata: ["peer": "\(links[link]?.peer ?? "closed")", "violation": "\(what)"])
        }
    }
}
