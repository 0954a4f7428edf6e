import Base
import Glibc
import Testing

@testable import BlockClient

/// The requests of a ublk device, against a kernel in memory.
@Suite struct UblkQueueTests {
    private static let limits = UblkQueue.Limits(size: 1 << 30, blockSize: 4096, isReadOnly: false)

    private func started(_ depth: Int) -> UblkQueue {
        var queue = UblkQueue(depth: depth)
        var actions: [UblkQueue.Action] = []
        queue.apply(.start, UblkQueueTests.limits, into: &actions)
        #expect(actions == (0..<depth).map { .fetch($0) })
        return queue
    }

    private func apply(
        _ queue: inout UblkQueue, _ event: UblkQueue.Event, _ limits: UblkQueue.Limits = limits
    ) -> [UblkQueue.Action] {
        var actions: [UblkQueue.Action] = []
        queue.apply(event, limits, into: &actions)
        return actions
    }

    private func fetched(_ tag: Int, _ operation: UInt8, _ sectors: UInt32, at start: UInt64 = 0) -> UblkQueue.Event {
        .fetched(tag, error: 0, Ublk.Descriptor(operation: operation, sectors: sectors, start: start))
    }

    @Test func everyKindIsServedAndCommitted() {
        var queue = started(5)
        let block: UInt64 = 4096
        #expect(apply(&queue, fetched(0, 0, 8, at: 16)) == [.serve(0, .read(at: 2 * block, count: 4096))])
        #expect(apply(&queue, fetched(1, 1, 2048)) == [.serve(1, .write(at: 0, count: 1 << 20))])
        #expect(apply(&queue, fetched(2, 2, 0)) == [.serve(2, .flush)])
        #expect(apply(&queue, fetched(3, 3, 1 << 21)) == [.serve(3, .discard(at: 0, count: 1 << 30))])
        #expect(apply(&queue, fetched(4, 5, 8)) == [.serve(4, .zeroes(at: 0, count: block))])
        #expect(queue.isServed(4))
        #expect(apply(&queue, .served(1, error: 0)) == [.commit(1, result: 1 << 20)])
        #expect(apply(&queue, .served(0, error: 0)) == [.commit(0, result: 4096)])
        #expect(apply(&queue, .served(2, error: 0)) == [.commit(2, result: 0)])
        #expect(apply(&queue, .served(3, error: ENOSPC)) == [.commit(3, result: -ENOSPC)])
        #expect(apply(&queue, .served(4, error: 0)) == [.commit(4, result: 0)])
        #expect(!queue.isServed(4))
        // And again with the same tag.
        #expect(apply(&queue, fetched(4, 2, 0)) == [.serve(4, .flush)])
    }

    @Test(
        arguments: [
            // Sectors that are no blocks, none, beyond the end, past all numbers, or too many; unknown operations.
            (0, 1, 0, EINVAL), (0, 8, 1, EINVAL), (1, 0, 0, EINVAL), (0, 8, 1 << 21, EINVAL),
            (1, 16, (1 << 21) - 8, EINVAL),
            (1, 8, .max, EINVAL), (0, 8, .max - 7, EINVAL), (0, 8, 1 << 55, EINVAL), (1, 2056, 0, EINVAL),
            (3, .max, 0, EINVAL), (5, (1 << 21) + 8, 0, EINVAL), (4, 8, 0, EOPNOTSUPP), (15, 8, 0, EOPNOTSUPP),
            (255, 8, 0, EOPNOTSUPP),
        ] as [(UInt8, UInt32, UInt64, Int32)])
    func impossibleRequestsAreRefused(_ operation: UInt8, _ sectors: UInt32, _ start: UInt64, _ error: Int32) {
        var queue = started(1)
        #expect(apply(&queue, fetched(0, operation, sectors, at: start)) == [.commit(0, result: -error)])
        #expect(apply(&queue, fetched(0, 2, 0)) == [.serve(0, .flush)])
    }

    @Test func aReadOnlyVolumeIsOnlyRead() {
        var queue = started(1)
        var limits = UblkQueueTests.limits
        limits.isReadOnly = true
        for operation: UInt8 in [1, 3, 5] {
            #expect(apply(&queue, fetched(0, operation, 8), limits) == [.commit(0, result: -EROFS)])
        }
        #expect(apply(&queue, fetched(0, 0, 8), limits) == [.serve(0, .read(at: 0, count: 4096))])
    }

    @Test func aGrownVolumeTakesMore() {
        var queue = started(1)
        var limits = UblkQueueTests.limits
        #expect(apply(&queue, fetched(0, 0, 8, at: 1 << 21)) == [.commit(0, result: -EINVAL)])
        limits.size *= 2
        #expect(apply(&queue, fetched(0, 0, 8, at: 1 << 21), limits) == [.serve(0, .read(at: 1 << 30, count: 4096))])
    }

