import Base
import Glibc
import LinuxOS
import TestKit
import Testing

@testable import Lab

/// What the torture's judges let pass and what they notice.
@Suite struct LedgerTests {
    private func judge(_ lines: [String]) throws -> RegisterLedger {
        var ledger = RegisterLedger()
        for line in lines { try ledger.take(Substring(line)) }
        return ledger
    }

    /// Nobody but the torture kills, and it kills for good.
    @Test func processesThatEndByThemselvesAreFound() throws {
        let directory = try TemporaryDirectory()
        let log = "\(directory.path)/node.log"
        func append(_ text: String) throws {
            let file = try Descriptor.open(log, O_WRONLY | O_APPEND | O_CREAT)
            #expect(write(file.raw, text, text.utf8.count) == text.utf8.count)
        }
        func line(_ role: String, _ status: LinuxOS.ExitStatus) -> String {
            "{\"message\":\"A process ended\",\"pid\":\"7\",\"role\":\"\(role)\",\"status\":\"\(status)\"}\n"
        }
        let watch = EndedProcesses()
        try append("{\"message\":\"Started a process\"}\nno JSON\n" + line("sds", .signaled(SIGKILL)))
        #expect(try watch.found(in: log).isEmpty)
        let crash = line("volumes", .signaled(SIGSEGV))
        try append(line("mdm", .exited(1)) + crash.prefix(20))
        #expect(try watch.found(in: log) == ["mdm exited with status 1"])
        try append(String(crash.dropFirst(20)))
        #expect(try watch.found(in: log) == ["volumes killed by signal 11"])
        #expect(try watch.found(in: log).isEmpty)
    }

