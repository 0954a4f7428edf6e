import Base
import Glibc
import Testing

@testable import BlockClient

/// The life of a ublk device, against a kernel in memory.
@Suite struct UblkDeviceCoreTests {
    private func run(_ events: [UblkDeviceCore.Event], canResize: Bool = true) -> [[UblkDeviceCore.Action]] {
        var core = UblkDeviceCore(canResize: canResize)
        return events.map { event in
            var actions: [UblkDeviceCore.Action] = []
            core.apply(event, into: &actions)
            return actions
        }
    }

    private static let up: [UblkDeviceCore.Event] = [
        .attach(existing: nil), .finished(error: 0, device: 4), .finished(error: 0, device: 4), .opened(error: 0),
        .finished(error: 0, device: 4),
    ]
    private static let upActions: [[UblkDeviceCore.Action]] = [
        [.perform(.add)], [.perform(.setParameters(4))], [.openChannel(4)], [.perform(.start(4))], [.show(4)],
    ]
    private static let recovered: [UblkDeviceCore.Event] = [
        .attach(existing: 4), .finished(error: 0, device: 4), .opened(error: 0), .finished(error: 0, device: 4),
    ]

    @Test func comesGrowsAndGoes() {
        let actions = run(
            Self.up + [
                .grown, .finished(error: 0, device: 4), .withdraw, .finished(error: 0, device: 4), .queueOver,
                .finished(error: 0, device: 4),
            ])
        #expect(
            actions == Self.upActions + [
                [.perform(.updateSize(4))], [], [.hide, .failRequests, .perform(.stop(4))],
                [.wait(UblkDeviceCore.drainPatience, 1)], [.closeChannel, .perform(.delete(4))], [.gone],
            ])
    }

    @Test func tagsMayComeBackBeforeTheStopIsAnswered() {
        let actions = run(Self.up + [.withdraw, .queueOver, .finished(error: 0, device: 4)])
        #expect(actions.suffix(2) == [[], [.closeChannel, .perform(.delete(4))]])
    }

    @Test func tagsThatDoNotComeBackAreNotAwaitedForEver() {
        let actions = run(
            Self.up + [.withdraw, .finished(error: ETIME, device: nil), .retry(1), .finished(error: 0, device: 4)])
        #expect(
            actions.suffix(3) == [
                [.report(.notStopped(error: ETIME)), .wait(UblkDeviceCore.drainPatience, 1)],
                [.report(.notDrained), .closeChannel, .perform(.delete(4))], [.gone],
            ])
    }

    @Test func withoutUpdateSizeAGrownVolumeIsReported() {
        let actions = run(Self.up + [.grown, .grown], canResize: false)
        let report: [UblkDeviceCore.Action] = [.report(.notResized(error: EOPNOTSUPP))]
        #expect(actions.suffix(2) == [report, report])
    }

    @Test func eachRefusalOnTheWayUpLeavesNothing() {
        #expect(
            run([.attach(existing: nil), .finished(error: EPERM, device: nil), .withdraw])
                == [[.perform(.add)], [.report(.noDevice(.add, error: EPERM))], [.gone]])
        let parameters = run(
            Array(Self.up[..<2]) + [
                .finished(error: EINVAL, device: nil), .finished(error: 0, device: 4), .finished(error: 0, device: 4),
                .withdraw,
            ])
        #expect(
            parameters.suffix(4) == [
                [.report(.noDevice(.setParameters(4), error: EINVAL)), .perform(.stop(4))], [.perform(.delete(4))], [],
                [.gone],
            ])
        let channel = run(Array(Self.up[..<3]) + [.opened(error: ENOENT)])
        #expect(channel.last == [.report(.noDevice(nil, error: ENOENT)), .perform(.stop(4))])
        let start = run(Array(Self.up[..<4]) + [.finished(error: EEXIST, device: nil)])
        #expect(
            start.last == [.report(.noDevice(.start(4), error: EEXIST)), .failRequests, .perform(.stop(4))])
    }

    @Test func aPredecessorsDeviceIsRecoveredAtTheSizeOfNow() {
        #expect(
            run(Self.recovered) == [
                [.perform(.startRecovery(4))], [.openChannel(4)], [.perform(.endRecovery(4))],
                [.show(4), .perform(.updateSize(4))],
            ])
        #expect(run(Self.recovered, canResize: false).last == [.show(4)])
    }

    @Test func theFormerServerIsAwaited() {
        let actions = run([
            .attach(existing: 4), .finished(error: EBUSY, device: nil), .retry(1), .finished(error: EBUSY, device: nil),
            .retry(1), .retry(2), .finished(error: 0, device: 4),
        ])
        #expect(
            actions == [
                [.perform(.startRecovery(4))], [.wait(UblkDeviceCore.recoveryPause, 1)], [.perform(.startRecovery(4))],
                [.wait(UblkDeviceCore.recoveryPause, 2)], [], [.perform(.startRecovery(4))], [.openChannel(4)],
            ])
    }

    @Test func aDeviceThatCannotBeRecoveredIsReplaced() {
        let actions = run([
            .attach(existing: 4), .finished(error: EINVAL, device: nil), .finished(error: 0, device: 4),
            .finished(error: 0, device: 4), .finished(error: 0, device: 7), .finished(error: 0, device: 7),
            .opened(error: 0), .finished(error: 0, device: 7),
        ])
        #expect(
            actions == [
                [.perform(.startRecovery(4))], [.report(.notTakenOver(4, error: EINVAL)), .perform(.stop(4))],
                [.perform(.delete(4))], [.perform(.add)], [.perform(.setParameters(7))], [.openChannel(7)],
                [.perform(.start(7))], [.show(7)],
            ])
    }

    @Test func aDeviceThatSomebodyElseStoppedGoesForGood() {
        let actions = run(
            Self.up + [.queueOver, .finished(error: 0, device: 4), .finished(error: ENODEV, device: nil), .withdraw])
        #expect(
            actions.suffix(4) == [
                [.report(.lost(error: ENODEV)), .hide, .failRequests, .perform(.stop(4))],
                [.closeChannel, .perform(.delete(4))], [.report(.notDeleted(error: ENODEV))], [.gone],
            ])
    }

    @Test func aKernelThatRefusesCommandsLosesTheDevice() {
        let live = run(Self.up + [.queueFault(EINVAL)])
        #expect(live.last == [.report(.lost(error: EINVAL)), .hide, .failRequests, .perform(.stop(4))])
        let starting = run(Array(Self.up[..<4]) + [.queueFault(EINVAL), .finished(error: 0, device: 4)])
        #expect(starting.suffix(2) == [[], [.report(.lost(error: EINVAL)), .failRequests, .perform(.stop(4))]])
    }

    /// While the kernel starts a device it reads partitions from it: they must be answered.
    @Test func aWithdrawalDuringTheStartFailsRequestsAtOnce() {
        let actions = run(Array(Self.up[..<4]) + [.withdraw, .finished(error: 0, device: 4)])
        #expect(actions.suffix(2) == [[.failRequests], [.failRequests, .perform(.stop(4))]])
    }

    /// Any order of events: one command at a time, a device that was added is deleted once with its channel closed, and
    /// `gone` comes once, last and after the withdrawal.
    @Test(arguments: 1...300) func everyRunEndsWithNothingLeft(_ seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var world = World(canResize: Bool.random(using: &random))
        world.apply(.attach(existing: Bool.random(using: &random) ? 6 : nil))
        for _ in 0..<Int.random(in: 0...60, using: &random) {
            switch Int.random(in: 0..<8, using: &random) {
            case 0: world.apply(.grown)
            case 1 where world.hasChannel && !world.isOver:
                world.isOver = Int.random(in: 0..<3, using: &random) > 0
                world.apply(world.isOver ? .queueOver : .queueFault(EINVAL))
            case 2: world.wake()
            default: world.answer(&random)
            }
        }
        world.isWithdrawn = true
        world.apply(.withdraw)
        for _ in 0..<20 {
            world.answer(&random)
            world.wake()
        }
        #expect(world.goneCount == 1 && world.shown == nil && !world.hasChannel)
    }

    /// What surrounds a core.
    private struct World {
        var core: UblkDeviceCore
        var pending: UblkDeviceCore.Command?
        var isOpening = false
        var hasChannel = false
        var isOver = false
        var shown: UInt32?
        var waits: [Int] = []
        var isWithdrawn = false
        var goneCount = 0

        init(canResize: Bool) { core = UblkDeviceCore(canResize: canResize) }

        mutating func apply(_ event: UblkDeviceCore.Event) {
            var actions: [UblkDeviceCore.Action] = []
            core.apply(event, into: &actions)
            for action in actions { take(action) }
        }

        private mutating func take(_ action: UblkDeviceCore.Action) {
            #expect(goneCount == 0, "\(action) after the end")
            switch action {
            case .perform(let command):
                #expect(pending == nil && !isOpening, "\(command) beside another")
                if case .delete = command { #expect(!hasChannel) }
                pending = command
            case .openChannel:
                #expect(pending == nil && !isOpening && !hasChannel)
                isOpening = true
            case .closeChannel:
                #expect(hasChannel)
                (hasChannel, isOver) = (false, false)
            case .failRequests: #expect(hasChannel)
            case .wait(_, let number): waits.append(number)
            case .show(let device):
                #expect(shown == nil && hasChannel)
                shown = device
            case .hide:
                #expect(shown != nil)
                shown = nil
            case .report: break
            case .gone:
                #expect(isWithdrawn && pending == nil)
                goneCount += 1
            }
        }

        mutating func wake() {
            if let number = waits.popLast() { apply(.retry(number)) }
        }

        mutating func answer(_ random: inout SeededRandom) {
            let error: Int32 = [0, 0, 0, 0, EINVAL, EBUSY].randomElement(using: &random) ?? 0
            if isOpening {
                isOpening = false
                hasChannel = error == 0
                return apply(.opened(error: error))
            }
            guard let command = pending else { return }
            pending = nil
            if case .add = command { return apply(.finished(error: error, device: error == 0 ? 9 : nil)) }
            apply(.finished(error: error, device: error == 0 ? 6 : nil))
        }
    }
}
