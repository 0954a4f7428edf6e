import Base
import BlockIO
import CBlockIO
import Glibc
import LinuxOS
import Synchronization

/// Which of the host's ublk devices are ours: a file in the work directory with the token of each and the name of its
/// mapping. The kernel keeps the token with the device, so that neither a number that somebody else uses now nor a
/// stale file is mistaken for ours.
///
/// May be used from any thread; `add` and `remove` block shortly.
final class UblkRecords: Sendable {
    private static let version = "version 1"

    private let path: String
    private let names: Mutex<[UInt64: String]>

    /// Reads the file. One of another version tells nothing; lines that are no records are left out.
    init(path: String) {
        self.path = path
        var names: [UInt64: String] = [:]
        let lines = ((try? readText(path)) ?? "").split(separator: "\n")
        let isKnown = lines.first.map { $0 == UblkRecords.version } ?? false
        for line in isKnown ? lines.dropFirst() : [] {
            let words = line.split(separator: " ")
            guard words.count == 2, words[0].utf8.count == 16, let token = UInt64(words[0], radix: 16) else { continue }
            names[token] = String(words[1])
        }
        self.names = Mutex(names)
    }

    func name(_ token: UInt64) -> String? { names.withLock { $0[token] } }

    /// - Throws: when the file cannot be written: a successor would not know the device.
    func add(_ token: UInt64, name: String) throws(BlockIOError) {
        try change { $0[token] = name }
    }

    func remove(_ token: UInt64) throws(BlockIOError) {
        try change { $0[token] = nil }
    }

    /// Forgets what no device has.
    func keep(_ tokens: Set<UInt64>) throws(BlockIOError) {
        try change { $0 = $0.filter { tokens.contains($0.key) } }
    }

    private func change(_ body: (inout [UInt64: String]) -> Void) throws(BlockIOError) {
        let failure: BlockIOError? = names.withLock { names in
            body(&names)
            let lines = names.sorted { $0.key < $1.key }.map { "\($0.key.hex) \($0.value)\n" }
            return UblkRecords.write(UblkRecords.version + "\n" + lines.joined(), to: path)
        }
        if let failure { throw failure }
    }

    private static func write(_ text: String, to path: String) -> BlockIOError? {
        let temporary = path + ".new"
        let file = cbio_open(temporary, O_WRONLY | O_CREAT | O_TRUNC, 0o600)
        guard file >= 0 else { return .system(errno, "open \(temporary)") }
        defer { close(file) }
        guard Glibc.write(file, text, text.utf8.count) == text.utf8.count, rename(temporary, path) == 0 else {
            return .system(errno, "write \(path)")
        }
        return nil
    }
}
