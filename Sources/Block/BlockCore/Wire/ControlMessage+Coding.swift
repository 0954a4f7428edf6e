/// Control messages on a stream: `length` (u32, of what follows), CRC32C of the body (u32), body.
public enum ControlFrame {
    public static let version: UInt8 = 6
    /// A full map of a large system is about 100 bytes per comb.
    public static let maximumLength = 64 << 20

    public static func encode(_ message: MessageToManager) -> [UInt8] { frame { $0.put(message) } }
    public static func encode(_ message: MessageFromManager) -> [UInt8] { frame { $0.put(message) } }

    /// The length of the frame's rest (checksum and body) from its first four bytes; throws if it cannot be right.
    public static func length(prefix: [UInt8]) throws(WireError) -> Int {
        var reader = ByteReader(prefix)
        let length = Int(try reader.number(UInt32.self))
        guard length >= 6, length <= maximumLength else { throw WireError(description: "frame of \(length) bytes") }
        return length
    }

    /// Decodes the rest of a frame (everything after the length).
    public static func decodeToManager(_ rest: [UInt8]) throws(WireError) -> MessageToManager {
        var reader = try body(of: rest)
        let message = try reader.messageToManager()
        try reader.finish()
        return message
    }
    public static func decodeFromManager(_ rest: [UInt8]) throws(WireError) -> MessageFromManager {
        var reader = try body(of: rest)
        let message = try reader.messageFromManager()
        try reader.finish()
        return message
    }

    private static func frame(_ write: (inout ByteWriter) -> Void) -> [UInt8] {
        var body = ByteWriter()
        body.put(version)
        write(&body)
        var frame = ByteWriter()
        frame.put(UInt32(body.bytes.count + 4))
        frame.put(CRC32C.checksum(body.bytes))
        return frame.bytes + body.bytes
    }

    private static func body(of rest: [UInt8]) throws(WireError) -> ByteReader {
        var reader = ByteReader(rest)
        let checksum = try reader.number(UInt32.self)
        let covered = rest.withUnsafeBytes { CRC32C.checksum(UnsafeRawBufferPointer(rebasing: $0[4...])) }
        guard checksum == covered else { throw WireError(description: "frame checksum differs") }
        let version = try reader.number(UInt8.self)
        guard version == ControlFrame.version else {
            throw WireError(description: "control protocol version \(version)")
        }
        return reader
    }
}

extension ByteWriter {
    fileprivate mutating func put(_ message: MessageToManager) {
        switch message {
        case .serverHello(let hello):
            put(UInt8(1))
            put(hello.system?.rawValue ?? 0)
            put(hello.sds)
            put(hello.name)
            put(hello.domainName)
            put(hello.address)
            put(hello.incarnation)
            put(hello.hostBoot)
            put(list: hello.devices) { writer, device in
                writer.put(device.id)
                writer.put(device.poolName)
                writer.put(device.path)
                writer.put(device.capacityUnits)
                writer.put(device.mountCounter)
            }
            put(hello.faultSetName)
        case .clientHello(let hello):
            put(UInt8(2))
            put(hello.guid)
            put(hello.name)
            put(hello.ip)
            put(hello.incarnation)
        case .keepAlive(let usage):
            put(UInt8(3))
            put(list: usage) { writer, usage in
                writer.put(usage.device)
                writer.put(usage.usedUnits)
                writer.put(usage.thickUnits)
                for kind in IOCounters.Class.allCases {
                    writer.put(usage.counters[kind].count)
                    writer.put(usage.counters[kind].bytes)
                }
                writer.put(usage.integrity)
            }
        case .acknowledge(let revision):
            put(UInt8(4))
            put(revision)
        case .removeSecondary(let key, let epoch, let place): put(5, key, epoch, place)
        case .rebuildDone(let key, let epoch, let place): put(6, key, epoch, place)
        case .rebuildFailed(let key, let epoch, let place): put(7, key, epoch, place)
        case .deviceFailed(let device):
            put(UInt8(8))
            put(device)
        case .requestMap: put(UInt8(9))
        case .copyUnreadable(let key, let epoch, let place): put(10, key, epoch, place)
        case .cut(let id, let answer, let isIntact):
            put(UInt8(12))
            put(id)
            put(answer.rawValue)
            put(isIntact)
        case .leaseRequest(let number):
            put(UInt8(13))
            put(number)
        case .nodeEmpty(let tree, let node, let revision):
            put(UInt8(14))
            put(tree)
            put(node)
            put(revision)
        case .drained(let key, let epoch):
            put(UInt8(11))
            put(key.pool)
            put(key.index)
            put(epoch)
        }
    }

