import Base
import BlockIO
import CBlockIO
import Glibc
import Synchronization

/// Keeps other clients out of a work directory, whose mount, keeper and records are one process's. The kernel lets go of it when
/// this process ends, however that comes; a child process has no part in it.
final class DirectoryLock: Sendable {
    private let descriptor: Mutex<Int32>

    /// Blocks, while another holds the lock, for as long as a predecessor may take to end.
    init(_ directory: String, patience: Duration) throws(BlockIOError) {
        let path = directory + "/lock"
        let file = cbio_open(path, O_RDWR | O_CREAT, 0o600)
        guard file >= 0 else { throw .system(errno, "open \(path)") }
        descriptor = Mutex(file)
        let deadline = Reactor.now + patience
        while flock(file, LOCK_EX | LOCK_NB) != 0 {
            guard errno == EWOULDBLOCK || errno == EINTR else { throw .system(errno, "lock \(path)") }
            guard Reactor.now < deadline else {
                throw BlockIOError(.invalid, "another client works in \(directory): it holds the lock \(path)")
            }
            usleep(20_000)
        }
    }

    deinit { release() }

    func release() {
        descriptor.withLock { descriptor in
            if descriptor >= 0 { close(descriptor) }
            descriptor = -1
        }
    }
}
