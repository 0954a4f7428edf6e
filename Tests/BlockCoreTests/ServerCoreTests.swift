import Base
import Testing

@testable import BlockCore

/// One storage server that is primary of the only comb, and a client that writes to it.
struct ServerBench {
    static let link = LinkID(rawValue: 1)
    static let device = DeviceID(rawValue: 5)
    static let own = SdsID(rawValue: 1)
    static let other = SdsID(rawValue: 2)
    static let client = SdcID(rawValue: 7)
    static let volume = VolumeID(rawValue: 9)
    static let pool = StoragePoolID(rawValue: 3)

    var core: ServerCore
    var now = Instant(nanoseconds: 1_000_000_000)
    var sent: [(link: LinkID, header: DataHeader)] = []
    var sentBytes: [[UInt8]] = []
    var told: [MessageToManager] = []
    var released: [PayloadID] = []
    /// What the device was asked and has not answered.
    var disk: [(id: DiskOperationID, request: DiskRequest)] = []
    var nextRequest: UInt64 = 1

    init(secondary: Bool, change: (inout ServerConfiguration) -> Void = { _ in }) throws {
        let label = DeviceLabel(sds: Self.own, device: Self.device, capacityUnits: 8, logBlocks: 3)
        var metadata = [UInt8](repeating: 0, count: Int(label.layout.data))
        for (offset, bytes) in UnitStore.format(label) {
            metadata.replaceSubrange(Int(offset)..<Int(offset) + bytes.count, with: bytes)
        }
        let store = try UnitStore.open(label, metadata: metadata) { _ in BlockMap() }.store
        var configuration = ServerConfiguration(name: "s", domainName: "d", address: "10.0.0.1:1", incarnation: 1)
        change(&configuration)
        core = ServerCore(configuration: configuration, sds: Self.own, system: nil, stores: [store])
        var actions: [ServerAction] = []
        core.begin(into: &actions)
        take(actions)
        answerDisk()
        feed(.managerConnected)
        feed(.manager(.welcomeServer(system: SystemID(rawValue: 4), sds: Self.own, generation: 1)))
        feed(.manager(.update(Self.map(secondary: secondary))))
        answerDisk()
        var hello = DataHeader(opcode: .hello)
        hello.volume = Self.client.rawValue
        hello.offset = PeerKind.client.rawValue
        hello.session = 1
        feed(.request(Self.link, hello, nil))
    }

    static func map(secondary: Bool) -> MapUpdate {
        let place = CopyPlace(sds: own, device: device)
        let second = CopyPlace(sds: other, device: DeviceID(rawValue: 6))
        let comb = Comb(
            epoch: 1, primary: place, state: secondary ? .normal(secondary: second) : .degraded, revision: 1)
        var update = MapUpdate(revision: 2, isFull: true)
        update.servers = [ServerAddress(sds: other, address: "10.0.0.2:1")]
        update.pools = [PoolUpdate(pool: pool, combCount: 1, entries: [.init(index: 0, comb: comb)])]
        update.volumes = [
            VolumeRecord(
                id: volume, pool: pool, name: "v", sizeUnits: 8, attachEpoch: 1,
                mappings: [
                    VolumeMapping(sdc: client, mode: .readWrite, epoch: 1, limitIops: 0, limitKibibytesPerSecond: 0)
                ])
        ]
        return update
    }

    mutating func feed(_ event: ServerEvent) {
        var actions: [ServerAction] = []
        core.apply(event, now: now, into: &actions)
        take(actions)
    }

    mutating func take(_ actions: [ServerAction]) {
        for action in actions {
            switch action {
            case .sendManager(let message): told.append(message)
            case .send(let link, let header, _): sent.append((link, header))
            case .sendBytes(let link, let header, let bytes):
                sent.append((link, header))
                sentBytes.append(bytes)
            case .disk(_, let id, let request): disk.append((id, request))
            case .release(let payload): released.append(payload)
            case .notice, .close, .connectPeer: break
            }
        }
    }

