public import Base
import Glibc
import LinuxOS
import Synchronization

/// The host itself: mount(2), the kernel's mount table, and the filesystems' own tools.
///
/// Devices are read past the page cache: what a cache remembers of an earlier attachment is no news of the device.
public struct LinuxFilesystemHost: FilesystemHost {
    /// Written where mkfs writes nothing before a filesystem is made, and cleared afterwards: where it is found and no whole
    /// filesystem is, making one was interrupted, and no data can be there yet. The host that finds it may be another one.
    static let formattingMark = Array("HOLDFAST: making a filesystem here was begun and not ended\n".utf8)
    private static let blockLength = 4096
    /// O_DIRECT, which Swift does not see (it hides behind _GNU_SOURCE).
    private static let direct: Int32 = 0o40000

    /// How long a device may take to answer one read before it counts as dead.
    private let readDeadline: Duration

    public init(readDeadline: Duration = .seconds(8)) { self.readDeadline = readDeadline }

    // MARK: Looking

    public func mounts() async throws(VolumeDriverError) -> [MountedFilesystem] {
        try await blocking("Reading the mount table", on: "/proc/self/mountinfo", deadline: .seconds(10)) {
            try MountTable.current().entries.compactMap { entry in
                guard let number = DeviceNumber(entry.device), entry.root == "/" else { return nil }
                return MountedFilesystem(
                    mountPoint: entry.mountPoint, source: entry.source, kind: entry.filesystem, device: number,
                    isReadOnly: entry.isReadOnly)
            }
        }
    }

    public func deviceNumber(of path: String) async throws(VolumeDriverError) -> DeviceNumber? {
        try await blocking("Looking at \(path)", on: path, deadline: .seconds(10)) {
            var status = stat()
            guard stat(path, &status) == 0, status.st_mode & S_IFMT == S_IFBLK else { return nil }
            let number = UInt64(status.st_rdev)
            // The kernel's layout of dev_t: 12 bits of the major number and 8 + 12 of the minor one in the low word.
            return DeviceNumber(
                major: UInt32(truncatingIfNeeded: number >> 8 & 0xFFF | number >> 32 & 0xFFFF_F000),
                minor: UInt32(truncatingIfNeeded: number & 0xFF | number >> 12 & 0xFFFF_FF00))
        }
    }

    public func contents(of device: String) async throws(VolumeDriverError) -> DeviceContents {
        let (contents, isMarked) = try await blocking(
            "Reading the start of \(device)", on: device, deadline: .seconds(30)
        ) {
            let file = try Descriptor.open(device, O_RDONLY | LinuxFilesystemHost.direct)
            let prefix = try LinuxFilesystemHost.read(file, at: 0, count: DeviceContents.prefixLength)
            let contents = DeviceContents(prefix: prefix)
            guard try LinuxFilesystemHost.isMarked(file) else { return (contents, false) }
            return (contents.mayBeUnfinished ? .blank : contents, true)
        }
        // The mark was outlived by what it announced. Left there, it would one day give another owner's data away.
        if isMarked, case .filesystem = contents { try await writeMark([], to: device) }
        return contents
    }

    private static func isMarked(_ file: Descriptor) throws -> Bool {
        guard let offset = markOffset(file) else { return false }
        let block = try read(file, at: offset, count: blockLength)
        return block.starts(with: formattingMark) && block.dropFirst(formattingMark.count).allSatisfy { $0 == 0 }
    }

    public func isReadable(_ device: String) async -> Bool {
        do {
            return try await blocking("Reading \(device)", on: device, deadline: readDeadline) {
                let file = try Descriptor.open(device, O_RDONLY | LinuxFilesystemHost.direct)
                let count = LinuxFilesystemHost.blockLength
                return try LinuxFilesystemHost.read(file, at: 0, count: count).count == count
            }
        } catch {
            return false
        }
    }

    public func isInUse(_ device: String) async -> Bool {
        do {
            return try await blocking("Asking for \(device)", on: device, deadline: .seconds(8)) {
                let descriptor = open(device, O_RDONLY | O_EXCL | O_CLOEXEC)
                if descriptor < 0 { return errno == EBUSY }
                close(descriptor)
                return false
            }
        } catch {
            return false
        }
    }

