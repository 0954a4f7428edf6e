import BlockIO
import CBlockIO
import Glibc
import LinuxOS

extension BlockClientService {
    /// What of the kernel makes a mapped volume a block device of the host.
    public enum DeviceDriver: String, CaseIterable, Sendable {
        /// Requests from the kernel by io_uring (Linux 6.5 and later, module `ublk_drv`).
        case ublk
        /// The kernel's own NBD client, told by netlink (Linux 4.12 and later, module `nbd`).
        case nbd
        /// A file in a FUSE mount and a loop device over it.
        case fuse
    }
}

/// A driver that the host has, with what it said of itself.
enum ChosenDriver: Equatable {
    case ublk(Ublk.Features)
    /// The number of the netlink family.
    case nbd(family: UInt16)
    case fuse

    var driver: BlockClientService.DeviceDriver {
        switch self {
        case .ublk: .ublk
        case .nbd: .nbd
        case .fuse: .fuse
        }
    }
}

/// Asks the host which drivers it has. Replaced in tests.
struct DriverProbes: Sendable {
    var ublk: @Sendable () throws(BlockIOError) -> Ublk.Features
    var nbd: @Sendable () throws(BlockIOError) -> UInt16
    var fuse: @Sendable () throws(BlockIOError) -> Void

    /// Asks the kernel of this host. Blocks shortly; may let the kernel load the module `nbd`.
    static let host = DriverProbes(
        ublk: { () throws(BlockIOError) in try UblkControlDevice().features() },
        nbd: { () throws(BlockIOError) in try NetlinkSocket().family(KernelNBD.familyName) },
        fuse: { () throws(BlockIOError) in
            for path in ["/dev/fuse", "/dev/loop-control"] {
                let descriptor = cbio_open(path, O_RDWR, 0)
                guard descriptor >= 0 else { throw .system(errno, "open \(path)") }
                close(descriptor)
            }
        })

    func ask(for driver: BlockClientService.DeviceDriver) throws(BlockIOError) -> ChosenDriver {
        switch driver {
        case .ublk:
            let features = try ublk()
            guard features.isSuperset(of: .device) else {
                let missing = Ublk.Features.device.subtracting(features).rawValue
                throw BlockIOError(.invalid, "ublk_drv lacks the features 0x\(String(missing, radix: 16))")
            }
            return .ublk(features)
        case .nbd: return .nbd(family: try nbd())
        case .fuse:
            try fuse()
            return .fuse
        }
    }
}

/// Which driver makes the block devices of this host, and why not another.
struct DriverChoice {
    var chosen: ChosenDriver
    /// Those that would have been preferred, with the reason for which each was left out.
    var leftOut: [(driver: BlockClientService.DeviceDriver, reason: String)] = []

    /// Takes the driver that is wanted, or else a predecessor's, or else the first that the host has, in the order of
    /// `BlockClientService.DeviceDriver`.
    ///
    /// - Throws: when the wanted one is missing (another one is never taken for it), or all are.
    init(
        wanted: BlockClientService.DeviceDriver?, predecessor: BlockClientService.DeviceDriver? = nil,
        _ probes: DriverProbes
    ) throws(BlockIOError) {
        if let wanted {
            do throws(BlockIOError) {
                chosen = try probes.ask(for: wanted)
                return
            } catch {
                throw BlockIOError(error.code, "this host has no driver \(wanted.rawValue): \(error.message)")
            }
        }
        var order = BlockClientService.DeviceDriver.allCases
        if let predecessor {
            order.removeAll { $0 == predecessor }
            order.insert(predecessor, at: 0)
        }
        for driver in order {
            do throws(BlockIOError) {
                chosen = try probes.ask(for: driver)
                return
            } catch {
                leftOut.append((driver, error.message))
            }
        }
        let reasons = leftOut.map { "\($0.driver.rawValue): \($0.reason)" }.joined(separator: "; ")
        throw BlockIOError(.invalid, "this host has no driver for block devices: \(reasons)")
    }
}

/// Remembers in the work directory which driver has devices, for a successor of a process that dies.
struct DriverRecord {
    private let path: String
    private let keeper: String

    init(workDirectory: String) {
        path = workDirectory + "/device-driver"
        keeper = workDirectory + "/keeper.sock"
    }

    /// The driver of a predecessor that did not end on purpose.
    var driver: BlockClientService.DeviceDriver? {
        if let text = try? readText(path) { return BlockClientService.DeviceDriver(rawValue: text) }
        // Releases that had no other driver left no record.
        return access(keeper, F_OK) == 0 ? .fuse : nil
    }

    /// - Throws: when the file cannot be written: a successor could otherwise leave devices behind.
    func write(_ driver: BlockClientService.DeviceDriver) throws(BlockIOError) {
        let file = cbio_open(path, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        guard file >= 0 else { throw .system(errno, "open \(path)") }
        defer { close(file) }
        let text = driver.rawValue + "\n"
        guard Glibc.write(file, text, text.utf8.count) == text.utf8.count else { throw .system(errno, "write \(path)") }
    }

    func remove() { unlink(path) }
}
