import Base
import CBlockIO
import Glibc
import LinuxOS

/// A load inside a machine of the lab: uses a device or a filesystem and says on its standard output, line by line, what
/// it is about to do and what was acknowledged. The output outlives the machine; `RegisterLedger` and `FileLedger` read it.
public enum LoadProcess {
    /// - Parameters:
    ///   - path: a block device.
    ///   - count: blocks of 4 KiB that it uses, from the first on.
    ///   - onlyLooks: reads every block once and ends.
    public static func useRegisters(_ path: String, count: UInt64, seed: UInt64, onlyLooks: Bool) throws {
        let load = try RegisterLoad(path, count: count, seed: seed)
        try load.look()
        if !onlyLooks { try load.work() }
    }

    /// Writes one block in each MiB until there is no space for more, reads all of them, discards the device, and reads
    /// them again.
    ///
    /// - Parameters:
    ///   - path: a block device.
    ///   - units: MiB of it that are used.
    ///   - holding: how long there is no space.
    public static func fill(_ path: String, units: UInt64, holding: Duration) async throws {
        say("b")
        try await FillLoad.byAll(path, units) { load, blocks in try load.fill(blocks) }
        try await Task.sleep(for: holding)
        try await FillLoad.byAll(path, units) { load, blocks in for block in blocks { try load.read(block) } }
        try await offPool { try RegisterLoad(path, count: 0, seed: 0).discard() }
        say("d")
        try await FillLoad.byAll(path, units) { load, blocks in for block in blocks { try load.read(block) } }
    }

    /// - Parameters:
    ///   - directory: on the filesystem; made when it does not exist.
    ///   - onlyLooks: reads every file once and ends.
    public static func useFiles(_ directory: String, seed: UInt64, onlyLooks: Bool) throws {
        var load = try FileLoad(directory, seed: seed)
        try load.look()
        if !onlyLooks { try load.work() }
    }
}

/// One line at a time, each with one system call: what was said is said, whatever happens next.
private func say(_ line: String) {
    let bytes = Array((line + "\n").utf8)
    _ = write(STDOUT_FILENO, bytes, bytes.count)
}

private func check(_ result: Int, _ what: String) throws(LinuxError) {
    guard result >= 0 else { throw LinuxError(errno: errno, what) }
}

// MARK: - Registers

/// Reads and writes blocks of a device with direct I/O.
private final class RegisterLoad {
    private static let blockBytes = 4096
    /// Every sector carries these four words, so that a torn or misplaced block shows.
    private static let sectorBytes = 512
    private static let magic: UInt64 = 0x746F_7274_7572_6531

    private let file: Descriptor
    private let count: UInt64
    private var random: SeededRandom
    private let buffer: UnsafeMutableRawPointer
    private var next: UInt64

    /// - Parameter writer: one of up to 16 that use the device at once.
    init(_ path: String, count: UInt64, seed: UInt64, writer: UInt64 = 0) throws {
        let raw = cbio_open_direct(path, O_RDWR, 0)
        guard raw >= 0 else { throw LinuxError(errno: errno, "\(path) could not be opened") }
        file = Descriptor(owning: raw)
        self.count = count
        random = SeededRandom(seed: seed)
        buffer = .allocate(byteCount: Self.blockBytes, alignment: Self.blockBytes)
        // Numbers of one run are above those of all before.
        next = UInt64(max(0, time(nil))) << 24 | writer << 20
    }

    deinit { buffer.deallocate() }

    func look() throws {
        say("b")
        for block in 0..<count { try read(block) }
    }

    /// Rests now and then: the server's scanner passes over units that are being written.
    func work() throws {
        var rests = ContinuousClock.now + .seconds(60)
        while true {
            if ContinuousClock.now > rests {
                sleep(12)
                rests = .now + .seconds(60)
            }
            let block = UInt64.random(in: 0..<count, using: &random)
            if Int.random(in: 0..<4, using: &random) == 0 { try read(block) } else { _ = try write(block) }
            usleep(UInt32.random(in: 0..<6000, using: &random))
        }
    }

    /// Writes the blocks until space has been lacking for many in a row.
    func fill(_ blocks: StrideTo<UInt64>) throws {
        var refusals = 0
        for block in blocks where refusals < 64 {
            refusals = try write(block) ? 0 : refusals + 1
        }
    }

    /// Gives the whole device back.
    func discard() throws {
        var range: (start: UInt64, count: UInt64) = (0, 0)
        try check(Int(cbio_block_device_size(file.raw, &range.count)), "the device's size")
        let blkDiscard: UInt = 0x1277
        try check(Int(cbio_ioctl_pointer(file.raw, blkDiscard, &range)), "the device could not be discarded")
    }