    // MARK: Filesystems

    public func makeFilesystem(
        _ kind: FilesystemKind, on device: String, overwrite: Bool
    ) async throws(VolumeDriverError) {
        if !overwrite {
            guard try await contents(of: device) == .blank else {
                throw VolumeDriverError(.foreignData, "\(device) is not blank; it is not formatted")
            }
        }
        try await writeMark(LinuxFilesystemHost.formattingMark, to: device)
        let command: [String] =
            switch kind {
            // A blank device reads as zeros, so neither the inode tables nor the journal have to be written out now.
            case .ext4 where !overwrite:
                ["mkfs.ext4", "-F", "-q", "-E", "nodiscard,lazy_itable_init=1,lazy_journal_init=1", device]
            case .ext4: ["mkfs.ext4", "-F", "-q", device]
            case .xfs: ["mkfs.xfs", "-f", "-q", "-K", device]
            case .btrfs:
                throw VolumeDriverError(.notImplemented, "Making the filesystem btrfs is not supported")
            }
        let result = try await run(command, deadline: .seconds(90))
        guard result.isSuccess else {
            throw VolumeDriverError(.failed, "\(command[0]) failed on \(device): \(result.errorText)")
        }
        try await writeMark([], to: device)
    }

    public func check(_ kind: FilesystemKind, on device: String) async throws(VolumeDriverError) {
        // xfs and btrfs recover when they are mounted and have no check that is safe to run unasked.
        guard kind == .ext4 else { return }
        try await replayJournal(on: device)
        // A large and full filesystem takes hours. Only operations on this volume wait for it, each up to its deadline.
        let result = try await run(["e2fsck", "-p", device], deadline: .seconds(12 * 3600))
        // fsck(8): 1 = errors corrected, 2 = corrected and a restart is due (for root filesystems), 4 and more = not
        // corrected.
        guard case .exited(let code) = result.status, code < 4 else {
            throw VolumeDriverError(
                .failed,
                "The filesystem on \(device) has errors that need a person: run 'e2fsck \(device)'. "
                    + result.outputText + result.errorText)
        }
    }