    private mutating func put(_ kind: UInt8, _ key: CombKey, _ epoch: UInt64, _ place: CopyPlace) {
        put(kind)
        put(key.pool)
        put(key.index)
        put(epoch)
        put(place)
    }

    mutating func put(_ place: CopyPlace) {
        put(place.sds)
        put(place.device)
    }

    fileprivate mutating func put(_ message: MessageFromManager) {
        switch message {
        case .welcomeServer(let system, let sds, let generation):
            put(UInt8(1))
            put(system)
            put(sds)
            put(generation)
        case .welcomeClient(let system, let sdc, let generation):
            put(UInt8(2))
            put(system)
            put(sdc)
            put(generation)
        case .refused(let code, let message):
            put(UInt8(3))
            put(code)
            put(message)
        case .update(let update):
            put(UInt8(4))
            put(update)
        case .keepAlive: put(UInt8(5))
        case .redirect(let leader):
            put(UInt8(6))
            put(leader ?? "")
        case .cut(let id, let step):
            put(UInt8(7))
            put(id)
            put(step)
        case .lease(let number):
            put(UInt8(8))
            put(number)
        }
    }

    private mutating func put(_ step: CutStep) {
        switch step {
        case .hold(let volumes):
            put(UInt8(1))
            put(list: volumes) { $0.put($1) }
        case .seal: put(UInt8(2))
        case .conclude: put(UInt8(3))
        case .release: put(UInt8(4))
        }
    }

    private mutating func put(_ update: MapUpdate) {
        put(update.revision)
        put(update.isFull)
        put(list: update.servers) { writer, server in
            writer.put(server.sds)
            writer.put(server.address)
        }
        put(list: update.pools) { writer, pool in
            writer.put(pool.pool)
            writer.put(pool.combCount)
            writer.put(pool.settings)
            writer.put(pool.sparePercentage)
            writer.put(list: pool.entries) { writer, entry in
                writer.put(entry.index)
                writer.put(entry.comb)
            }
        }
        put(list: update.volumes) { writer, volume in
            writer.put(volume.id)
            writer.put(volume.pool)
            writer.put(volume.name)
            writer.put(volume.sizeUnits)
            writer.put(volume.isThick)
            writer.put(volume.attachEpoch)
            writer.put(list: volume.mappings) { $0.put($1) }
            writer.put(volume.tree)
            writer.put(volume.head)
        }
        put(list: update.removedVolumes) { $0.put($1) }
        put(list: update.trees) { $0.put($1) }
        put(list: update.removedTrees) { $0.put($1) }
    }

    mutating func put(_ tree: VolumeTree) {
        put(tree.id)
        put(tree.pool)
        put(tree.nextNode)
        put(list: tree.nodes) { writer, node in
            writer.put(node.number)
            writer.put(node.parent ?? .max)
        }
    }

    mutating func put(_ mapping: VolumeMapping) {
        put(mapping.sdc)
        put(UInt8(AccessMode.allCases.firstIndex(of: mapping.mode) ?? 0))
        put(mapping.epoch)
        put(mapping.limitIops)
        put(mapping.limitKibibytesPerSecond)
    }

    mutating func put(_ comb: Comb) {
        put(comb.epoch)
        put(comb.revision)
        put(comb.primary)
        switch comb.state {
        case .unplaced: put(UInt8(0))
        case .normal(let secondary):
            put(UInt8(1))
            put(secondary)
        case .degraded: put(UInt8(2))
        case .rebuilding(let target):
            put(UInt8(3))
            put(target)
        case .unavailable: put(UInt8(4))
        case .moving(let secondary, let target):
            put(UInt8(5))
            put(secondary)
            put(target)
        case .swapping(let secondary):
            put(UInt8(6))
            put(secondary)
        }
        put(comb.former != nil)
        if let former = comb.former {
            put(former.place)
            put(former.epoch)
        }
    }

    private mutating func put(_ integrity: DeviceIntegrity) {
        put(integrity.damagedBlocks)
        put(integrity.found)
        put(integrity.mended)
        put(integrity.differing)
        put(integrity.scannedUnits)
        put(integrity.passes)
        put(integrity.keepsChecksums)
    }
}