    /// False when there is no space for it.
    private func write(_ block: UInt64) throws -> Bool {
        next += 1
        for sector in stride(from: 0, to: Self.blockBytes, by: Self.sectorBytes) {
            let words = (buffer + sector).bindMemory(to: UInt64.self, capacity: 64)
            for index in 0..<64 { words[index] = mix64(next &+ UInt64(index)) }
            words[0] = Self.magic
            words[1] = block
            words[2] = next
            words[3] = mix64(next ^ block)
        }
        say("w \(block) \(next)")
        if pwrite(file.raw, buffer, Self.blockBytes, off_t(block) * 4096) == Self.blockBytes {
            say("a \(block) \(next)")
            return true
        } else {
            let number = errno
            if number == ENOSPC {
                say("n \(block) \(next)")
                return false
            }
            say("e \(block) \(next) \(number)")
            throw LinuxError(errno: number, "block \(block) could not be written")
        }
    }

    func read(_ block: UInt64) throws {
        let got = pread(file.raw, buffer, Self.blockBytes, off_t(block) * 4096)
        guard got == Self.blockBytes else { throw LinuxError(errno: errno, "block \(block) could not be read") }
        let words = buffer.bindMemory(to: UInt64.self, capacity: Self.blockBytes / 8)
        let number = words[2]
        let isBlank = (0..<Self.blockBytes / 8).allSatisfy { words[$0] == 0 }
        let isWhole = stride(from: 0, to: Self.blockBytes / 8, by: 64).allSatisfy { sector in
            words[sector] == Self.magic && words[sector + 1] == block && words[sector + 2] == number
                && words[sector + 3] == mix64(number ^ block)
                && (4..<64).allSatisfy { words[sector + $0] == mix64(number &+ UInt64($0)) }
        }
        guard isBlank || isWhole else { return say("! block \(block) is torn, or another's") }
        say("r \(block) \(isBlank ? 0 : number)")
    }
}

/// Several threads on one device: each new MiB takes a write several flushes.
private enum FillLoad {
    private static let writers: UInt64 = 8

    static func byAll(
        _ path: String, _ units: UInt64, _ body: @escaping @Sendable (RegisterLoad, StrideTo<UInt64>) throws -> Void
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            for writer in 0..<writers {
                group.addTask {
                    try await offPool {
                        let blocks = stride(from: writer * 256, to: units * 256, by: Int(writers) * 256)
                        try body(try RegisterLoad(path, count: 0, seed: 0, writer: writer), blocks)
                    }
                }
            }
            try await group.waitForAll()
        }
    }
}

// MARK: - Files

/// Appends, replaces, renames and removes files, with noise around them.
private struct FileLoad {
    private static let fileCount = 48
    private static let recordBytes = 512

    private struct Content {
        var generation: UInt64
        var count: UInt64
    }

    private let directory: String
    private let directoryFile: Descriptor
    private var random: SeededRandom
    private var files: [String: Content] = [:]
    private var operations = 0

    init(_ directory: String, seed: UInt64) throws {
        self.directory = directory
        try makeDirectories(directory)
        directoryFile = try Descriptor.open(directory, O_RDONLY | O_DIRECTORY)
        random = SeededRandom(seed: seed)
    }

    mutating func look() throws {
        say("b")
        for name in directoryEntries(directory).sorted() where name.hasPrefix("file") {
            let content = try content(of: name)
            // What a crash left behind the whole records must not join later ones.
            try check(Int(truncate(path(name), off_t(content.count) * off_t(Self.recordBytes))), "\(name) is too long")
            files[name] = content
            say("f \(name) \(content.generation) \(content.count)")
        }
        say("z")
    }

    mutating func work() throws {
        while true {
            let name = "file\(Int.random(in: 0..<Self.fileCount, using: &random))"
            switch (files[name], Int.random(in: 0..<12, using: &random)) {
            case (nil, _), (_, 0): try replace(name)
            case (_, 1): try remove(name)
            case (let content?, 2...3): try verify(name, content)
            case (_, 4): try makeNoise()
            case (let content?, _): try append(name, content)
            }
            operations += 1
            if operations % 100 == 0 { say("+ 100") }
            usleep(UInt32.random(in: 0..<8000, using: &random))
        }
    }

    private func path(_ name: String) -> String { "\(directory)/\(name)" }

    private func record(_ name: String, _ generation: UInt64, _ index: UInt64) -> [UInt64] {
        let key = name.utf8.reduce(generation) { mix64($0 ^ UInt64($1)) }
        return [generation, index] + (2..<UInt64(Self.recordBytes / 8)).map { mix64(key ^ index << 8 ^ $0) }
    }