    /// Everything the device was asked, and what follows from it, succeeds.
    mutating func answerDisk() {
        while !disk.isEmpty {
            let (id, request) = disk.removeFirst()
            if request.isRead {
                feed(.disk(Self.device, id, .read(PayloadID(rawValue: 77))))
            } else {
                feed(.disk(Self.device, id, .done))
            }
        }
    }

    /// The same of a device whose every block has this checksum.
    mutating func answerDisk(checksum: UInt32) {
        func all(_ length: UInt32) -> BlockChecksums {
            BlockChecksums([UInt32](repeating: checksum, count: Int(length / 4096)))
        }
        while !disk.isEmpty {
            let (id, request) = disk.removeFirst()
            switch request {
            case .read(_, let length, _), .gather(_, let length, _):
                feed(.disk(Self.device, id, .read(PayloadID(rawValue: 77), all(length))))
            case .write(_, let slice), .writeThrough(_, let slice):
                feed(.disk(Self.device, id, .written(all(slice.length))))
            case .writeZeros, .writeBytes, .flush, .punch: feed(.disk(Self.device, id, .done))
            }
        }
    }

    mutating func askForMap() { ask(.map, length: Geometry.unitBytes) }

    mutating func ask(
        _ opcode: Opcode, _ volume: VolumeID = Self.volume, unit: UInt32 = 0, epoch: UInt64 = 1, length: UInt32 = 4096
    ) {
        var header = DataHeader(opcode: opcode)
        header.request = nextRequest
        nextRequest += 1
        header.session = 1
        header.volume = volume.rawValue
        header.unit = unit
        header.length = length
        header.combEpoch = epoch
        header.attachEpoch = 1
        if opcode == .write { header.flags = .payload }
        feed(.request(Self.link, header, opcode == .write ? PayloadID(rawValue: 1000 + header.request) : nil))
    }

    var lastStatus: DataStatus? { sent.last?.header.status }
}

