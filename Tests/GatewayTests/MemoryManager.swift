import Base
import Synchronization

@testable import BlockCore

/// A manager without servers: it decides commands on a `SystemState` as the real one does and proves every fencing at
/// once.
final class MemoryManager: ManagerPort {
    private let box: Mutex<SystemState>
    /// What the next command is refused with.
    private let refusal = Mutex<ManagerError?>(nil)

    static let system = SystemID(rawValue: 0x4f2a_77b1_0c3d_9e58)
    static let domain = ProtectionDomainID(rawValue: 0xb988_5bb7_0000_0000)
    static let pool = StoragePoolID(rawValue: 0x048a_b3c1_0000_0000)
    static let faultSet = FaultSetID(rawValue: 0x0fa0_17a1_0000_0000)
    static let sdc1 = SdcID(rawValue: 0xd503_8269_0000_0001)
    static let sdc2 = SdcID(rawValue: 0xd503_826a_0000_0002)
    static let guid1 = "A1B2C3D4-0001-4000-8000-000000000001"
    static let guid2 = "A1B2C3D4-0002-4000-8000-000000000002"

    init() {
        var state = SystemState(system: System(id: Self.system, name: "holdfast", createdAt: 1_700_000_000))
        state.domains[Self.domain] = ProtectionDomain(id: Self.domain, name: "pd1")
        state.faultSets[Self.faultSet] = FaultSet(id: Self.faultSet, domain: Self.domain, name: "rack1")
        state.pools[Self.pool] = StoragePool(
            id: Self.pool, domain: Self.domain, name: "hdd", combs: Array(repeating: .unplaced, count: 16),
            sparePercentage: 10)
        for number: UInt64 in 1...3 {
            let sds = SdsID(rawValue: 0xe1f0_0000_0000_0000 + number)
            state.servers[sds] = Sds(
                id: sds, domain: Self.domain, name: "sds\(number)", address: "10.71.0.1\(number):7072",
                status: .up, incarnation: number, generation: 1, downRevision: 0,
                faultSet: number == 3 ? Self.faultSet : nil)
            let device = DeviceID(rawValue: 0x8f82_eaa0_0000_0000 + number)
            state.devices[device] = Device(
                id: device, sds: sds, pool: Self.pool, path: "/var/lib/holdfast/device\(number).img",
                capacityUnits: 20480, status: .normal, mountCounter: 1)
            state.usedUnits[device] = 100
        }
        for (id, guid, ip) in [(Self.sdc1, Self.guid1, "10.71.0.11"), (Self.sdc2, Self.guid2, "10.71.0.12")] {
            state.clients[id] = Sdc(id: id, guid: guid, name: "", ip: ip, generation: 1, incarnation: 1)
        }
        state.connectedClients = [Self.sdc1]
        box = Mutex(state)
    }

    func refuseNext(_ error: ManagerError) { refusal.withLock { $0 = error } }

    func change(_ body: (inout SystemState) -> Void) { box.withLock { body(&$0) } }

    func state() async throws(ManagerError) -> SystemState { box.withLock { $0 } }

    /// One event for every revision.
    func events(after number: UInt64) async throws(ManagerError) -> [StorageEvent] {
        let revision = box.withLock { $0.revision }
        return (1..<revision + 1).filter { $0 > number }.map {
            StorageEvent(
                number: $0, milliseconds: 1_700_000_000_000, severity: .warning, name: "MDM_DATA_DEGRADED",
                object: "StoragePool::\(Self.pool)", text: "change \($0)")
        }
    }

    func submit(_ command: ManagerCommand) async throws(ManagerError) -> ManagerReply {
        let refused = refusal.withLock { error in
            defer { error = nil }
            return error
        }
        if let refused { throw refused }
        let result: Result<ManagerReply, ManagerError> = box.withLock { state in
            do throws(ManagerError) {
                return .success(try Self.decide(command, &state))
            } catch {
                return .failure(error)
            }
        }
        return try result.get()
    }

