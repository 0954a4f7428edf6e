import BlockIO
import Glibc
import Logging
import Synchronization

/// The symbolic link by which drivers find a volume's block device, such as `/dev/disk/by-id/emc-vol-<system>-<volume>`.
///
/// May be used from any thread: the file system is touched in the order of the calls, on a thread of its own.
final class DeviceLink: Sendable {
    let path: String
    private let queue: WorkerPool
    private let logger: Logger
    private let target = Mutex<String?>(nil)

    /// - Parameter queue: a serial one, common to all volumes: a volume that is mapped again gets the link of its
    ///   earlier device.
    init(_ path: String, queue: WorkerPool, logger: Logger) {
        self.path = path
        self.queue = queue
        self.logger = logger
    }

    /// The device to which the link leads, or soon will.
    var device: String? { target.withLock { $0 } }

    /// Lets the link lead to `device`.
    func lead(to device: String) {
        target.withLock { $0 = device }
        queue.submit { [self] in make(device) }
    }

    /// Removes the link, unless it leads to another device by then.
    func remove() {
        let former = target.withLock { target in
            defer { target = nil }
            return target
        }
        guard let former else { return }
        queue.submit { [self] in
            if storedTarget() == former { unlink(path) }
        }
    }

    private func make(_ device: String) {
        // Withdrawn meanwhile: the device is on its way out.
        guard self.device == device else { return }
        makeDirectories(String(path[..<(path.lastIndex(of: "/") ?? path.startIndex)]))
        let temporary = path + ".new"
        unlink(temporary)
        guard symlink(device, temporary) == 0, rename(temporary, path) == 0 else {
            return logger.error(
                "link not made",
                metadata: ["device.link": "\(path)", "error": "\(String(cString: strerror(errno)))"])
        }
        logger.notice("volume attached", metadata: ["device.path": "\(device)", "device.link": "\(path)"])
    }

    private func storedTarget() -> String? {
        var target = [UInt8](repeating: 0, count: 256)
        let length = target.withUnsafeMutableBufferPointer { buffer in
            buffer.baseAddress.map { base in
                base.withMemoryRebound(to: CChar.self, capacity: buffer.count) { readlink(path, $0, buffer.count) }
            } ?? -1
        }
        return length > 0 ? String(decoding: target[..<length], as: UTF8.self) : nil
    }
}

/// Makes `path`, with access as `mode` says, and what is missing above it; errors show when it is used. A directory that is there
/// keeps its mode.
func makeDirectories(_ path: String, mode: mode_t = 0o755) {
    var position = path.startIndex
    while let slash = path[position...].dropFirst().firstIndex(of: "/") {
        mkdir(String(path[..<slash]), 0o755)
        position = slash
    }
    if !path.isEmpty { mkdir(path, mode) }
}