extension ByteReader {
    fileprivate mutating func messageToManager() throws(WireError) -> MessageToManager {
        let kind = try number(UInt8.self)
        switch kind {
        case 1: return .serverHello(try serverHello())
        case 2:
            return .clientHello(
                ClientHello(guid: try text(), name: try text(), ip: try text(), incarnation: try number(UInt64.self)))
        case 3:
            return .keepAlive(
                try list(minimumSize: 173) { reader throws(WireError) in try reader.deviceUsage() })
        case 4: return .acknowledge(revision: try number(UInt64.self))
        case 5: return .removeSecondary(try key(), epoch: try number(UInt64.self), secondary: try place())
        case 6: return .rebuildDone(try key(), epoch: try number(UInt64.self), target: try place())
        case 7: return .rebuildFailed(try key(), epoch: try number(UInt64.self), target: try place())
        case 8: return .deviceFailed(try id(DeviceID.self))
        case 9: return .requestMap
        case 11: return .drained(try key(), epoch: try number(UInt64.self))
        case 12:
            let id = try number(UInt64.self)
            let kind = try number(UInt8.self)
            guard let answer = CutAnswer(rawValue: kind) else {
                throw WireError(description: "answer \(kind) about snapshots")
            }
            return .cut(id, answer, isIntact: try flag())
        case 13: return .leaseRequest(number: try number(UInt64.self))
        case 14:
            return .nodeEmpty(
                try id(TreeID.self), node: try number(UInt32.self), revision: try number(UInt64.self))
        case 10: return .copyUnreadable(try key(), epoch: try number(UInt64.self), copy: try place())
        default: throw WireError(description: "unknown message \(kind) to the manager")
        }
    }

    private mutating func deviceUsage() throws(WireError) -> DeviceUsage {
        var usage = DeviceUsage(
            device: try id(DeviceID.self), usedUnits: try number(UInt32.self), thickUnits: try number(UInt32.self))
        for kind in IOCounters.Class.allCases {
            usage.counters[kind].count = try number(UInt64.self)
            usage.counters[kind].bytes = try number(UInt64.self)
        }
        usage.integrity = try deviceIntegrity()
        return usage
    }

    private mutating func deviceIntegrity() throws(WireError) -> DeviceIntegrity {
        var integrity = DeviceIntegrity()
        integrity.damagedBlocks = try number(UInt64.self)
        integrity.found = try number(UInt64.self)
        integrity.mended = try number(UInt64.self)
        integrity.differing = try number(UInt64.self)
        integrity.scannedUnits = try number(UInt64.self)
        integrity.passes = try number(UInt64.self)
        integrity.keepsChecksums = try flag()
        return integrity
    }

    private mutating func serverHello() throws(WireError) -> ServerHello {
        let system = try number(UInt64.self)
        return ServerHello(
            system: system == 0 ? nil : SystemID(rawValue: system), sds: try id(SdsID.self), name: try text(),
            domainName: try text(), address: try text(), incarnation: try number(UInt64.self),
            hostBoot: try text(),
            devices: try list(minimumSize: 24) { reader throws(WireError) in
                DeviceOffer(
                    id: try reader.id(DeviceID.self), poolName: try reader.text(), path: try reader.text(),
                    capacityUnits: try reader.number(UInt32.self), mountCounter: try reader.number(UInt64.self))
            }, faultSetName: try text())
    }

    private mutating func key() throws(WireError) -> CombKey {
        CombKey(pool: try id(StoragePoolID.self), index: try number(UInt32.self))
    }

    private mutating func place() throws(WireError) -> CopyPlace {
        CopyPlace(sds: try id(SdsID.self), device: try id(DeviceID.self))
    }

    fileprivate mutating func messageFromManager() throws(WireError) -> MessageFromManager {
        let kind = try number(UInt8.self)
        switch kind {
        case 1:
            return .welcomeServer(
                system: try id(SystemID.self), sds: try id(SdsID.self), generation: try number(UInt32.self))
        case 2:
            return .welcomeClient(
                system: try id(SystemID.self), sdc: try id(SdcID.self), generation: try number(UInt32.self))
        case 3: return .refused(code: try text(), message: try text())
        case 4: return .update(try mapUpdate())
        case 5: return .keepAlive
        case 6:
            let leader = try text()
            return .redirect(leader: leader.isEmpty ? nil : leader)
        case 7: return .cut(try number(UInt64.self), try cutStep())
        case 8: return .lease(number: try number(UInt64.self))
        default: throw WireError(description: "unknown message \(kind) from the manager")
        }
    }

    private mutating func cutStep() throws(WireError) -> CutStep {
        let kind = try number(UInt8.self)
        switch kind {
        case 1: return .hold(try list(minimumSize: 8) { reader throws(WireError) in try reader.id(VolumeID.self) })
        case 2: return .seal
        case 3: return .conclude
        case 4: return .release
        default: throw WireError(description: "step \(kind) of snapshots")
        }
    }

