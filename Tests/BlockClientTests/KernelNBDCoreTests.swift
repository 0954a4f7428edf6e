import Base
import Testing

@testable import BlockClient

/// The life of a device of the kernel's NBD client, against a kernel in memory.
@Suite struct KernelNBDCoreTests {
    private func run(_ events: [KernelNBDCore.Event]) -> [[KernelNBDCore.Action]] {
        var core = KernelNBDCore()
        return events.map { event in
            var actions: [KernelNBDCore.Action] = []
            core.apply(event, into: &actions)
            return actions
        }
    }

    @Test func comesGrowsAndGoes() {
        let actions = run([
            .attach(existing: nil), .connected(error: 0, index: 4), .grown, .resized(error: 0), .withdraw,
            .disconnected(error: 0),
        ])
        #expect(
            actions == [
                [.perform(.connect)], [.show(4)], [.perform(.resize(4))], [], [.hide, .perform(.disconnect(4))],
                [.gone],
            ])
    }

    @Test func aRefusalLeavesNoDeviceUntilTheVolumeGoes() {
        let actions = run([.attach(existing: nil), .connected(error: 1, index: nil), .grown, .retry, .withdraw])
        #expect(actions == [[.perform(.connect)], [.report(.noDevice(error: 1))], [], [], [.gone]])
    }

    @Test func aPredecessorsDeviceGetsASocket() {
        let actions = run([.attach(existing: 2), .reconnected(error: 0), .withdraw, .disconnected(error: 22)])
        #expect(
            actions == [
                [.perform(.reconnect(2))], [.show(2)], [.hide, .perform(.disconnect(2))],
                [.report(.notDisconnected(error: 22)), .gone],
            ])
    }

    @Test func aPredecessorsDeviceThatIsGoneIsReplaced() {
        let actions = run([.attach(existing: 2), .reconnected(error: 22), .connected(error: 0, index: 5)])
        #expect(
            actions == [
                [.perform(.reconnect(2))], [.report(.notTakenOver(2, error: 22)), .perform(.connect)], [.show(5)],
            ])
    }

    /// RECONFIGURE succeeds without taking the socket as long as the kernel has not noticed that the old one is dead.
    @Test func aSocketIsOfferedUntilTheKernelTakesIt() {
        let actions = run([
            .attach(existing: 2), .linkLost(wasUsed: false), .reconnected(error: 0), .retry, .reconnected(error: 0),
            .linkLost(wasUsed: false), .retry, .reconnected(error: 0), .linkLost(wasUsed: true),
        ])
        #expect(
            actions == [
                [.perform(.reconnect(2))], [], [.show(2), .report(.linkLost(2)), .wait(.milliseconds(100))],
                [.perform(.reconnect(2))], [], [.wait(.milliseconds(200))], [.perform(.reconnect(2))], [],
                [.report(.linkLost(2)), .wait(.milliseconds(100))],
            ])
    }

    @Test func aSocketThatIsNeverTakenEndsTheDevice() {
        var core = KernelNBDCore()
        var actions: [KernelNBDCore.Action] = []
        core.apply(.attach(existing: 2), into: &actions)
        core.apply(.reconnected(error: 0), into: &actions)
        var waited = Duration.zero
        for _ in 0..<KernelNBDCore.attemptsMax {
            actions = []
            core.apply(.linkLost(wasUsed: false), into: &actions)
            guard case .wait(let delay) = actions.last else { return #expect(Bool(false), "\(actions)") }
            waited += delay
            core.apply(.retry, into: &actions)
            core.apply(.reconnected(error: 0), into: &actions)
        }
        #expect(waited > .seconds(150) && waited < .seconds(240), "\(waited)")
        actions = []
        core.apply(.linkLost(wasUsed: false), into: &actions)
        #expect(actions == [.report(.takenAway(2, error: 0)), .hide, .perform(.disconnect(2))])
        actions = []
        core.apply(.disconnected(error: 0), into: &actions)
        core.apply(.withdraw, into: &actions)
        #expect(actions == [.gone])
    }

    @Test func aDeviceThatSomebodyElseDisconnectedIsNotReplaced() {
        let actions = run([
            .attach(existing: nil), .connected(error: 0, index: 1), .linkLost(wasUsed: true), .retry,
            .reconnected(error: 22), .withdraw,
        ])
        #expect(
            actions == [
                [.perform(.connect)], [.show(1)], [.report(.linkLost(1)), .wait(.milliseconds(100))],
                [.perform(.reconnect(1))], [.report(.takenAway(1, error: 22)), .hide], [.gone],
            ])
    }

    @Test(arguments: [false, true]) func aWithdrawalWaitsForTheCommandUnderWay(isTakenOver: Bool) {
        let first: KernelNBDCore.Event = isTakenOver ? .reconnected(error: 0) : .connected(error: 0, index: 3)
        let actions = run([
            .attach(existing: isTakenOver ? 3 : nil), .withdraw, .grown, first, .linkLost(wasUsed: false),
            .disconnected(error: 0),
        ])
        #expect(
            actions == [
                [.perform(isTakenOver ? .reconnect(3) : .connect)], [], [], [.perform(.disconnect(3))], [], [.gone],
            ])
    }

    /// Any order of events: one command at a time, a device that was connected is disconnected once, and `gone` comes
    /// once, last and after the withdrawal.
    @Test(arguments: 1...200) func everyRunEndsWithNothingLeft(_ seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var core = KernelNBDCore()
        var actions: [KernelNBDCore.Action] = []
        var (pending, connected): (KernelNBDCore.Command?, UInt32?) = (nil, nil)
        var (shown, goneCount, isWaiting, isWithdrawn): (UInt32?, Int, Bool, Bool) = (nil, 0, false, false)
        func take() {
            for action in actions {
                #expect(goneCount == 0, "\(action) after the end")
                switch action {
                case .perform(let command):
                    #expect(pending == nil, "\(command) beside another")
                    pending = command
                case .wait: isWaiting = true
                case .show(let index):
                    #expect(shown == nil && connected == index)
                    shown = index
                case .hide:
                    #expect(shown != nil)
                    shown = nil
                case .report: break
                case .gone:
                    #expect(isWithdrawn)
                    goneCount += 1
                }
            }
            actions = []
        }
        func answer() {
            guard let command = pending else { return }
            pending = nil
            let error: Int32 = Int.random(in: 0..<4, using: &random) == 0 ? 22 : 0
            switch command {
            case .connect:
                connected = error == 0 ? 9 : nil
                core.apply(.connected(error: error, index: connected), into: &actions)
            case .reconnect(let index):
                connected = error == 0 ? index : nil
                core.apply(.reconnected(error: error), into: &actions)
            case .resize: core.apply(.resized(error: error), into: &actions)
            case .disconnect(let index):
                #expect(connected == index)
                connected = nil
                core.apply(.disconnected(error: error), into: &actions)
            }
        }
        core.apply(.attach(existing: Int.random(in: 0..<2, using: &random) == 0 ? 6 : nil), into: &actions)
        take()
        for _ in 0..<Int.random(in: 0..<60, using: &random) {
            switch Int.random(in: 0..<5, using: &random) {
            case 0: core.apply(.grown, into: &actions)
            case 1: core.apply(.linkLost(wasUsed: Int.random(in: 0..<2, using: &random) == 0), into: &actions)
            case 2 where isWaiting:
                isWaiting = false
                core.apply(.retry, into: &actions)
            default: answer()
            }
            take()
        }
        isWithdrawn = true
        core.apply(.withdraw, into: &actions)
        take()
        for _ in 0..<10 where pending != nil {
            answer()
            take()
        }
        #expect(goneCount == 1 && connected == nil && shown == nil)
    }
}