@Suite struct ServerCoreTests {
    @Test func anUnreadableBlockOfTheOnlyCopyIsAMediaError() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        #expect(bench.lastStatus == .ok)
        bench.ask(.read)
        bench.feed(.disk(ServerBench.device, bench.disk.removeLast().id, .failed(reason: "EIO")))
        #expect(bench.lastStatus == .mediaError)
        #expect(bench.core.stores[0].stopReason == nil)
        bench.ask(.read)
        bench.answerDisk()
        #expect(bench.lastStatus == .ok)
    }

    @Test func anUnreadableBlockWithASecondCopyMovesTheComb() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        bench.feed(.manager(.update(later(ServerBench.map(secondary: true)))))
        bench.ask(.read, epoch: 2)
        bench.feed(.disk(ServerBench.device, bench.disk.removeLast().id, .failed(reason: "EIO")))
        #expect(bench.lastStatus == .notReady)
        let key = CombKey(pool: ServerBench.pool, index: 0)
        let place = CopyPlace(sds: ServerBench.own, device: ServerBench.device)
        #expect(bench.told.contains(.copyUnreadable(key, epoch: 2, copy: place)))
    }

    /// Nobody has it any more: an error until it is written again. Such a device goes once something else has its data.
    @Test func damageOfTheOnlyCopyIsAMediaError() throws {
        var bench = try ServerBench(secondary: false) { $0.damagedBlocksMax = 1 }
        bench.ask(.write)
        bench.answerDisk(checksum: 5)
        bench.ask(.read)
        bench.answerDisk(checksum: 6)
        #expect(bench.lastStatus == .mediaError)
        bench.feed(.tick)
        #expect(bench.core.stores[0].damagedBlocks == 1 && bench.core.stores[0].stopReason == nil)
        bench.ask(.write)
        bench.answerDisk(checksum: 7)
        bench.ask(.read)
        bench.answerDisk(checksum: 7)
        #expect(bench.lastStatus == .ok && bench.core.stores[0].damagedBlocks == 0)
        #expect(bench.core.isIdle)
        bench.feed(.manager(.update(later(ServerBench.map(secondary: true)))))
        bench.feed(.tick)
        #expect(bench.core.stores[0].stopReason != nil)
        #expect(bench.told.contains(.deviceFailed(ServerBench.device)))
    }

    /// A primary that reads damage gets the block from its secondary, writes it again, and then answers.
    @Test func damageIsMendedFromTheSecondary() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk(checksum: 5)
        bench.feed(.manager(.update(later(ServerBench.map(secondary: true)))))
        bench.sent = []
        bench.ask(.read, epoch: 2)
        bench.answerDisk(checksum: 6)
        #expect(bench.sent.isEmpty, "nothing is answered yet")
        let link = LinkID(rawValue: 9)
        bench.feed(.peerConnected(PeerChannel(ServerBench.other), link))
        bench.feed(.answer(link, try #require(bench.sent.last?.header).reply(.ok), []))
        let question = try #require(bench.sent.last?.header)
        #expect(question.opcode == .verify && question.length == Geometry.unitBytes)
        var map = BlockMap()
        _ = map.insert(BlockRange(start: 0, count: 1))
        let digest = UnitDigest(
            map: map, UnitStore.Completion(operation: 1, outcome: .done), range: map.extent, seen: BlockChecksums(5))
        bench.feed(.answer(link, question.reply(.ok), digest.encoded))
        let fetch = try #require(bench.sent.last?.header)
        #expect(fetch.opcode == .fetch && fetch.offset == 0 && fetch.length == 4096)
        var answer = fetch.reply(.ok)
        answer.flags.insert(.payload)
        bench.feed(.fetched(link, answer, PayloadID(rawValue: 500)))
        guard case .writeThrough(_, let slice)? = bench.disk.first?.request else {
            Issue.record("what came is written")
            return
        }
        #expect(slice.payload == PayloadID(rawValue: 500))
        bench.answerDisk(checksum: 5)
        #expect(bench.lastStatus == .ok && bench.sent.last?.link == ServerBench.link)
        #expect(bench.sent.last?.header.opcode == .read && bench.released.contains(PayloadID(rawValue: 500)))
        #expect(bench.core.stores[0].damagedBlocks == 0 && bench.core.isIdle)
    }

    /// A copy returns that was in sync at epoch 1. Unit 0 was changed since, unit 1 was not, the target was writing unit 2,
    /// it never had unit 3, and it has a unit 7 that nobody else has.
    @Test func aReturningCopyGetsWhatItLacks() throws {
        var bench = try ServerBench(secondary: false)
        for unit in 0..<4 as Range<UInt32> {
            bench.ask(.write, unit: unit)
            bench.answerDisk()
        }
        for _ in 0..<3 {
            bench.now = bench.now + .seconds(4)
            bench.feed(.tick)
            bench.answerDisk()
        }
        #expect(bench.core.stores[0].hotUnits == 0)
        var update = later(ServerBench.map(secondary: false))
        bench.feed(.manager(.update(update)))
        bench.ask(.write, epoch: 2)
        bench.answerDisk()
        let target = CopyPlace(sds: ServerBench.other, device: DeviceID(rawValue: 6))
        update = later(update)
        update.pools[0].entries[0].comb.state = .rebuilding(target: target)
        update.pools[0].entries[0].comb.former = FormerCopy(place: target, epoch: 1)
        let link = LinkID(rawValue: 9)
        bench.feed(.manager(.update(update)))
        bench.feed(.peerConnected(PeerChannel(ServerBench.other, .copying), link))
        let list = [(0, false), (1, false), (2, true), (7, false)].map { index, isHot in
            UnitList.Entry(unit: UnitKey(volume: ServerBench.volume, index: UInt32(index)), isHot: isHot)
        }
        var answered = bench.sent.count - 1
        var asked: [Opcode: [UInt32]] = [:]
        while answered < bench.sent.count {
            let (to, header) = bench.sent[answered]
            answered += 1
            guard to == link else { continue }
            asked[header.opcode, default: []].append(header.unit)
            if header.opcode == .beginCopy { #expect(header.attachEpoch == 1) }
            let bytes = header.opcode == .listUnits ? UnitList.encode(list[...]) : []
            bench.feed(.answer(link, header.reply(.ok), bytes))
            bench.answerDisk()
        }
        #expect(asked[.copy] == [0, 2, 3])
        #expect(asked[.replicateZeroes] == [0, 2], "what the target may have beyond the source's data")
        #expect(asked[.dropUnit] == [7])
        let key = CombKey(pool: ServerBench.pool, index: 0)
        #expect(bench.told.contains(.rebuildDone(key, epoch: 3, target: target)))
    }

    /// The comb is without its target again while a unit is read for it: a write there would look like damage to that read.
    @Test func aCopyThatIsGivenUpKeepsItsBlocksUntilTheDeviceHasAnswered() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write)
        bench.answerDisk()
        var update = later(ServerBench.map(secondary: false))
        let target = CopyPlace(sds: ServerBench.other, device: DeviceID(rawValue: 6))
        update.pools[0].entries[0].comb.state = .rebuilding(target: target)
        let link = LinkID(rawValue: 9)
        bench.feed(.manager(.update(update)))
        bench.feed(.peerConnected(PeerChannel(ServerBench.other, .copying), link))
        for opcode in [Opcode.hello, .beginCopy] {
            let asked = try #require(bench.sent.last { $0.link == link && $0.header.opcode == opcode }?.header)
            bench.feed(.answer(link, asked.reply(.ok), []))
        }
        let read = try #require(bench.disk.first)
        #expect(bench.disk.count == 1 && read.request.isRead)

        update = later(update)
        update.pools[0].entries[0].comb.state = .degraded
        bench.feed(.manager(.update(update)))
        bench.ask(.write, epoch: update.pools[0].entries[0].comb.epoch)
        #expect(bench.disk.map(\.id) == [read.id])
        bench.disk = []
        bench.feed(.disk(ServerBench.device, read.id, .read(PayloadID(rawValue: 77))))
        #expect(bench.released.contains(PayloadID(rawValue: 77)))
        #expect(bench.disk.count == 1 && bench.disk.first?.request.isRead == false)
        bench.answerDisk()
        #expect(bench.sent.last?.header.opcode == .write && bench.sent.last?.header.status == .ok)
    }

    /// What a primary with a bad second block sends of four while a copy is made, and what it tells.
    private func copyAround(_ bench: inout ServerBench, _ update: inout MapUpdate) throws -> [DataHeader] {
        let link = LinkID(rawValue: 9)
        let target = CopyPlace(sds: ServerBench.other, device: DeviceID(rawValue: 6))
        update = later(update)
        update.pools[0].entries[0].comb.state = .rebuilding(target: target)
        bench.now = bench.now + .seconds(1)
        var answered = bench.sent.count
        bench.feed(.manager(.update(update)))
        if answered == bench.sent.count {
            bench.feed(.peerConnected(PeerChannel(ServerBench.other, .copying), link))
        }
        let unit = UnitKey(volume: ServerBench.volume, index: 0)
        let second = try #require(bench.core.stores[0].location(of: unit)) + 4096
        var copies: [DataHeader] = []
        var isUnderWay = true
        while isUnderWay {
            isUnderWay = answered < bench.sent.count || !bench.disk.isEmpty
            while answered < bench.sent.count {
                let (to, header) = bench.sent[answered]
                answered += 1
                guard to == link, !header.isReply else { continue }
                if header.opcode == .copy { copies.append(header) }
                bench.feed(.answer(link, header.reply(.ok), []))
            }
            while let (id, request) = bench.disk.first {
                bench.disk.removeFirst()
                if case .read(let at, let length, _) = request, at..<at + UInt64(length) ~= second {
                    bench.feed(.disk(ServerBench.device, id, .failed(reason: "EIO")))
                } else {
                    bench.feed(
                        .disk(ServerBench.device, id, request.isRead ? .read(PayloadID(rawValue: 77)) : .done))
                }
            }
        }
        return copies
    }

    /// One bad place of the only copy: when it was tried three times, what can be read gets its second copy, and the rest is
    /// known to be lost there.
    @Test func whatCannotBeReadDoesNotKeepTheRestFromItsSecondCopy() throws {
        var bench = try ServerBench(secondary: false)
        bench.ask(.write, length: 4 * 4096)
        bench.answerDisk()
        let key = CombKey(pool: ServerBench.pool, index: 0)
        let target = CopyPlace(sds: ServerBench.other, device: DeviceID(rawValue: 6))
        var update = ServerBench.map(secondary: false)
        for attempt in 1...2 as ClosedRange<UInt64> {
            let copies = try copyAround(&bench, &update)
            #expect(!copies.contains { $0.flags.contains(.damaged) })
            #expect(bench.told.contains(.rebuildFailed(key, epoch: 1 + attempt, target: target)))
        }
        let copies = try copyAround(&bench, &update)
        #expect(copies.map { $0.offset / 4096 } == [0, 1, 2] && copies.map { $0.length / 4096 } == [1, 1, 2])
        #expect(copies.map { $0.flags.contains(.damaged) } == [false, true, false])
        #expect(bench.core.stores[0].stopReason == nil)
        #expect(bench.told.contains(.rebuildDone(key, epoch: 4, target: target)))
    }

    @Test func aDiskThatReadsNothingIsNoFewBadBlocks() {
        var blocks = BadBlocks()
        var lost = 0
        for attempt in 0..<5 {
            for index in 0..<100 as Range<UInt32> {
                let now = Instant(nanoseconds: UInt64(attempt) * 1_000_000_000)
                if blocks.isLost(UnitKey(volume: ServerBench.volume, index: index), 7, now) { lost += 1 }
            }
        }
        #expect(lost == 3 * 64, "from the third attempt on, the first ones only")
        let later = Instant(nanoseconds: 3_600_000_000_000)
        let known = blocks.isLost(UnitKey(volume: ServerBench.volume, index: 0), 7, later)
        #expect(!known, "it begins anew")
    }

    // MARK: Space

    /// The secondary has no room for a new unit: the write is undone here, refused, and the secondary stays.
    @Test func aWriteThatTheSecondaryHasNoRoomForIsOnNeither() throws {
        var bench = try ServerBench(secondary: true)
        let link = LinkID(rawValue: 9)
        bench.ask(.write)
        bench.feed(.peerConnected(PeerChannel(ServerBench.other), link))
        let hello = try #require(bench.sent.last?.header)
        bench.feed(.answer(link, hello.reply(.ok), []))
        let replicate = try #require(bench.sent.last { $0.link == link }?.header)
        #expect(replicate.opcode == .replicate)
        bench.answerDisk()
        #expect(bench.core.stores[0].usedUnits == 1)
        bench.feed(.answer(link, replicate.reply(.noSpace), []))
        // Until the zeros are stable on both it is not answered, and a reader waits.
        let answered = bench.sent.count
        bench.ask(.read)
        #expect(bench.sent.filter { $0.link == ServerBench.link && $0.header.isReply }.count == 1)
        let zeroes = try #require(bench.sent[..<answered].last { $0.link == link }?.header)
        #expect(zeroes.opcode == .replicateZeroes && zeroes.offset == 0 && zeroes.length == 4096)
        bench.feed(.answer(link, zeroes.reply(.ok), []))
        bench.answerDisk()
        let answers = bench.sent.filter { $0.link == ServerBench.link }.suffix(2).map(\.header)
        #expect(answers.map(\.opcode) == [.write, .read] && answers.map(\.status) == [.noSpace, .ok])
        #expect(answers[1].flags.contains(.zeros))
        #expect(bench.core.stores[0].usedUnits == 0)
        #expect(!bench.told.contains { if case .removeSecondary = $0 { true } else { false } })
    }

    /// Half of the eight units are spare.
    @Test func clientsLeaveTheSpareAndWriteWhatIsBound() throws {
        var bench = try ServerBench(secondary: false)
        var update = later(ServerBench.map(secondary: false))
        update.pools[0].sparePercentage = 50
        bench.feed(.manager(.update(update)))
        for unit in 0..<4 as Range<UInt32> {
            bench.ask(.write, unit: unit, epoch: 2)
            bench.answerDisk()
            #expect(bench.lastStatus == .ok)
        }
        bench.ask(.write, unit: 4, epoch: 2)
        bench.answerDisk()
        #expect(bench.lastStatus == .noSpace)
        for opcode in [Opcode.write, .read, .flush, .writeZeroes] {
            bench.ask(opcode, unit: 3, epoch: 2)
            bench.answerDisk()
            #expect(bench.lastStatus == .ok, "\(opcode)")
        }
        // The zeros were all that the unit held: what it gave back serves another one.
        bench.ask(.write, unit: 4, epoch: 2)
        bench.answerDisk()
        #expect(bench.lastStatus == .ok)
    }

    private func later(_ update: MapUpdate) -> MapUpdate {
        var update = update
        update.revision += 1
        update.pools[0].entries[0].comb.epoch += 1
        return update
    }

    @Test func aDeviceThatDoesNotAnswerIsGivenUp() throws {
        var bench = try ServerBench(secondary: false) { $0.deviceTimeout = .seconds(2) }
        bench.ask(.write)
        bench.answerDisk()
        bench.ask(.read)
        let hanging = bench.disk.removeLast()
        for _ in 0..<30 {
            bench.now = bench.now + .milliseconds(100)
            bench.feed(.tick)
        }
        #expect(bench.core.stores[0].stopReason != nil)
        #expect(bench.told.contains(.deviceFailed(ServerBench.device)))
        #expect(bench.lastStatus == .notReady)
        // What it reads after all belongs to nobody.
        bench.feed(.disk(ServerBench.device, hanging.id, .read(PayloadID(rawValue: 55))))
        #expect(bench.released.contains(PayloadID(rawValue: 55)))
    }

    @Test func aBusyDeviceIsNotGivenUp() throws {
        var bench = try ServerBench(secondary: false) { $0.deviceTimeout = .seconds(2) }
        for _ in 0..<50 {
            bench.ask(.write)
            bench.now = bench.now + .seconds(1)
            bench.feed(.tick)
            bench.answerDisk()
        }
        #expect(bench.core.stores[0].stopReason == nil)
    }

    /// Two servers that are full of their own clients' writes would otherwise wait for each other.
    @Test func onlyClientsAreTurnedAwayByOverload() throws {
        var bench = try ServerBench(secondary: false) { $0.requestsMax = 3 }
        for unit in 0..<4 as Range<UInt32> { bench.ask(.write, unit: unit) }
        #expect(bench.lastStatus == .overloaded)
        bench.answerDisk()
        bench.ask(.write)
        bench.answerDisk()
        #expect(bench.lastStatus == .ok)
    }

    // MARK: Maps

    @Test func tellsWhichBlocksHoldData() throws {
        var bench = try ServerBench(secondary: false)
        bench.sent = []
        bench.askForMap()
        #expect(bench.sent.last?.header.flags == [.reply, .zeros] && bench.sent.last?.header.status == .ok)
        bench.ask(.write)
        // It waits for the write: what it says of a block must not be taken back.
        bench.askForMap()
        #expect(bench.sentBytes.isEmpty)
        bench.answerDisk()
        let answer = try #require(bench.sent.last?.header)
        #expect(answer.opcode == .map && answer.flags == [.reply, .payload] && answer.length == 32)
        #expect(bench.sentBytes == [[1] + [UInt8](repeating: 0, count: 31)])
        bench.ask(.map)
        #expect(bench.sent.last?.header.status == .invalid, "only of whole units")
    }
}
