import Base
import Testing

@testable import BlockCore

/// A client of one volume with limits, in virtual time: its server answers after a while, and its front end keeps a
/// number of I/Os under way.
private struct LimitedClient {
    static let volume = VolumeID(rawValue: 9)
    static let link = LinkID(rawValue: 1)
    static let step = Duration.microseconds(100)

    var core = ClientCore(configuration: ClientConfiguration(guid: "G", name: "c", ip: "c", incarnation: 1))
    var now = Instant(nanoseconds: 1_000_000_000)
    var revision: UInt64 = 0
    var epoch: UInt64 = 1
    var kind = ClientIOKind.writeZeroes
    var length: UInt32 = 4096
    var serviceTime = Duration.microseconds(300)
    var nextIO: UInt64 = 1
    var answers: [(at: Instant, header: DataHeader)] = []
    var wakeAt: Instant?
    var nextTick = Instant.zero
    /// When each I/O began, as the server saw it, and in which order.
    var begun: [(at: Instant, offset: UInt32, unit: UInt32)] = []
    var ended: [ClientIOResult] = []
    var inFlight = 0

    init(_ limits: VolumeLimits) {
        feed(.managerConnected)
        feed(.manager(.welcomeClient(system: SystemID(rawValue: 2), sdc: SdcID(rawValue: 3), generation: 1)))
        map(limits)
        submit()
        feed(.serverConnected(SdsID(rawValue: 7), LimitedClient.link))
        run(.seconds(1), depth: 0)
        begun = []
    }

    mutating func map(_ limits: VolumeLimits) {
        revision += 1
        let place = CopyPlace(sds: SdsID(rawValue: 7), device: DeviceID(rawValue: 8))
        let comb = Comb(epoch: 1, primary: place, state: .degraded, revision: 1)
        var update = MapUpdate(revision: revision, isFull: true)
        update.servers = [ServerAddress(sds: place.sds, address: "s")]
        let pool = StoragePoolID(rawValue: 5)
        update.pools = [PoolUpdate(pool: pool, combCount: 1, entries: [PoolUpdate.Entry(index: 0, comb: comb)])]
        let mapping = VolumeMapping(
            sdc: SdcID(rawValue: 3), mode: .readWrite, epoch: epoch, limitIops: limits.iops,
            limitKibibytesPerSecond: limits.kibibytesPerSecond)
        update.volumes = [
            VolumeRecord(
                id: LimitedClient.volume, pool: pool, name: "v", sizeUnits: 1 << 20, attachEpoch: epoch,
                mappings: [mapping])
        ]
        feed(.manager(.update(update)))
    }

    mutating func feed(_ event: ClientEvent) {
        var actions: [ClientAction] = []
        core.apply(event, now: now, into: &actions)
        for action in actions {
            switch action {
            case .send(_, let header, _):
                if header.opcode != .hello { begun.append((now, header.offset, header.unit)) }
                answers.append((now + serviceTime, header))
            case .complete(_, let result):
                ended.append(result)
                inFlight -= 1
            case .wake(let delay): wakeAt = now + delay
            default: break
            }
        }
    }

    mutating func submit() {
        inFlight += 1
        let position = nextIO * UInt64(length)
        feed(
            .submit(
                ClientIO(rawValue: nextIO), Attachment(volume: LimitedClient.volume, epoch: epoch), kind,
                offset: position, length: length))
        nextIO += 1
    }

    mutating func run(_ time: Duration, depth: Int) {
        let end = now + time
        while now < end {
            while inFlight < depth { submit() }
            now = now + LimitedClient.step
            if let wakeAt, now >= wakeAt {
                self.wakeAt = nil
                feed(.wake)
            }
            if now >= nextTick {
                nextTick = now + .milliseconds(20)
                feed(.tick)
            }
            while let first = answers.first, now >= first.at {
                answers.removeFirst()
                var answer = first.header.reply(.ok)
                if answer.opcode == .read { answer.flags.insert(.zeros) }
                feed(.answer(LimitedClient.link, answer, nil))
            }
        }
    }

    /// The fewest and the most I/Os that began in any second, looked at every 50 ms, of those that are over.
    func perSecond(from start: Instant) -> ClosedRange<Int> {
        var low = Int.max
        var high = 0
        var from = start
        while from + .seconds(1) <= now {
            let count = begun.count { $0.at >= from && $0.at < from + .seconds(1) }
            low = min(low, count)
            high = max(high, count)
            from = from + .milliseconds(50)
        }
        return low...max(low, high)
    }
}

@Suite struct ThrottleTests {
    struct Case: CustomTestStringConvertible {
        var limits: VolumeLimits
        var kind: ClientIOKind
        var length: UInt32
        var depth: Int
        /// I/Os per second that the limits allow.
        var expected: Double
        var testDescription: String { "\(limits) \(kind) \(length) depth \(depth)" }
    }