    private static func decide(_ command: ManagerCommand, _ state: inout SystemState) throws(ManagerError)
        -> ManagerReply
    {
        state.revision += 1
        switch command {
        case .createVolume(let pool, let name, let units, let provisioning, let createdAt):
            guard state.pools[pool] != nil else { throw ManagerError(.poolNotFound, "no pool \(pool)") }
            guard state.volume(named: name) == nil else { throw ManagerError(.nameInUse, name) }
            let id = VolumeID(rawValue: 0x03d4_64b9_0000_0000 + state.revision)
            state.volumes[id] = Volume(
                id: id, pool: pool, name: name, sizeUnits: units, provisioning: provisioning, createdAt: createdAt,
                mappings: [], attachEpoch: 0, fencedThrough: 0, revision: state.revision)
            return .createdVolume(id)
        case .resizeVolume(let id, let units): return try change(id, &state) { $0.sizeUnits = units }
        case .renameVolume(let id, let name):
            guard state.volume(named: name) == nil else { throw ManagerError(.nameInUse, name) }
            return try change(id, &state) { $0.name = name }
        case .map(let id, let sdc, let mode, let allowMultiple, let preempt):
            guard var volume = state.volumes[id] else { throw ManagerError(.volumeNotFound, "\(id)") }
            if preempt { volume.mappings = [] }
            guard volume.mapping(of: sdc) == nil else { throw ManagerError(.alreadyMapped, volume.name) }
            guard volume.mappings.isEmpty || allowMultiple else { throw ManagerError(.mappedElsewhere, volume.name) }
            volume.attachEpoch += 1
            volume.mappings.append(
                VolumeMapping(
                    sdc: sdc, mode: mode, epoch: volume.attachEpoch, limitIops: 0, limitKibibytesPerSecond: 0))
            volume.fencedThrough = volume.attachEpoch
            state.volumes[id] = volume
            return .fenced(proof(volume, state))
        case .unmap(let id, let sdc):
            guard var volume = state.volumes[id] else { throw ManagerError(.volumeNotFound, "\(id)") }
            guard let sdc else {
                volume.mappings = []
                volume.attachEpoch += 1
                volume.fencedThrough = volume.attachEpoch
                state.volumes[id] = volume
                return .fenced(proof(volume, state))
            }
            guard volume.mapping(of: sdc) != nil else { throw ManagerError(.notMapped, volume.name) }
            volume.mappings.removeAll { $0.sdc == sdc }
            volume.attachEpoch += 1
            volume.fencedThrough = volume.attachEpoch
            state.volumes[id] = volume
            return .fenced(proof(volume, state))
        case .setMappingLimits(let id, let sdc, let iops, let bandwidth):
            return try change(id, &state) { volume in
                for index in volume.mappings.indices where volume.mappings[index].sdc == sdc {
                    volume.mappings[index].limitIops = iops
                    volume.mappings[index].limitKibibytesPerSecond = bandwidth
                }
            }
        case .removeSdc(let sdc):
            guard state.volumes(mappedTo: sdc).isEmpty else { throw ManagerError(.inUse, "\(sdc)") }
            state.clients[sdc] = nil
            return .done
        case .renameSdc(let sdc, let name):
            guard state.clients[sdc] != nil else { throw ManagerError(.sdcNotFound, "\(sdc)") }
            state.clients[sdc]?.name = name
            return .done
        case .takeSnapshots(let definitions, let createdAt):
            var draft = ManagerDraft(state, rules: .all)
            var random = SeededRandom(seed: state.revision)
            let nodes = try draft.cut(definitions)
            let reply = try draft.show(definitions, nodes, createdAt: createdAt, &random)
            state = draft.state
            return reply
        case .configure, .createProtectionDomain, .createStoragePool, .renameSds, .removeSds, .removeVolume,
            .removeVolumes:
            var draft = ManagerDraft(state, rules: .all)
            var random = SeededRandom(seed: state.revision)
            guard case .reply(let reply) = try draft.execute(command, &random) else {
                throw ManagerError(.unavailable, "not part of this manager")
            }
            state = draft.state
            return reply
        case .registerSdc:
            throw ManagerError(.unavailable, "not part of this manager")
        }
    }

    private static func change(
        _ id: VolumeID, _ state: inout SystemState, _ body: (inout Volume) -> Void
    ) throws(ManagerError) -> ManagerReply {
        guard var volume = state.volumes[id] else { throw ManagerError(.volumeNotFound, "\(id)") }
        body(&volume)
        state.volumes[id] = volume
        return .done
    }

    private static func proof(_ volume: Volume, _ state: SystemState) -> FencingProof {
        var entries = state.servers.keys.map {
            FencingProof.Entry(sds: $0, evidence: .acknowledged(revision: state.revision))
        }
        entries[2].evidence = .removed(revision: state.revision)
        return FencingProof(
            volume: volume.id, attachEpoch: volume.attachEpoch, entries: entries, elapsed: .milliseconds(12))
    }
}
