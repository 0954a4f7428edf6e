public import Base

/// A storage client: takes I/O of attached volumes to the right server, again and again until it is answered, fenced,
/// or has been held for too long.
///
/// Invariants:
/// - A request is sent again only over a newer session of the same server, which ends the older one before it accepts
///   anything, or to another server under a higher comb epoch, which makes the older server unable to finish it.
/// - A write that had to wait or to be sent again is answered before anything later on the same blocks is sent: what may
///   be applied twice has no other write in between, and nobody sees the time before its second coming.
/// - I/Os of a volume with limits begin in the order of their arrival, no more of them than the limits allow.
/// - An attachment that was refused as fenced, or that the manager no longer grants, never comes back to life.
public struct ClientCore: Sendable {
    struct IO {
        var attachment: Attachment
        var kind: ClientIOKind
        var offset: UInt64
        var length: UInt32
        /// Never while it waits for its turn under the volume's limits: that wait is as long as they demand.
        var deadline: Instant
        var piecesLeft: Int

        /// What counts against a limit of bandwidth.
        var movedBytes: UInt32 { kind == .writeZeroes || kind == .map ? 0 : length }
    }

    /// The part of an I/O that lies in one unit.
    struct Piece {
        enum State: Equatable {
            case waiting(notBefore: Instant)
            case sent(SdsID, request: UInt64, at: Instant)
        }

        var io: ClientIO
        var volume: VolumeID
        var unit: UInt32
        var range: BlockRange
        /// Where the piece begins in the I/O's memory.
        var ioOffset: UInt32
        var state: State

        var key: VolumeUnit { VolumeUnit(volume: volume, index: unit) }
    }

    /// One unit of a volume's address space.
    struct VolumeUnit: Hashable {
        var volume: VolumeID
        var index: UInt32
    }

    struct Server {
        enum State: Equatable {
            case closed(retryAt: Instant)
            case connecting(since: Instant)
            case greeting(LinkID, since: Instant)
            case open(LinkID)
        }

        var state: State
        var session: UInt64 = 0
        var nextRequest: UInt64 = 1
        var outstanding = IDTable<UInt64, UInt64>()
        /// Bytes asked of it, or sent to it, and not answered.
        var outstandingBytes = 0
        /// Pieces wait until fewer bytes are outstanding.
        var isThrottled = false

        var link: LinkID? {
            switch state {
            case .closed, .connecting: nil
            case .greeting(let link, _), .open(let link): link
            }
        }
    }

    struct Attached {
        var volume: AttachedVolume
        var throttle: Throttle
        var isDead = false

        init(_ volume: AttachedVolume) {
            self.volume = volume
            throttle = Throttle(volume.limits)
        }
    }

    public let configuration: ClientConfiguration
    public private(set) var sdc: SdcID?
    var generation: UInt32?
    var map = ClusterMap()
    var attached: [VolumeID: Attached] = [:]
    var ios = IDTable<UInt64, IO>()
    var pieces = IDTable<UInt64, Piece>()
    var nextPiece: UInt64 = 1
    /// Pieces of writes that found no server when they came, or that were or will be sent again.
    var unsettled: [VolumeUnit: Set<UInt64>] = [:]
    var servers = IDTable<SdsID, Server>()
    var isManagerConnected = false
    var lastKeepAlive = Instant.zero
    var mapAskedAt = Instant.zero
    /// When the shell was last asked to wake the core for I/Os that wait under a limit.
    var wakeAt: Instant?

    public init(configuration: ClientConfiguration) { self.configuration = configuration }

    /// I/Os accepted and not completed.
    public var inFlight: Int { ios.count }
    /// Every live attachment, in order of the volume ids.
    public var attachments: [AttachedVolume] {
        attached.keys.sorted().compactMap { attached[$0] }.filter { !$0.isDead }.map(\.volume)
    }

    public mutating func apply(_ event: ClientEvent, now: Instant, into actions: inout [ClientAction]) {
        switch event {
        case .managerConnected:
            isManagerConnected = true
            let hello = ClientHello(
                guid: configuration.guid, name: configuration.name, ip: configuration.ip,
                incarnation: configuration.incarnation)
            actions.append(.sendManager(.clientHello(hello)))
        case .managerClosed: isManagerConnected = false
        case .manager(let message): receive(message, now, &actions)
        case .submit(let io, let attachment, let kind, let offset, let length):
            submit(io, attachment, kind, offset, length, now, &actions)
        case .serverConnected(let server, let link): connected(server, link, now, &actions)
        case .serverClosed(let server): disconnected(server, now)
        case .answer(let link, let header, let payload): answered(header, payload, on: link, now, &actions)
        case .wake: releaseAll(now, &actions)
        case .tick: tick(now, &actions)
        }
    }

