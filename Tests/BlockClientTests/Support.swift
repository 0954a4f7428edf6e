import Base
import BlockClient
import BlockIO
import Glibc
import Logging
import Synchronization

/// A device in memory, as the front ends see one; may be told to fail.
final class MemoryDevice: BlockDeviceBackend, @unchecked Sendable {
    // SAFETY: used on one reactor's thread; tests read the counters through `Reactor.sync`.
    var size: UInt64
    let blockSize = 4096
    var isReadOnly = false
    var acknowledgesDurably = true
    var flushes = 0
    var failure: Int32 = 0
    /// Answers nothing until `answerAll`.
    var isSilent = false
    var unanswered: [(tag: UInt64, owner: any BlockRequestOwner)] = []
    private let memory: UnsafeMutableRawPointer

    init(size: Int) {
        self.size = UInt64(size)
        memory = .allocate(byteCount: size, alignment: 4096)
        memset(memory, 0, size)
    }

    deinit { memory.deallocate() }

    func answerAll(_ error: Int32) {
        let due = unanswered
        unanswered = []
        for (tag, owner) in due { owner.ended(tag, error: error, bytes: nil) }
    }

    func isZero(from start: Int, to end: Int) -> Bool {
        UnsafeRawBufferPointer(start: memory + start, count: end - start).allSatisfy { $0 == 0 }
    }

    func submit(_ operation: BlockOperation, at offset: UInt64, tag: UInt64, for owner: any BlockRequestOwner) {
        guard failure == 0 else { return owner.ended(tag, error: failure, bytes: nil) }
        if isSilent { return unanswered.append((tag, owner)) }
        var bytes: IOSlice?
        let place = memory + Int(offset)
        switch operation {
        case .read(let count): bytes = IOSlice(IOBuffer(copying: UnsafeRawBufferPointer(start: place, count: count)))
        case .write(let slice): place.copyMemory(from: slice.base, byteCount: slice.count)
        case .flush: flushes += 1
        case .trim(let count), .zeroes(let count): memset(place, 0, Int(count))
        }
        owner.ended(tag, error: 0, bytes: bytes)
    }
}

extension MemoryDevice {
    /// Blocks of zeros are holes.
    func extents(at offset: UInt64, count: UInt64, completion: @escaping (Int32, [BlockExtent]) -> Void) {
        guard failure == 0 else { return completion(failure, []) }
        var extents: [BlockExtent] = []
        var position = offset
        while position < offset + count {
            let next = min(offset + count, (position / 4096 + 1) * 4096)
            let isHole = isZero(from: Int(position), to: Int(next))
            if extents.last?.isHole == isHole {
                extents[extents.count - 1].count += next - position
            } else {
                extents.append(BlockExtent(count: next - position, isHole: isHole))
            }
            position = next
        }
        completion(0, extents)
    }
}

extension Reactor {
    /// Runs `body` on the reactor's thread and waits for its result (at most 10 s).
    func sync<Value: Sendable>(_ body: @escaping @Sendable () -> Value) -> Value? {
        let result = ResultBox<Value>()
        perform { result.set(body()) }
        return result.wait(seconds: 10)
    }
}

/// Hands a value from one thread to another.
final class ResultBox<Value: Sendable>: Sendable {
    private let value = Mutex<Value?>(nil)
    func set(_ new: Value) { value.withLock { $0 = new } }
    func wait(seconds: Double) -> Value? {
        let deadline = Reactor.now + .milliseconds(Int64(seconds * 1000))
        while Reactor.now < deadline {
            if let value = value.withLock({ $0 }) { return value }
            usleep(1000)
        }
        return nil
    }
}

/// Waits on this thread; whether the condition became true in time.
func until(seconds: Int = 20, _ condition: () -> Bool) -> Bool {
    let deadline = Reactor.now + .seconds(seconds)
    while Reactor.now < deadline {
        if condition() { return true }
        usleep(2000)
    }
    return false
}

/// A fresh directory under /tmp, removed with its last reference.
final class TemporaryDirectory: Sendable {
    let path: String
    init() {
        var random = SystemRandomNumberGenerator()
        path = "/tmp/holdfast-block-\((random.next() as UInt64).hex)"
        precondition(mkdir(path, 0o700) == 0, "mkdir: errno \(errno)")
    }
    deinit { _ = runTool("rm", ["-rf", path]) }
}

/// Runs a program found in PATH to its end. Its output is kept.
@discardableResult
func runTool(_ name: String, _ arguments: [String], seconds: Int = 60) -> (status: Int32, output: String) {
    var random = SystemRandomNumberGenerator()
    let path = "/tmp/holdfast-output-\((random.next() as UInt64).hex)"
    let output = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0o600)
    defer {
        close(output)
        unlink(path)
    }
    var actions = posix_spawn_file_actions_t()
    posix_spawn_file_actions_init(&actions)
    defer { posix_spawn_file_actions_destroy(&actions) }
    posix_spawn_file_actions_adddup2(&actions, output, 1)
    posix_spawn_file_actions_adddup2(&actions, output, 2)
    let words = ["timeout", "-k", "2", "\(seconds)", name] + arguments
    var argv = words.map { strdup($0) } + [nil]
    defer { for word in argv { free(word) } }
    var pid: pid_t = 0
    guard posix_spawnp(&pid, "timeout", &actions, nil, &argv, environ) == 0 else {
        return (127, "cannot start \(name)")
    }
    var status: Int32 = 0
    while waitpid(pid, &status, 0) < 0 && errno == EINTR {}
    var text: [UInt8] = []
    lseek(output, 0, SEEK_SET)
    var chunk = [UInt8](repeating: 0, count: 65536)
    while case let count = read(output, &chunk, chunk.count), count > 0 { text.append(contentsOf: chunk[..<count]) }
    return (status & 0x7f == 0 ? status >> 8 & 0xff : 128 + (status & 0x7f), String(decoding: text, as: UTF8.self))
}

func quietLogger() -> Logger {
    var logger = Logger(label: "test")
    logger.logLevel = getenv("HOLDFAST_TEST_LOG") == nil ? .critical : .debug
    return logger
}