    private mutating func mapUpdate() throws(WireError) -> MapUpdate {
        var update = MapUpdate(revision: try number(UInt64.self), isFull: try flag())
        update.servers = try list(minimumSize: 10) { reader throws(WireError) in
            ServerAddress(sds: try reader.id(SdsID.self), address: try reader.text())
        }
        update.pools = try list(minimumSize: 16) { reader throws(WireError) in try reader.poolUpdate() }
        update.volumes = try list(minimumSize: 47) { reader throws(WireError) in try reader.volumeRecord() }
        update.removedVolumes = try list(minimumSize: 8) { reader throws(WireError) in try reader.id(VolumeID.self) }
        update.trees = try list(minimumSize: 24) { reader throws(WireError) in try reader.volumeTree() }
        update.removedTrees = try list(minimumSize: 8) { reader throws(WireError) in try reader.id(TreeID.self) }
        return update
    }

    mutating func volumeTree() throws(WireError) -> VolumeTree {
        let id = try id(TreeID.self)
        let pool = try self.id(StoragePoolID.self)
        let nextNode = try number(UInt32.self)
        let nodes = try list(minimumSize: 8) { reader throws(WireError) in
            let number = try reader.number(UInt32.self)
            let parent = try reader.number(UInt32.self)
            return VolumeTree.Node(number: number, parent: parent == .max ? nil : parent)
        }
        guard let tree = VolumeTree(id: id, pool: pool, nodes: nodes, nextNode: nextNode) else {
            throw WireError(description: "a tree of \(nodes.count) nodes that cannot be one")
        }
        return tree
    }

    private mutating func poolUpdate() throws(WireError) -> PoolUpdate {
        let pool = try id(StoragePoolID.self)
        let combCount = try number(UInt32.self)
        guard combCount > 0, combCount <= 1 << 16, combCount & (combCount - 1) == 0 else {
            throw WireError(description: "a pool of \(combCount) combs")
        }
        let settings = try poolSettings(hasScanner: true)
        let sparePercentage = try number(UInt32.self)
        guard sparePercentage <= 100 else { throw WireError(description: "a spare of \(sparePercentage) %") }
        let entries = try list(minimumSize: 38) { reader throws(WireError) in
            PoolUpdate.Entry(
                index: try reader.number(UInt32.self), comb: try reader.comb(version: ControlFrame.version))
        }
        guard entries.allSatisfy({ $0.index < combCount }) else { throw WireError(description: "comb out of range") }
        return PoolUpdate(
            pool: pool, combCount: combCount, settings: settings, sparePercentage: sparePercentage, entries: entries)
    }

    private mutating func volumeRecord() throws(WireError) -> VolumeRecord {
        VolumeRecord(
            id: try id(VolumeID.self), pool: try id(StoragePoolID.self), name: try text(),
            sizeUnits: try number(UInt32.self), isThick: try flag(), attachEpoch: try number(UInt64.self),
            mappings: try list(minimumSize: 25) { reader throws(WireError) in try reader.mapping() },
            tree: try id(TreeID.self), head: try number(UInt32.self))
    }

    mutating func mapping() throws(WireError) -> VolumeMapping {
        let sdc = try id(SdcID.self)
        let mode = Int(try number(UInt8.self))
        guard mode < AccessMode.allCases.count else { throw WireError(description: "access mode \(mode)") }
        return VolumeMapping(
            sdc: sdc, mode: AccessMode.allCases[mode], epoch: try number(UInt64.self),
            limitIops: try number(UInt32.self), limitKibibytesPerSecond: try number(UInt32.self))
    }

    /// `version` is that of the record or message around it: 1 knows no former copy.
    mutating func comb(version: UInt8) throws(WireError) -> Comb {
        let epoch = try number(UInt64.self)
        let revision = try number(UInt64.self)
        let primary = try place()
        let kind = try number(UInt8.self)
        let state: Comb.State
        switch kind {
        case 0: state = .unplaced
        case 1: state = .normal(secondary: try place())
        case 2: state = .degraded
        case 3: state = .rebuilding(target: try place())
        case 4: state = .unavailable
        case 5: state = .moving(secondary: try place(), target: try place())
        case 6: state = .swapping(secondary: try place())
        default: throw WireError(description: "comb state \(kind)")
        }
        var comb = Comb(epoch: epoch, primary: primary, state: state, revision: revision)
        if version > 1, try flag() { comb.former = FormerCopy(place: try place(), epoch: try number(UInt64.self)) }
        return comb
    }
}