    // MARK: Manager

    private mutating func receive(
        _ message: MessageFromManager, _ now: Instant, _ actions: inout [ClientAction]
    ) {
        switch message {
        case .welcomeClient(let system, let sdc, let generation):
            self.sdc = sdc
            self.generation = generation
            actions.append(.welcomed(system, sdc))
        case .refused(let code, let message): actions.append(.refused(code: code, message: message))
        case .update(let update):
            // Nothing is ours before the manager has said who we are.
            guard generation != nil, map.apply(update) != nil else { return }
            reviseAttachments(now, &actions)
            revisePieces(now, &actions)
            actions.append(.sendManager(.acknowledge(revision: update.revision)))
        case .keepAlive, .redirect, .welcomeServer, .cut, .lease: break
        }
    }

    private mutating func reviseAttachments(_ now: Instant, _ actions: inout [ClientAction]) {
        for id in attached.keys.sorted() {
            guard let known = attached[id] else { continue }
            if let granted = granted(id), granted.attachment == known.volume.attachment {
                if granted != known.volume, !known.isDead {
                    attached[id]?.volume = granted
                    attached[id]?.throttle.change(granted.limits, now)
                    actions.append(.changed(granted))
                    release(id, now, &actions)
                }
                continue
            }
            detach(id, .fenced, &actions)
            attached[id] = nil
        }
        for id in map.volumes.keys.sorted() where attached[id] == nil {
            guard let granted = granted(id) else { continue }
            attached[id] = Attached(granted)
            actions.append(.attached(granted))
        }
    }

    private func granted(_ id: VolumeID) -> AttachedVolume? {
        guard let record = map.volumes[id], let mapping = record.mappings.first, mapping.mode != .noAccess else {
            return nil
        }
        return AttachedVolume(
            attachment: Attachment(volume: id, epoch: mapping.epoch), name: record.name,
            sizeBytes: UInt64(record.sizeUnits) * UInt64(Geometry.unitBytes), mode: mapping.mode,
            limits: VolumeLimits(iops: mapping.limitIops, kibibytesPerSecond: mapping.limitKibibytesPerSecond))
    }

    /// The attachment is dead: everything under way on it fails.
    private mutating func detach(_ id: VolumeID, _ result: ClientIOResult, _ actions: inout [ClientAction]) {
        guard let known = attached[id], !known.isDead else { return }
        attached[id]?.isDead = true
        attached[id]?.throttle.removeAll()
        for io in ios.keys.sorted() where ios[io]?.attachment == known.volume.attachment {
            complete(ClientIO(rawValue: io), result, &actions)
        }
        actions.append(.detached(known.volume.attachment))
    }

    /// Pieces sent to a server that no longer leads their comb go to the one that does.
    private mutating func revisePieces(_ now: Instant, _ actions: inout [ClientAction]) {
        for id in pieces.keys.sorted() {
            guard let piece = pieces[id] else { continue }
            if case .sent(let server, let request, _) = piece.state {
                guard let key = map.combKey(of: piece.volume, at: piece.unit),
                    let comb = map.comb(key), comb.primary.sds != server
                else { continue }
                unlist(request, of: piece, server)
            }
            putBack(id, until: now)
            send(id, now, &actions)
        }
    }

    // MARK: I/O

