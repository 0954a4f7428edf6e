import Base
import Glibc
import LinuxOS
import Synchronization

/// Finds in the logs of machines the processes of roles that ended by themselves. They are started again, and nothing that is
/// acknowledged may be lost by it, so that it would pass unseen.
final class EndedProcesses: Sendable {
    private static let pieceLength = 1 << 20

    /// How much of each log was looked at.
    private let read = Mutex<[String: Int]>([:])

    /// - Parameter log: a log to which only whole lines are written, one JSON object each.
    /// - Returns: what it says of processes that nobody killed, since the last look.
    func found(in log: String) throws(LinuxError) -> [String] {
        var found: [String] = []
        let file = try Descriptor.open(log, O_RDONLY)
        var offset = read.withLock { $0[log] ?? 0 }
        var line: [UInt8] = []
        var piece = [UInt8](repeating: 0, count: Self.pieceLength)
        while true {
            let count = pread(file.raw, &piece, piece.count, offset)
            guard count >= 0 else { throw LinuxError(errno: errno, "\(log) could not be read") }
            if count == 0 { break }
            offset += count
            for byte in piece[..<count] {
                if byte != UInt8(ascii: "\n") {
                    line.append(byte)
                    continue
                }
                if let text = Self.end(in: line) { found.append(text) }
                line.removeAll(keepingCapacity: true)
            }
        }
        // A line that is not complete is looked at again.
        let seen = offset - line.count
        read.withLock { $0[log] = seen }
        return found
    }

    /// What a line of a node's log tells of a process that ended without being killed.
    static func end(in line: [UInt8]) -> String? {
        guard let entry = try? JSONValue(parsing: line), entry["message"]?.string == "A process ended",
            let role = entry["role"]?.string, let status = entry["status"]?.string,
            status != "\(ExitStatus.signaled(SIGKILL))"
        else { return nil }
        return "\(role) \(status)"
    }
}
