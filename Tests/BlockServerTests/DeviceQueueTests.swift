import Base
import BlockIO
import Glibc
import Synchronization
import Testing

@testable import BlockServer

/// The operations of a device, with either engine.
@Suite struct DeviceQueueTests {
    /// A device of 16 MiB on a reactor of its own.
    final class Bench: DeviceQueueOwner, @unchecked Sendable {
        // SAFETY: used on the reactor's thread, except for `outcomes`, which is behind a mutex.
        let path: String
        let reactor: Reactor
        let file: DeviceFile
        private var queue: DeviceQueue?
        private let outcomes = Mutex<[UInt64: String]>([:])

        /// Nil when the engine is not to be had here.
        init?(_ engine: DeviceEngine) throws {
            var random = SystemRandomNumberGenerator()
            path = "/var/tmp/holdfast-queue-\((random.next() as UInt64).hex)"
            reactor = try Reactor(name: "queue-test")
            if engine == .uring && !reactor.openDiskRing() { return nil }
            file = try DeviceFile(path: path, sizeWhenAbsent: 16 << 20)
            reactor.start()
            reactor.perform { [self] in queue = DeviceQueue(file, on: reactor, owner: self) }
        }

        func submit(_ operations: [(UInt64, DeviceOperation)]) {
            reactor.perform { [self] in
                for (tag, operation) in operations { queue?.submit(operation, tag: tag) }
            }
        }

        func ended(_ tag: UInt64, _ error: BlockIOError?) {
            outcomes.withLock { outcomes in
                #expect(outcomes[tag] == nil, "operation \(tag) ended twice")
                outcomes[tag] = error?.description ?? ""
            }
        }

        /// The error of each operation, empty for success; nil if one does not end.
        func outcomes(of tags: [UInt64]) -> [String]? {
            let deadline = Reactor.now + .seconds(20)
            while Reactor.now < deadline {
                let known = outcomes.withLock { outcomes in tags.compactMap { outcomes[$0] } }
                if known.count == tags.count { return known }
                usleep(1000)
            }
            return nil
        }

        func finish() {
            reactor.perform { [self] in queue?.stop() }
            reactor.stop()
            let deadline = Reactor.now + .seconds(20)
            while !reactor.isDone && Reactor.now < deadline { usleep(1000) }
            #expect(reactor.isDone)
            unlink(path)
        }
    }

    static func filled(_ count: Int, _ value: UInt8) -> IOBuffer {
        let buffer = IOBuffer(count: count)
        memset(buffer.base, Int32(value), count)
        return buffer
    }

    @Test(arguments: [DeviceEngine.uring, .threads])
    func readsWhatItWroteWithManyUnderWay(_ engine: DeviceEngine) throws {
        guard let bench = try Bench(engine) else { return }
        defer { bench.finish() }
        var random = SeededRandom(seed: 5)
        var model = [UInt8](repeating: 0, count: 4096)
        for round in 0..<4 {
            var operations: [(UInt64, DeviceOperation)] = []
            // More than the kernel's queue takes at once, over disjoint blocks.
            for block in 0..<4096 where block % 8 == round || Int.random(in: 0..<20, using: &random) == 0 {
                let value = UInt8.random(in: 1...255, using: &random)
                model[block] = value
                let buffer = Self.filled(8192, value)
                operations.append(
                    (UInt64(round << 16 | block + 1), .write(at: UInt64(block * 4096), buffer, 4096..<8192)))
            }
            let flush = UInt64(round << 16 | 5000)
            bench.submit(operations)
            #expect(bench.outcomes(of: operations.map(\.0))?.allSatisfy(\.isEmpty) == true)
            // All flushes that wait are answered, by however many calls.
            bench.submit((0..<20).map { (flush + $0, .flush) })
            #expect(bench.outcomes(of: (0..<20).map { flush + $0 })?.allSatisfy(\.isEmpty) == true)
        }
        bench.submit([
            (1 << 40, .writeZeros(at: 1 << 20, length: 1 << 20)), (1 << 40 | 1, .punch(at: 2 << 20, length: 1 << 20)),
        ])
        #expect(bench.outcomes(of: [1 << 40, 1 << 40 | 1])?.allSatisfy(\.isEmpty) == true)
        for block in 256..<768 { model[block] = 0 }
        let buffers = (0..<16).map { _ in Self.filled(1 << 20, 0xEE) }
        bench.submit(buffers.enumerated().map { (1 << 41 | UInt64($0), .read(at: UInt64($0) << 20, $1, 0..<$1.count)) })
        #expect(bench.outcomes(of: (0..<16).map { 1 << 41 | $0 })?.allSatisfy(\.isEmpty) == true)
        for (unit, buffer) in buffers.enumerated() {
            for block in 0..<256 {
                let bytes = buffer.bytes[block * 4096..<(block + 1) * 4096]
                #expect(bytes.allSatisfy { $0 == model[unit * 256 + block] }, "block \(unit * 256 + block)")
            }
        }
    }

    @Test(arguments: [DeviceEngine.uring, .threads])
    func aFailedReadStopsNothingAndAFailedWriteEverything(_ engine: DeviceEngine) throws {
        guard let bench = try Bench(engine) else { return }
        defer { bench.finish() }
        bench.submit([(1, .read(at: 16 << 20, IOBuffer(count: 4096), 0..<4096))])
        #expect(bench.outcomes(of: [1])?.first?.isEmpty == false)
        bench.submit([(2, .write(at: 0, Self.filled(4096, 1), 0..<4096)), (3, .flush)])
        #expect(bench.outcomes(of: [2, 3]) == ["", ""])
        // No file system here has files so large.
        bench.submit([(4, .write(at: 1 << 61, Self.filled(4096, 2), 0..<4096))])
        #expect(bench.outcomes(of: [4])?.first?.isEmpty == false)
        bench.submit([
            (5, .write(at: 0, Self.filled(4096, 3), 0..<4096)), (6, .flush),
            (7, .read(at: 0, IOBuffer(count: 4096), 0..<4096)),
        ])
        #expect(bench.outcomes(of: [5, 6, 7])?.allSatisfy { !$0.isEmpty } == true)
    }

    @Test(arguments: [DeviceEngine.uring, .threads])
    func endsWithOperationsUnderWay(_ engine: DeviceEngine) throws {
        for _ in 0..<5 {
            guard let bench = try Bench(engine) else { return }
            bench.submit(
                (0..<64).map { ($0 + 1, .write(at: $0 << 12, Self.filled(4096, 7), 0..<4096)) } + [(100, .flush)]
                    + (0..<16).map { ($0 + 200, .read(at: $0 << 20, IOBuffer(count: 1 << 20), 0..<1 << 20)) })
            bench.finish()
        }
    }
}