    private mutating func submit(
        _ io: ClientIO, _ attachment: Attachment, _ kind: ClientIOKind, _ offset: UInt64, _ length: UInt32,
        _ now: Instant, _ actions: inout [ClientAction]
    ) {
        func end(_ result: ClientIOResult) {
            actions.append(.complete(io, result))
            if case .write(let payload) = kind { actions.append(.release(payload)) }
        }
        guard let known = attached[attachment.volume], known.volume.attachment == attachment, !known.isDead else {
            return end(.fenced)
        }
        if kind == .flush { return end(.ok) }
        let block = UInt64(kind == .map ? Geometry.unitBytes : Geometry.blockBytes)
        guard offset % block == 0, UInt64(length) % block == 0, length > 0, length <= 64 << 20,
            offset <= known.volume.sizeBytes, UInt64(length) <= known.volume.sizeBytes - offset
        else { return end(.invalid) }
        if kind.isWrite, known.volume.mode == .readOnly { return end(.readOnly) }
        guard ios.count < configuration.requestsMax else { return end(.overloaded) }
        ios[io] = IO(
            attachment: attachment, kind: kind, offset: offset, length: length, deadline: .distantFuture, piecesLeft: 0)
        if known.throttle.isUnlimited, known.throttle.first == nil { return begin(io, now, &actions) }
        attached[attachment.volume]?.throttle.append(io)
        release(attachment.volume, now, &actions)
    }

    /// Cuts an I/O whose turn it is into pieces and sends them.
    mutating func begin(_ io: ClientIO, _ now: Instant, _ actions: inout [ClientAction]) {
        guard let known = ios[io] else { preconditionFailure("\(io) begins after its end") }
        let first = nextPiece
        var done: UInt32 = 0
        while done < known.length {
            let position = known.offset + UInt64(done)
            let inside = UInt32(position % UInt64(Geometry.unitBytes))
            let part = min(known.length - done, Geometry.unitBytes - inside)
            guard let range = BlockRange(offset: inside, length: part) else { preconditionFailure("whole blocks") }
            pieces[nextPiece] = Piece(
                io: io, volume: known.attachment.volume, unit: UInt32(position / UInt64(Geometry.unitBytes)),
                range: range,
                ioOffset: known.kind == .map ? done / Geometry.unitBytes * BlockMap.encodedSize : done,
                state: .waiting(notBefore: now))
            nextPiece += 1
            done += part
        }
        let count = Int(nextPiece - first)
        ios.change(io.rawValue) {
            $0.deadline = now + configuration.holdTime
            $0.piecesLeft = count
        }
        for id in first..<nextPiece { send(id, now, &actions) }
    }

    private mutating func send(_ id: UInt64, _ now: Instant, _ actions: inout [ClientAction]) {
        guard let piece = pieces[id], case .waiting(let moment) = piece.state, let io = ios[piece.io] else {
            return
        }
        if isHeldBack(id, piece, isRead: !io.kind.isWrite) { return }
        guard now >= moment, let key = map.combKey(of: piece.volume, at: piece.unit), let comb = map.comb(key),
            comb.isPlaced, comb.state != .unavailable,
            let link = openLink(comb.primary.sds, now, &actions), let server = servers[comb.primary.sds]
        else {
            if io.kind.isWrite { unsettled[piece.key, default: []].insert(id) }
            return
        }
        guard server.outstandingBytes < configuration.outstandingBytesMax else {
            servers[comb.primary.sds]?.isThrottled = true
            return
        }
        var header = DataHeader(opcode: .read)
        var slice: PayloadSlice?
        switch io.kind {
        case .read: break
        case .write(let payload):
            header.opcode = .write
            header.flags = .payload
            slice = PayloadSlice(payload: payload, offset: piece.ioOffset, length: piece.range.length)
        case .writeZeroes: header.opcode = .writeZeroes
        case .map: header.opcode = .map
        case .flush: preconditionFailure("a flush has no pieces")
        }
        header.request = server.nextRequest
        header.session = server.session
        header.volume = piece.volume.rawValue
        header.unit = piece.unit
        header.offset = piece.range.offset
        header.length = piece.range.length
        header.combEpoch = comb.epoch
        header.attachEpoch = io.attachment.epoch
        servers.change(comb.primary.sds) {
            $0.nextRequest += 1
            $0.outstanding[header.request] = id
            $0.outstandingBytes += Int(piece.range.length)
        }
        pieces.change(id) { $0.state = .sent(comb.primary.sds, request: header.request, at: now) }
        actions.append(.send(link, header, slice))
    }

    /// Whether an earlier write of the same blocks is unsettled. Normally none is, and nothing is looked for. A read is
    /// tried again with the next tick.
    private mutating func isHeldBack(_ id: UInt64, _ piece: Piece, isRead: Bool) -> Bool {
        guard !unsettled.isEmpty, let others = unsettled[piece.key] else { return false }
        let isBlocked = others.contains { $0 < id && pieces[$0]?.range.overlaps(piece.range) == true }
        if isBlocked, !isRead { unsettled[piece.key]?.insert(id) }
        return isBlocked
    }