    @Test func aWithdrawalFailsWhatIsServedOnceAndWhatComes() {
        var queue = started(3)
        _ = apply(&queue, fetched(0, 1, 8))
        _ = apply(&queue, fetched(1, 0, 8))
        #expect(apply(&queue, .withdraw) == [.commit(0, result: -EIO), .commit(1, result: -EIO)])
        #expect(apply(&queue, .withdraw).isEmpty)
        // The device answers late; by then the tag may have another request.
        #expect(apply(&queue, fetched(1, 0, 8)) == [.commit(1, result: -EIO)])
        #expect(!queue.isServed(1))
        #expect(apply(&queue, .served(1, error: 0)).isEmpty && apply(&queue, .served(0, error: EIO)).isEmpty)
        #expect(apply(&queue, fetched(2, 2, 0)) == [.commit(2, result: -EIO)])
    }

    @Test func theEndComesWithTheLastTag() {
        var queue = started(3)
        _ = apply(&queue, fetched(1, 0, 8))
        #expect(apply(&queue, .fetched(0, error: ENODEV, nil)).isEmpty)
        #expect(apply(&queue, .fetched(2, error: ENODEV, nil)).isEmpty)
        #expect(apply(&queue, .served(1, error: 0)) == [.commit(1, result: 4096)])
        // However the kernel refuses it by then.
        #expect(apply(&queue, .fetched(1, error: EINVAL, nil)) == [.over])
    }

    @Test func aRefusalOfCommandsIsToldOnce() {
        var queue = started(3)
        #expect(apply(&queue, .fetched(0, error: EINVAL, nil)) == [.fault(EINVAL)])
        #expect(apply(&queue, .fetched(1, error: EBUSY, nil)).isEmpty)
        #expect(apply(&queue, .fetched(2, error: ENODEV, nil)) == [.over])
    }

    /// Any order of requests, answers, withdrawal and end: each request is committed once, with the device's result or
    /// with EIO after the withdrawal, and every tag comes to its end.
    @Test(arguments: 1...200) func everyRequestHasOneAnswer(_ seed: UInt64) {
        var random = SeededRandom(seed: seed)
        let depth = Int.random(in: 1...16, using: &random)
        var queue = UblkQueue(depth: depth)
        var kernelHas = Set<Int>()
        var asked: [Int: UInt8] = [:]
        var served: [Int] = []
        var (late, isWithdrawn, isStopping, overCount): ([Int], Bool, Bool, Int) = ([], false, false, 0)
        var aborted = Set<Int>()
        /// The result that the device gave for a tag.
        var given: [Int: Int32] = [:]
        func perform(_ event: UblkQueue.Event) {
            for action in apply(&queue, event) {
                #expect(overCount == 0)
                switch action {
                case .fetch(let tag): #expect(kernelHas.insert(tag).inserted && !aborted.contains(tag))
                case .commit(let tag, let result):
                    #expect(asked.removeValue(forKey: tag) != nil, "a commit without a request")
                    #expect(kernelHas.insert(tag).inserted && !aborted.contains(tag))
                    #expect(result == (isWithdrawn ? -EIO : given[tag]))
                case .serve(let tag, _):
                    #expect(!isWithdrawn)
                    served.append(tag)
                case .fault: #expect(Bool(false), "no command was refused")
                case .over: overCount += 1
                }
            }
        }
        func ask() {
            guard !isStopping, let tag = kernelHas.randomElement(using: &random) else { return }
            kernelHas.remove(tag)
            let operation: UInt8 = [0, 1, 2, 3, 5].randomElement(using: &random) ?? 0
            asked[tag] = operation
            perform(fetched(tag, operation, 8))
        }
        func answer() {
            guard let position = served.indices.randomElement(using: &random) else { return }
            let tag = served.remove(at: position)
            let error: Int32 = Int.random(in: 0..<4, using: &random) == 0 ? EIO : 0
            if !isWithdrawn { given[tag] = error != 0 ? -error : asked[tag].map { $0 < 2 ? 4096 : 0 } }
            perform(.served(tag, error: error))
        }
        perform(.start)
        for _ in 0..<Int.random(in: 0...300, using: &random) {
            switch Int.random(in: 0..<20, using: &random) {
            case 0 where !isWithdrawn:
                isWithdrawn = true
                late = served
                perform(.withdraw)
                #expect(asked.isEmpty)
            case 0..<10: ask()
            default: answer()
            }
        }
        // STOP_DEV: no more requests; those under way are awaited, then every tag is aborted.
        isStopping = true
        while !served.isEmpty { answer() }
        #expect(asked.isEmpty && late.count <= depth)
        for tag in kernelHas.sorted() {
            aborted.insert(tag)
            kernelHas.remove(tag)
            perform(.fetched(tag, error: ENODEV, nil))
        }
        #expect(overCount == 1 && aborted.count == depth)
    }
}