    @Test func whatWasAcknowledgedMustBeRead() throws {
        let ledger = try judge(["b", "r 1 0", "w 1 7", "a 1 7", "r 1 7", "w 1 8", "a 1 8", "r 1 8"])
        #expect(ledger.acknowledged == 2 && ledger.verified == 3 && ledger.failed == 0)
        for found in [0, 7, 9] {
            #expect(throws: ScenarioFailure.self) {
                try judge(["b", "w 1 7", "a 1 7", "w 1 8", "a 1 8", "r 1 \(found)"])
            }
        }
        #expect(throws: ScenarioFailure.self) { try judge(["b", "r 2 5"]) }
        #expect(throws: ScenarioFailure.self) { try judge(["b", "! block 1 is torn, or another's"]) }
    }

    @Test func whatWasUnderWayMayHaveHappenedUntilItIsSeen() throws {
        let dead = ["b", "w 1 7", "a 1 7", "w 1 8", "b"]
        for found in [7, 8] {
            _ = try judge(dead + ["r 1 \(found)"])
            // The other outcome is over with the first look.
            #expect(throws: ScenarioFailure.self) { try judge(dead + ["r 1 \(found)", "r 1 \(15 - found)"]) }
        }
        let failed = try judge(["b", "w 1 7", "e 1 7 5", "r 1 0", "r 1 7"])
        #expect(failed.failed == 1)
    }

    @Test func whatFoundNoSpaceHasNotHappened() throws {
        let refused = ["b", "w 1 7", "a 1 7", "w 1 8", "n 1 8"]
        #expect(try judge(refused + ["r 1 7"]).refused == 1)
        #expect(throws: ScenarioFailure.self) { try judge(refused + ["r 1 8"]) }
        #expect(throws: ScenarioFailure.self) { try judge(refused + ["b", "r 1 8"]) }
    }

    @Test func whatWasDiscardedReadsAsNothing() throws {
        let discarded = ["b", "w 1 7", "a 1 7", "w 2 8", "e 2 8 5", "d"]
        _ = try judge(discarded + ["r 1 0", "r 2 0", "w 1 9", "a 1 9", "r 1 9"])
        for found in ["r 1 7", "r 2 8"] { #expect(throws: ScenarioFailure.self) { try judge(discarded + [found]) } }
    }

    @Test func whatWasNotLookedAtIsCounted() throws {
        let ledger = try judge(["b", "w 1 7", "a 1 7", "w 2 8", "a 2 8", "b", "r 1 7"])
        #expect(ledger.unverified == 1)
    }

    private func judgeFiles(_ lines: [String]) throws -> FileLedger {
        var ledger = FileLedger()
        for line in lines { try ledger.take(Substring(line)) }
        return ledger
    }

    private static let made = ["b", "z", "n a 1 10", "d a 1 10", "s a 1 20"]

    @Test func stableRecordsMustBeFound() throws {
        for count in [20, 25] {
            #expect(try judgeFiles(Self.made + ["b", "f a 1 \(count)", "z"]).verified == 1)
        }
        for found in [["f a 1 19"], ["f a 2 20"], []] {
            #expect(throws: ScenarioFailure.self) { try judgeFiles(Self.made + ["b"] + found + ["z"]) }
        }
    }

    @Test func aReplacementIsThereOrNot() throws {
        for found in ["f a 1 20", "f a 2 5"] { _ = try judgeFiles(Self.made + ["n a 2 5", "b", found, "z"]) }
        #expect(throws: ScenarioFailure.self) { try judgeFiles(Self.made + ["n a 2 5", "b", "f a 2 4", "z"]) }
        #expect(throws: ScenarioFailure.self) {
            try judgeFiles(Self.made + ["n a 2 5", "d a 2 5", "b", "f a 1 20", "z"])
        }
    }

    @Test func aRemovalIsDoneOrNot() throws {
        for found in [["f a 1 20"], []] { _ = try judgeFiles(Self.made + ["u a", "b"] + found + ["z"]) }
        #expect(throws: ScenarioFailure.self) { try judgeFiles(Self.made + ["u a", "x a", "b", "f a 1 20", "z"]) }
    }

    @Test func theSameSeedChoosesTheSameFaults() {
        func faults(_ seed: UInt64) -> [TortureFault] {
            var plan = TorturePlan(seed: seed, nodes: [1, 2, 3, 4], leaders: [1, 2, 3])
            return (0..<200).map { _ in plan.next() }
        }
        #expect(faults(1) == faults(1) && faults(1) != faults(2))
        #expect(Set(faults(1).map(\.kind)).count >= 15)
    }

    /// A short run must not be spared any of them.
    @Test func everyRoundHasDevicesSpoiledFilledAndWiped() {
        for seed: UInt64 in 1...20 {
            var plan = TorturePlan(seed: seed, nodes: [1, 2, 3, 4], leaders: [1, 2, 3])
            for _ in 0..<3 {
                let kinds = Set((0..<TorturePlan.roundCount).map { _ in plan.next().kind })
                #expect(
                    kinds.isSuperset(of: [
                        "corruption of a device", "fill of all devices", "wipe of a device", "snapshot of all volumes",
                    ]),
                    "\(seed)")
            }
        }
    }

    @Test func fioIsToldApartFromItsDeath() {
        let died = """
            fio: io_u error on file /dev/loop3: Input/output error: read offset=81920, buflen=16384
            fio: pid=12, err=5/file:io_u.c:1876, func=io_u error, error=Input/output error
            """
        #expect(TortureFio.complaint(in: died) == nil)
        let found =
            "pattern: verify failed at file /dev/loop3 offset 81920, length 81920 (requested block: offset=81920)"
        #expect(TortureFio.complaint(in: died + "\n" + found) == found)
    }

    @Test func whatBecameOfSpoiledBlocksIsTold() {
        var outcome = DeviceSpoiler.Outcome()
        (outcome.mended, outcome.written) = (7, 2)
        #expect(DeviceSpoiler.Outcome(parsing: "\(outcome)\n") == outcome)
        for text in ["", "9 blocks spoiled", "9 blocks spoiled, 7 mended, 3 written anew"] {
            #expect(DeviceSpoiler.Outcome(parsing: text) == nil)
        }
    }

    @Test func blocksToSpoilAreOfManyUnits() {
        var random = SeededRandom(seed: 1)
        let offsets = (0..<10).flatMap { unit in (0..<4).map { UInt64(unit) << 20 + UInt64($0) << 12 } }
        let few = DeviceSpoiler.choose(10, of: offsets, &random)
        #expect(Set(few.map { $0 >> 20 }).count == 10)
        let all = DeviceSpoiler.choose(100, of: offsets, &random)
        #expect(all.count == 40 && Set(all) == Set(offsets))
    }
}