    /// A piece that has to be sent again.
    private mutating func putBack(_ id: UInt64, until moment: Instant) {
        guard let piece = pieces[id] else { return }
        pieces[id]?.state = .waiting(notBefore: moment)
        if ios[piece.io]?.kind.isWrite == true { unsettled[piece.key, default: []].insert(id) }
    }

    /// A piece that is no more; true if others of its unit may have waited for it.
    private mutating func settle(_ id: UInt64, _ key: VolumeUnit) -> Bool {
        guard !unsettled.isEmpty, unsettled[key]?.remove(id) != nil else { return false }
        if unsettled[key]?.isEmpty == true { unsettled[key] = nil }
        return true
    }

    private mutating func complete(_ io: ClientIO, _ result: ClientIOResult, _ actions: inout [ClientAction]) {
        guard let ended = ios.removeValue(forKey: io.rawValue) else { return }
        if ended.piecesLeft > 0 {
            for id in pieces.keys.sorted() where pieces[id]?.io == io { forget(id) }
        }
        actions.append(.complete(io, result))
        if case .write(let payload) = ended.kind { actions.append(.release(payload)) }
    }

    private mutating func forget(_ id: UInt64) {
        if let key = pieces[id]?.key { _ = settle(id, key) }
        if let piece = pieces[id], case .sent(let server, let request, _) = piece.state {
            unlist(request, of: piece, server)
        }
        pieces[id] = nil
    }

    /// The piece is no longer awaited from the server.
    private mutating func unlist(_ request: UInt64, of piece: Piece, _ server: SdsID) {
        servers.change(server) {
            if $0.outstanding.removeValue(forKey: request) != nil { $0.outstandingBytes -= Int(piece.range.length) }
        }
    }

    /// The server at the other end of a connection: no two have the same.
    private func server(on link: LinkID) -> SdsID? { servers.firstKey { $0.link == link } }

    private mutating func answered(
        _ header: DataHeader, _ payload: PayloadID?, on link: LinkID, _ now: Instant,
        _ actions: inout [ClientAction]
    ) {
        var payload = payload
        defer { if let payload { actions.append(.release(payload)) } }
        guard let server = server(on: link), header.isReply,
            header.session == servers[server]?.session
        else { return }
        if header.opcode == .hello {
            guard case .greeting = servers[server]?.state else { return }
            if header.status == .ok {
                servers[server]?.state = .open(link)
                sendWaiting(now, &actions)
            } else {
                reconnect(server, now, &actions)
            }
            return
        }
        guard let id = servers[server]?.outstanding[header.request], let piece = pieces[id] else { return }
        unlist(header.request, of: piece, server)
        defer { relieve(server, now, &actions) }
        switch header.status {
        case .ok:
            if let kind = ios[piece.io]?.kind, !kind.isWrite {
                let expected = kind == .map ? BlockMap.encodedSize : piece.range.length
                guard header.length == expected, payload != nil || header.flags.contains(.zeros) else {
                    putBack(id, until: now)
                    return reconnect(server, now, &actions)
                }
                actions.append(
                    .deliver(piece.io, offset: piece.ioOffset, length: expected, payload))
                payload = nil
            }
            pieces[id] = nil
            let left = ios.change(piece.io.rawValue) {
                $0.piecesLeft -= 1
                return $0.piecesLeft
            }
            if left == 0 { complete(piece.io, .ok, &actions) }
            if settle(id, piece.key) {
                for next in unsettled[piece.key]?.sorted() ?? [] { send(next, now, &actions) }
            }
        case .staleComb:
            putBack(id, until: now + .milliseconds(10))
            askForMap(now, &actions)
        case .notReady, .overloaded: putBack(id, until: now + .milliseconds(10))
        case .staleSession:
            putBack(id, until: now)
            reconnect(server, now, &actions)
        case .fenced: detach(piece.volume, .fenced, &actions)
        case .readOnly: complete(piece.io, .readOnly, &actions)
        case .invalid: complete(piece.io, .invalid, &actions)
        case .noSpace: complete(piece.io, .noSpace, &actions)
        case .mediaError: complete(piece.io, .mediaError, &actions)
        }
    }