    static let cases = [
        Case(limits: VolumeLimits(iops: 11), kind: .read, length: 4096, depth: 4, expected: 11),
        Case(limits: VolumeLimits(iops: 500), kind: .read, length: 65536, depth: 1, expected: 500),
        Case(limits: VolumeLimits(iops: 2000), kind: .writeZeroes, length: 4096, depth: 1, expected: 2000),
        Case(limits: VolumeLimits(iops: 7001), kind: .read, length: 4096, depth: 32, expected: 7001),
        Case(limits: VolumeLimits(kibibytesPerSecond: 1024), kind: .read, length: 4096, depth: 8, expected: 256),
        Case(limits: VolumeLimits(kibibytesPerSecond: 102_400), kind: .read, length: 131_072, depth: 8, expected: 800),
        Case(
            limits: VolumeLimits(iops: 300, kibibytesPerSecond: 4096), kind: .read, length: 8192, depth: 16,
            expected: 300),
        Case(
            limits: VolumeLimits(iops: 3000, kibibytesPerSecond: 4096), kind: .read, length: 8192, depth: 16,
            expected: 512),
    ]

    /// Within 5 % in every second, and one I/O, which cannot be cut.
    @Test(arguments: cases) func keepsToTheLimit(_ given: Case) {
        var client = LimitedClient(given.limits)
        client.kind = given.kind
        client.length = given.length
        let start = client.now
        client.run(.seconds(5), depth: given.depth)
        let seen = client.perSecond(from: start)
        #expect(Double(seen.upperBound) <= given.expected * 1.05 + 1, "\(seen)")
        #expect(Double(seen.lowerBound) >= given.expected * 0.95 - 1, "\(seen)")
    }

    @Test func idlenessSavesNothingUp() {
        var client = LimitedClient(VolumeLimits(iops: 1000))
        client.run(.seconds(10), depth: 0)
        let start = client.now
        client.run(.seconds(2), depth: 64)
        #expect(client.perSecond(from: start).upperBound <= 1051)
    }

    @Test func anIOLargerThanABurstIsPaidForAfterwards() {
        var client = LimitedClient(VolumeLimits(kibibytesPerSecond: 1024))
        client.kind = .read
        client.length = 4 << 20
        let start = client.now
        client.run(.seconds(13), depth: 1)
        // Each is four pieces of a unit.
        #expect(client.begun.count { $0.at >= start } == 16)
    }

    @Test func zeroingMovesNoBytes() {
        var client = LimitedClient(VolumeLimits(kibibytesPerSecond: 1024))
        client.length = 1 << 20
        client.run(.seconds(1), depth: 8)
        #expect(client.ended.count > 1000)
    }

    @Test func changesAtOnceWhileIOWaits() {
        var client = LimitedClient(VolumeLimits(iops: 20))
        client.run(.seconds(2), depth: 16)
        client.map(VolumeLimits(iops: 400))
        let start = client.now
        client.run(.seconds(3), depth: 16)
        let seen = client.perSecond(from: start)
        #expect(seen.lowerBound >= 380 && seen.upperBound <= 421, "\(seen)")
        client.map(.none)
        let before = client.ended.count
        client.run(.seconds(1), depth: 16)
        #expect(client.ended.count - before > 20_000, "without a limit the server alone decides")
        client.map(VolumeLimits(iops: 50))
        let again = client.now
        client.run(.seconds(3), depth: 16)
        #expect(client.perSecond(from: again).upperBound <= 54)
    }

    @Test func firstComeFirstServed() {
        var client = LimitedClient(VolumeLimits(iops: 100))
        for _ in 0..<50 { client.submit() }
        client.map(VolumeLimits(iops: 200))
        for _ in 0..<50 { client.submit() }
        client.run(.seconds(2), depth: 0)
        let positions = client.begun.map { UInt64($0.unit) << 20 + UInt64($0.offset) }
        #expect(positions.count == 100)
        #expect(positions == positions.sorted())
    }

    /// Nothing waits for tokens of a volume that is taken away, and such a wait does not count as time without service.
    @Test func whatWaitsIsNeitherLostNorTimedOut() {
        var client = LimitedClient(VolumeLimits(iops: 11))
        for _ in 0..<1500 { client.submit() }
        client.ended = []
        client.run(.seconds(90), depth: 0)
        #expect(client.ended.count > 900 && client.ended.allSatisfy { $0 == .ok })
        client.ended = []
        let left = client.inFlight
        client.epoch = 2
        client.map(VolumeLimits(iops: 11))
        #expect(client.ended == Array(repeating: .fenced, count: left))
        #expect(client.core.inFlight == 0)
        client.ended = []
        client.submit()
        client.run(.seconds(1), depth: 0)
        #expect(client.ended == [.ok])
    }
}