    private func write(_ name: String, _ generation: UInt64, _ range: Range<UInt64>, to file: Descriptor) throws {
        let words = range.flatMap { record(name, generation, $0) }
        let bytes = words.withUnsafeBytes { Array($0) }
        let offset = off_t(range.lowerBound) * off_t(Self.recordBytes)
        let written = pwrite(file.raw, bytes, bytes.count, offset)
        try check(written, "\(name) could not be written")
        guard written == bytes.count else { throw LinuxError(errno: ENOSPC, "\(name) was written in part") }
    }

    private mutating func append(_ name: String, _ content: Content) throws {
        if content.count > 400 { return try replace(name) }
        let more = UInt64.random(in: 1...24, using: &random)
        let file = try Descriptor.open(path(name), O_WRONLY)
        try write(name, content.generation, content.count..<content.count + more, to: file)
        files[name]?.count += more
        if Bool.random(using: &random) {
            try check(Int(fdatasync(file.raw)), "\(name) could not be flushed")
            say("s \(name) \(content.generation) \(content.count + more)")
        }
    }

    /// A new generation in a file of its own takes the name's place at once.
    private mutating func replace(_ name: String) throws {
        let generation = (random.next() as UInt64) >> 16 | 1
        let count = UInt64.random(in: 1...64, using: &random)
        let temporary = path("new-\(name)")
        do {
            let file = try Descriptor.open(temporary, O_WRONLY | O_CREAT | O_TRUNC)
            try write(name, generation, 0..<count, to: file)
            try check(Int(fsync(file.raw)), "\(name) could not be flushed")
        }
        say("n \(name) \(generation) \(count)")
        try check(Int(rename(temporary, path(name))), "\(name) could not be replaced")
        try flushDirectory()
        files[name] = Content(generation: generation, count: count)
        say("d \(name) \(generation) \(count)")
    }

    private mutating func remove(_ name: String) throws {
        say("u \(name)")
        try check(Int(unlink(path(name))), "\(name) could not be removed")
        try flushDirectory()
        files[name] = nil
        say("x \(name)")
    }

    private func flushDirectory() throws {
        try check(Int(fsync(directoryFile.raw)), "the directory could not be flushed")
    }

    private func verify(_ name: String, _ expected: Content) throws {
        let found = try content(of: name)
        if found.generation != expected.generation || found.count != expected.count {
            say("! \(name) holds \(found.count) records of \(found.generation), written were \(expected)")
        }
    }

    /// The whole records at a file's beginning.
    private func content(of name: String) throws -> Content {
        let bytes = try readFile(path(name))
        var content = Content(generation: 0, count: 0)
        bytes.withUnsafeBytes { bytes in
            while (Int(content.count) + 1) * Self.recordBytes <= bytes.count {
                let start = Int(content.count) * Self.recordBytes
                let words = (0..<Self.recordBytes / 8).map {
                    bytes.loadUnaligned(fromByteOffset: start + 8 * $0, as: UInt64.self)
                }
                if content.count == 0 { content.generation = words[0] }
                guard words == record(name, content.generation, content.count) else { return }
                content.count += 1
            }
        }
        return content
    }

    /// What filesystems do besides: directories, links, holes, truncation. Nothing of it is looked at again, except by
    /// fsck.
    private mutating func makeNoise() throws {
        let number = Int.random(in: 0..<16, using: &random)
        let place = path("noise\(number)")
        switch Int.random(in: 0..<48, using: &random) {
        case 0: try trim()
        case 1..<8:
            unlink(place + ".big")
            let file = try Descriptor.open(place + ".big", O_WRONLY | O_CREAT)
            let bytes = [UInt8](repeating: UInt8(number), count: Int.random(in: 1...3, using: &random) << 20)
            try check(pwrite(file.raw, bytes, bytes.count, 0), "noise could not be written")
        case 8..<16: _ = mkdir(place + ".dir", 0o755) == 0 || rmdir(place + ".dir") == 0
        case 16..<24:
            unlink(place + ".link")
            _ = link(place, place + ".link")
        case 24..<32: _ = truncate(place, off_t.random(in: 0..<1 << 20, using: &random))
        default:
            let file = try Descriptor.open(place, O_WRONLY | O_CREAT)
            let bytes = [UInt8](repeating: UInt8(number), count: Int.random(in: 1...40_000, using: &random))
            let offset = off_t.random(in: 0..<4 << 20, using: &random)
            try check(pwrite(file.raw, bytes, bytes.count, offset), "noise could not be written")
        }
    }

    /// The filesystem discards what it does not use, so that what it writes next needs space anew.
    private func trim() throws {
        var range: (start: UInt64, length: UInt64, leastLength: UInt64) = (0, .max, 0)
        let fiTrim: UInt = 0xC018_5879
        try check(Int(cbio_ioctl_pointer(directoryFile.raw, fiTrim, &range)), "the filesystem could not be trimmed")
    }
}