    /// Updates are pushed; a lost one is noticed here.
    private mutating func askForMap(_ now: Instant, _ actions: inout [ClientAction]) {
        guard isManagerConnected, now - mapAskedAt >= .milliseconds(500) else { return }
        mapAskedAt = now
        actions.append(.sendManager(.requestMap))
    }

    // MARK: Servers

    private mutating func openLink(_ id: SdsID, _ now: Instant, _ actions: inout [ClientAction]) -> LinkID? {
        switch servers[id]?.state {
        case .open(let link): return link
        case .connecting, .greeting: return nil
        case .closed(let retryAt) where now < retryAt: return nil
        case .closed, nil:
            guard generation != nil, let address = map.addresses[id] else { return nil }
            servers[id, default: Server(state: .connecting(since: now))].state = .connecting(since: now)
            actions.append(.connect(id, address: address))
            return nil
        }
    }

    private mutating func connected(
        _ id: SdsID, _ link: LinkID, _ now: Instant, _ actions: inout [ClientAction]
    ) {
        guard case .connecting = servers[id]?.state, let generation, let sdc else {
            actions.append(.close(link))
            return
        }
        let number = (servers[id]?.session ?? 0) & 0xFFFF_FFFF
        servers[id]?.session = UInt64(generation) << 32 | (number + 1)
        servers[id]?.nextRequest = 1
        servers[id]?.state = .greeting(link, since: now)
        var hello = DataHeader(opcode: .hello)
        hello.volume = sdc.rawValue
        hello.offset = PeerKind.client.rawValue
        hello.session = servers[id]?.session ?? 0
        actions.append(.send(link, hello, nil))
    }

    private mutating func disconnected(_ id: SdsID, _ now: Instant) {
        guard let outstanding = servers[id]?.outstanding else { return }
        servers[id]?.outstanding = IDTable()
        servers[id]?.outstandingBytes = 0
        servers[id]?.isThrottled = false
        servers[id]?.state = .closed(retryAt: now + .milliseconds(50))
        for piece in outstanding.values { putBack(piece, until: now) }
    }

    private mutating func reconnect(_ id: SdsID, _ now: Instant, _ actions: inout [ClientAction]) {
        if let link = servers[id]?.link { actions.append(.close(link)) }
        disconnected(id, now)
    }

    /// Sends on what was held back, once half of what may be outstanding is answered.
    private mutating func relieve(_ id: SdsID, _ now: Instant, _ actions: inout [ClientAction]) {
        guard let server = servers[id], server.isThrottled,
            server.outstandingBytes <= configuration.outstandingBytesMax / 2
        else { return }
        servers[id]?.isThrottled = false
        sendWaiting(now, &actions)
    }

    private mutating func sendWaiting(_ now: Instant, _ actions: inout [ClientAction]) {
        for id in pieces.keys.sorted() {
            if case .waiting = pieces[id]?.state { send(id, now, &actions) }
        }
    }

    private mutating func tick(_ now: Instant, _ actions: inout [ClientAction]) {
        if isManagerConnected, generation != nil, now - lastKeepAlive >= configuration.keepAliveInterval {
            lastKeepAlive = now
            actions.append(.sendManager(.keepAlive([])))
        }
        for id in servers.keys.sorted() {
            switch servers[id]?.state {
            case .connecting(let since) where now - since > configuration.requestTimeout:
                servers[id]?.state = .closed(retryAt: now)
            case .greeting(_, let since) where now - since > configuration.requestTimeout:
                reconnect(id, now, &actions)
            case .open, .closed, .connecting, .greeting, nil: break
            }
        }
        for id in pieces.keys.sorted() {
            if case .sent(let server, _, let at) = pieces[id]?.state, now - at > configuration.requestTimeout {
                reconnect(server, now, &actions)
            }
        }
        for io in ios.keys.sorted() {
            if let deadline = ios[io]?.deadline, now >= deadline {
                complete(ClientIO(rawValue: io), .timedOut, &actions)
            }
        }
        sendWaiting(now, &actions)
        releaseAll(now, &actions)
    }
}

extension IDTable<UInt64, ClientCore.IO> {
    subscript(io: ClientIO) -> ClientCore.IO? {
        @inline(__always) get { self[io.rawValue] }
        @inline(__always) _modify { yield &self[io.rawValue] }
    }
}