    /// Has the kernel replay the journal of an ext4 that was not unmounted.
    ///
    /// e2fsck would do it too, but the journal is gone afterwards even if what it replays could not be written, as on a thin
    /// volume of a full pool, and what was flushed with it (seen with e2fsprogs 1.47.0). The kernel refuses to mount then and
    /// keeps the journal.
    private func replayJournal(on device: String) async throws(VolumeDriverError) {
        guard try await needsReplay(device) else { return }
        // In a mount namespace of its own nobody sees the mount, and it does not outlive its shell.
        let script = "mount -t ext4 -- \"$0\" /mnt && umount /mnt"
        let result = try await run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, device], deadline: .seconds(600))
        guard try await !needsReplay(device) else {
            throw VolumeDriverError(
                .failed,
                "The journal of the filesystem on \(device) could not be replayed, and is as it was. "
                    + result.outputText + result.errorText)
        }
    }

    private func needsReplay(_ device: String) async throws(VolumeDriverError) -> Bool {
        try await blocking("Reading the superblock of \(device)", on: device, deadline: .seconds(30)) {
            let file = try Descriptor.open(device, O_RDONLY | LinuxFilesystemHost.direct)
            let superblock = try LinuxFilesystemHost.read(file, at: 0, count: LinuxFilesystemHost.blockLength)
                .dropFirst(1024)
            guard superblock.count >= 1024 else { return false }
            // s_magic, and EXT4_FEATURE_INCOMPAT_RECOVER of s_feature_incompat.
            let isExt4 = superblock[1024 + 0x38] == 0x53 && superblock[1024 + 0x39] == 0xEF
            return isExt4 && superblock[1024 + 0x60] & 4 != 0
        }
    }

    public func size(of device: String) async throws(VolumeDriverError) -> ByteSize? {
        try await blocking("Looking at \(device)", on: device, deadline: .seconds(10)) {
            guard let file = try? Descriptor.open(device, O_RDONLY) else { return nil }
            let size = lseek(file.raw, 0, SEEK_END)
            return size > 0 ? ByteSize(bytes: UInt64(size)) : nil
        }
    }

    public func grow(
        _ kind: FilesystemKind, mountedAt path: String, from device: String
    ) async throws(VolumeDriverError) {
        let command: [String] =
            switch kind {
            case .ext4: ["resize2fs", device]
            case .xfs: ["xfs_growfs", path]
            case .btrfs: ["btrfs", "filesystem", "resize", "max", path]
            }
        let result = try await run(command, deadline: .seconds(600))
        guard result.isSuccess else {
            throw VolumeDriverError(.failed, "\(command[0]) failed on \(device): \(result.errorText)")
        }
    }

    public func mount(
        _ device: String, at path: String, kind: FilesystemKind, options: [String]
    ) async throws(VolumeDriverError) {
        var flags = MountFlags()
        var rest: [String] = []
        for option in options {
            switch option {
            case "ro": flags.insert(.readOnly)
            case "nosuid": flags.insert(.noSuid)
            case "nodev": flags.insert(.noDevices)
            case "noexec": flags.insert(.noExecute)
            case "noatime": flags.insert(.noAccessTimes)
            case "rw", "defaults": continue
            default: rest.append(option)
            }
        }
        let (mountFlags, data) = (flags, rest.joined(separator: ","))
        try await blocking("Mounting \(device)", on: device, deadline: .seconds(60)) {
            try Mount.mountBlocking(device, at: path, filesystem: kind.rawValue, flags: mountFlags, options: data)
        }
    }

    public func unmount(_ path: String, lazily: Bool) async throws(VolumeDriverError) {
        try await blocking("Unmounting \(path)", on: path, deadline: .seconds(30)) {
            try Mount.unmountBlocking(path, lazily: lazily)
        }
    }

    // MARK: Directories

    public func makeDirectory(_ path: String, mode: UInt32) async throws(VolumeDriverError) {
        try await blocking("Making the directory \(path)", on: path, deadline: .seconds(30)) {
            var end = path.startIndex
            while end < path.endIndex {
                end = path[path.index(after: end)...].firstIndex(of: "/") ?? path.endIndex
                let isLast = end == path.endIndex
                if mkdir(String(path[..<end]), isLast ? mode : 0o755) != 0, errno != EEXIST {
                    throw LinuxError(errno: errno, "\(path[..<end]) could not be made")
                }
            }
        }
    }

    public func removeEmptyDirectory(_ path: String) async {
        // rmdir refuses a directory with contents and a mount point: exactly what must never be removed.
        do { try await blocking("Removing \(path)", on: path, deadline: .seconds(10)) { _ = rmdir(path) } } catch {}
    }

    // MARK: Means

    private func run(_ command: [String], deadline: Duration) async throws(VolumeDriverError) -> CommandResult {
        var environment = ["PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"]
        environment["MKE2FS_SYNC"] = "8"
        do {
            return try await runCommand(command, environment: environment, deadline: deadline)
        } catch {
            let isLate = (error as? LinuxError)?.code == .timedOut
            throw VolumeDriverError(isLate ? .timedOut : .failed, "\(command[0]) could not be run", cause: error)
        }
    }

    /// How many threads may hang on one device or path. Sweeps ask again and again while one is away.
    static let hangingMax = 4
    /// How many threads were given up on each device or path and are still there.
    private static let hanging = Mutex<[String: Int]>([:])

    /// Runs `body` on a thread of its own and stops waiting at the deadline; a thread that hangs in the kernel ends
    /// when it can.
    ///
    /// Overflow policy: reject. While `hangingMax` threads hang on `target`, further calls time out at once.
    private func blocking<Value: Sendable>(
        _ activity: String, on target: String, deadline: Duration, _ body: @escaping @Sendable () throws -> Value
    ) async throws(VolumeDriverError) -> Value {
        guard LinuxFilesystemHost.hanging.withLock({ $0[target, default: 0] }) < LinuxFilesystemHost.hangingMax else {
            throw VolumeDriverError(.timedOut, "\(activity): too many earlier calls hang")
        }
        do {
            return try await offPool {
                let outcome = Outcome<Value>()
                let (reading, writing) = try Descriptor.pipe()
                try startThread(name: "hf-filesystem") {
                    // Outside the lock: who waits must be able to look and give up.
                    let result = Result { try body() }
                    outcome.state.withLock { state in
                        state.result = result
                        if state.isAbandoned { LinuxFilesystemHost.countHanging(target, -1) }
                    }
                    var byte: UInt8 = 1
                    // Whoever gave up does not read any more, but the pipe must not break.
                    withExtendedLifetime(reading) { _ = write(writing.raw, &byte, 1) }
                }
                let clock = ContinuousClock()
                let end = clock.now + deadline
                while true {
                    let left = (end - clock.now).wholeNanoseconds / 1_000_000
                    let result = outcome.state.withLock { state in
                        if state.result == nil, left <= 0 {
                            state.isAbandoned = true
                            LinuxFilesystemHost.countHanging(target, 1)
                        }
                        return state.result
                    }
                    if let result { return try result.get() }
                    guard left > 0 else {
                        throw VolumeDriverError(.timedOut, "\(activity) took longer than \(deadline.inSeconds) s")
                    }
                    var interest = pollfd(fd: reading.raw, events: Int16(POLLIN), revents: 0)
                    _ = poll(&interest, 1, Int32(clamping: left))
                }
            }
        } catch let error as VolumeDriverError {
            throw error
        } catch let error as LinuxError where error.code == .system(EBUSY) {
            throw VolumeDriverError(.busy, "\(activity) failed", cause: error)
        } catch {
            throw VolumeDriverError(.failed, "\(activity) failed", cause: error)
        }
    }

    private final class Outcome<Value: Sendable>: Sendable {
        let state = Mutex<(result: Result<Value, any Error>?, isAbandoned: Bool)>((nil, false))
    }

    private static func countHanging(_ target: String, _ change: Int) {
        hanging.withLock { counts in
            let count = counts[target, default: 0] + change
            counts[target] = count == 0 ? nil : count
        }
    }

    static func markOffset(_ file: Descriptor) -> off_t? {
        let size = lseek(file.raw, 0, SEEK_END)
        // Off the beginnings of the filesystems' groups, where mkfs writes, and off the middle of the device with their logs.
        let offset = size / 8 * 7 / (1 << 20) * (1 << 20) + (640 << 10)
        return size >= 16 << 20 && offset + off_t(blockLength) <= size ? offset : nil
    }

    private func writeMark(_ mark: [UInt8], to device: String) async throws(VolumeDriverError) {
        try await blocking("Marking \(device)", on: device, deadline: .seconds(30)) {
            let file = try Descriptor.open(device, O_RDWR | LinuxFilesystemHost.direct)
            guard let offset = LinuxFilesystemHost.markOffset(file) else { return }
            let buffer = UnsafeMutableRawBufferPointer.allocate(
                byteCount: LinuxFilesystemHost.blockLength, alignment: LinuxFilesystemHost.blockLength)
            defer { buffer.deallocate() }
            buffer.initializeMemory(as: UInt8.self, repeating: 0)
            buffer.copyBytes(from: mark)
            guard pwrite(file.raw, buffer.baseAddress, buffer.count, offset) == buffer.count, fsync(file.raw) == 0
            else {
                throw LinuxError(errno: errno, "\(device) could not be written")
            }
        }
    }

    /// Up to `count` bytes; fewer only at the device's end.
    private static func read(_ file: Descriptor, at offset: off_t, count: Int) throws(LinuxError) -> [UInt8] {
        let buffer = UnsafeMutableRawBufferPointer.allocate(byteCount: count, alignment: blockLength)
        defer { buffer.deallocate() }
        var done = 0
        while done < count {
            let got = pread(file.raw, buffer.baseAddress?.advanced(by: done), count - done, offset + off_t(done))
            if got < 0, errno == EINTR { continue }
            guard got >= 0 else { throw LinuxError(errno: errno, "The device could not be read") }
            if got == 0 { break }
            done += got
        }
        return Array(buffer[..<done])
    }
}
