import Base
import Testing

@testable import BlockCore

/// Policies in virtual time: a device from which copies of 1 MiB could be read in 5 ms each.
@Suite struct CopyThrottleTests {
    /// Copies begun in a second, and the most at once, while applications ask `requests` times a second.
    private func run(
        _ policy: IoPriorityPolicy, seconds: Int = 10, requests: Int = 0, requestsUntil: Int = .max
    ) -> (perSecond: [Int], atOnce: Int) {
        var settings = PoolSettings()
        settings.rebuildPolicy = policy
        var throttle = CopyThrottle()
        var now = Instant(nanoseconds: 1_000_000_000)
        var turns: [CopyThrottle.Turn] = []
        var (begun, atOnce) = ([Int](repeating: 0, count: seconds), 0)
        for millisecond in 0..<seconds * 1000 {
            now = now + .milliseconds(1)
            if requests > 0, millisecond / 1000 < requestsUntil, millisecond % max(1, 1000 / requests) == 0 {
                throttle.noteRequest(bytes: 4096, now)
            }
            for turn in turns where turn.began + .milliseconds(5) <= now { throttle.ended(turn, policy, now) }
            turns.removeAll { $0.began + .milliseconds(5) <= now }
            if millisecond % 20 == 0 { throttle.tick(settings, now) }
            while turns.count < 16, throttle.mayStart(.rebuild, policy, now) {
                throttle.started(.rebuild, policy, bytes: 1 << 20, now)
                turns.append(CopyThrottle.Turn(kind: .rebuild, began: now))
                begun[millisecond / 1000] += 1
                atOnce = max(atOnce, turns.count)
            }
        }
        return (begun, atOnce)
    }

    @Test func unlimitedTakesAllThereIs() {
        let result = run(IoPriorityPolicy(.unlimited))
        #expect(result.atOnce == 16)
    }

    @Test(arguments: [1, 3] as [UInt32]) func copiesAtOnceAreLimited(_ count: UInt32) {
        var policy = IoPriorityPolicy(.limitNumOfConcurrentIos)
        policy.concurrentIosPerDevice = count
        let result = run(policy)
        #expect(result.atOnce == Int(count))
        #expect(result.perSecond.allSatisfy { $0 >= 190 * Int(count) })
    }

    @Test func copiesRestWhileApplicationsAreBusy() {
        let result = run(IoPriorityPolicy(.limitNumOfConcurrentIos), requests: 100, requestsUntil: 5)
        #expect(result.perSecond[..<5].allSatisfy { (80...110).contains($0) }, "\(result.perSecond)")
        #expect(result.perSecond[6...].allSatisfy { $0 >= 190 }, "\(result.perSecond)")
        let unlimited = run(IoPriorityPolicy(.unlimited), requests: 100)
        #expect(unlimited.atOnce == 16)
    }

    @Test func piecesAreSmallWhileApplicationsAreBusy() {
        let policy = IoPriorityPolicy(.limitNumOfConcurrentIos)
        var throttle = CopyThrottle()
        let now = Instant(nanoseconds: 1_000_000_000)
        #expect(throttle.pieceBlocks(.rebuild, policy, now) == 256)
        throttle.noteRequest(bytes: 4096, now)
        #expect(throttle.pieceBlocks(.rebuild, policy, now) == 32)
        #expect(throttle.pieceBlocks(.rebuild, IoPriorityPolicy(.unlimited), now) == 256)
        #expect(throttle.pieceBlocks(.rebuild, policy, now + .milliseconds(100)) == 256)
    }

    @Test func piecesCoverTheirRun() {
        let pieces = BlockRange(start: 10, count: 70).pieces(of: 32)
        #expect(pieces == [(10, 32), (42, 32), (74, 6)].map { BlockRange(start: $0.0, count: $0.1) })
    }

    @Test func bandwidthIsLimited() {
        var policy = IoPriorityPolicy(.favorAppIos)
        policy.kibibytesPerSecondPerDevice = 10240
        let result = run(policy)
        #expect(result.atOnce == 1)
        #expect(result.perSecond.allSatisfy { (10...11).contains($0) }, "\(result.perSecond)")
    }

    @Test func limitsBeginAndEndWithTheApplications() {
        var policy = IoPriorityPolicy(.dynamicBwThrottling)
        policy.appIopsThreshold = 100
        policy.quietPeriodMilliseconds = 2000
        let idle = run(policy, requests: 50)
        #expect(idle.perSecond.allSatisfy { $0 > 1000 })
        let busy = run(policy, requests: 200, requestsUntil: 5)
        #expect(busy.perSecond[2...4].allSatisfy { (9...11).contains($0) }, "\(busy.perSecond)")
        #expect((9...11).contains(busy.perSecond[6]), "the quiet period is not over")
        #expect(busy.perSecond[9] > 1000, "\(busy.perSecond)")
    }

    @Test func kindsDoNotCountForEachOther() {
        let policy = IoPriorityPolicy(.limitNumOfConcurrentIos)
        var throttle = CopyThrottle()
        throttle.started(.rebalance, policy, bytes: 4096, .zero)
        #expect(throttle.mayStart(.rebuild, policy, .zero))
        #expect(!throttle.mayStart(.rebalance, policy, .zero))
        throttle.ended(CopyThrottle.Turn(kind: .rebalance, began: .zero), policy, .zero)
        #expect(throttle.mayStart(.rebalance, policy, .zero))
    }
}
