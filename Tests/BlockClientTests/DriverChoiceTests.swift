import BlockIO
import Glibc
import Testing

@testable import BlockClient

/// Which driver makes block devices.
@Suite struct DriverChoiceTests {
    private typealias Driver = BlockClientService.DeviceDriver

    private func probes(_ present: Set<Driver>, _ features: Ublk.Features = .device) -> DriverProbes {
        DriverProbes(
            ublk: { () throws(BlockIOError) in
                guard present.contains(.ublk) else { throw .system(ENOENT, "open /dev/ublk-control") }
                return features
            },
            nbd: { () throws(BlockIOError) in
                guard present.contains(.nbd) else { throw .system(ENOENT, "netlink family nbd") }
                return 28
            },
            fuse: { () throws(BlockIOError) in
                guard present.contains(.fuse) else { throw .system(ENODEV, "open /dev/fuse") }
            })
    }

    @Test func theFirstThatIsThereIsTaken() throws {
        #expect(try DriverChoice(wanted: nil, probes([.ublk, .nbd, .fuse])).chosen == .ublk(.device))
        #expect(try DriverChoice(wanted: nil, probes([.nbd, .fuse])).chosen == .nbd(family: 28))
        let choice = try DriverChoice(wanted: nil, probes([.fuse]))
        #expect(choice.chosen == .fuse)
        #expect(choice.leftOut.map(\.driver) == [.ublk, .nbd])
        #expect(choice.leftOut[0].reason == "open /dev/ublk-control: No such file or directory")
        #expect(choice.leftOut[1].reason == "netlink family nbd: No such file or directory")
    }

    /// Before Linux 6.5 the driver has no USER_COPY.
    @Test func aDriverThatLacksWhatWeNeedIsNotThere() throws {
        let features = Ublk.Features.device.subtracting(.userCopy)
        let choice = try DriverChoice(wanted: nil, probes([.ublk, .nbd, .fuse], features))
        #expect(choice.chosen == .nbd(family: 28))
        #expect(choice.leftOut.map(\.reason) == ["ublk_drv lacks the features 0x80"])
        #expect(throws: BlockIOError.self) { try DriverChoice(wanted: .ublk, probes([.ublk], features)) }
    }

    @Test func theOneThatIsNamedIsTakenOrNone() throws {
        let choice = try DriverChoice(wanted: .fuse, predecessor: .nbd, probes([.nbd, .fuse]))
        #expect(choice.chosen == .fuse && choice.leftOut.isEmpty)
        let noNBD = #expect(throws: BlockIOError.self) { try DriverChoice(wanted: .nbd, probes([.ublk, .fuse])) }
        #expect(noNBD?.message == "this host has no driver nbd: netlink family nbd: No such file or directory")
        let noUblk = #expect(throws: BlockIOError.self) { try DriverChoice(wanted: .ublk, probes([.nbd, .fuse])) }
        #expect(noUblk?.message == "this host has no driver ublk: open /dev/ublk-control: No such file or directory")
    }

    @Test func withoutAnyEveryReasonIsTold() {
        let error = #expect(throws: BlockIOError.self) { try DriverChoice(wanted: nil, probes([])) }
        let text = error?.message ?? ""
        #expect(
            text.contains("ublk: open /dev/ublk-control:") && text.contains("nbd: netlink family nbd:")
                && text.contains("fuse: open /dev/fuse:"), "\(text)")
    }

    @Test func aPredecessorsDriverComesFirstWhileItIsThere() throws {
        #expect(try DriverChoice(wanted: nil, predecessor: .fuse, probes([.nbd, .fuse])).chosen == .fuse)
        let choice = try DriverChoice(wanted: nil, predecessor: .nbd, probes([.fuse]))
        #expect(choice.chosen == .fuse && choice.leftOut.map(\.driver) == [.nbd, .ublk])
    }

    @Test func theRecordTellsOfAProcessThatDied() throws {
        let directory = TemporaryDirectory()
        let record = DriverRecord(workDirectory: directory.path)
        #expect(record.driver == nil)
        // Left by releases that knew FUSE only.
        runTool("touch", [directory.path + "/keeper.sock"])
        #expect(record.driver == .fuse)
        try record.write(.nbd)
        #expect(record.driver == .nbd)
        runTool("dd", ["if=/dev/urandom", "of=\(directory.path)/device-driver", "bs=100", "count=1"])
        #expect(record.driver == nil)
        record.remove()
        #expect(record.driver == .fuse)
        #expect(throws: BlockIOError.self) { try DriverRecord(workDirectory: directory.path + "/none").write(.fuse) }
    }

    // MARK: This host

    /// What the host says of itself is what the probes find.
    @Test func theProbesFindWhatThisHostHas() throws {
        let hasNBD = access("/sys/module/nbd", F_OK) == 0
        let found = Result { try DriverProbes.host.ask(for: .nbd) }
        // The question itself may load the module.
        #expect((try? found.get()) == nil ? !hasNBD : access("/sys/module/nbd", F_OK) == 0)
        if access(Ublk.controlPath, F_OK) != 0 {
            let error = #expect(throws: BlockIOError.self) { try DriverProbes.host.ask(for: .ublk) }
            #expect(error?.message == "open /dev/ublk-control: No such file or directory")
        } else {
            // An older kernel says so, a newer one has features.
            _ = Result { try DriverProbes.host.ask(for: .ublk) }.mapError { error in
                #expect("\(error)".contains("Linux 6.5") || "\(error)".contains("lacks"), "\(error)")
                return error
            }
        }
    }

    @Test(.enabled(if: geteuid() == 0 && access("/dev/fuse", F_OK) == 0 && access("/dev/loop-control", F_OK) == 0))
    func fuseIsFoundWhereItIs() throws {
        #expect(try DriverProbes.host.ask(for: .fuse) == .fuse)
    }
}
