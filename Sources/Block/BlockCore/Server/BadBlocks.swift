import Base

/// Blocks that the own devices could not read when a copy was to be made of them and there was no other.
struct BadBlocks {
    private struct Failure {
        var attempts = 1
        var lastAt: Instant
    }

    /// What fails more often than this at once is one failure: a disk may be out of reach for a moment.
    private static let pause = Duration.milliseconds(500)
    private static let attemptsMax = 3
    /// What failed longer ago has nothing to do with what fails now.
    private static let memory = Duration.seconds(600)
    /// A disk with more of them at once is not one with a few bad places.
    private static let countMax = 64

    private struct Block: Hashable {
        var unit: UnitKey
        var number: UInt16
    }

    private var failures: [Block: Failure] = [:]

    /// Notes that the block could not be read; answers whether that was so often enough to give it up.
    mutating func isLost(_ unit: UnitKey, _ number: UInt16, _ now: Instant) -> Bool {
        failures = failures.filter { now - $0.value.lastAt < BadBlocks.memory }
        let block = Block(unit: unit, number: number)
        guard var known = failures[block] else {
            if failures.count < BadBlocks.countMax { failures[block] = Failure(lastAt: now) }
            return false
        }
        if now - known.lastAt >= BadBlocks.pause {
            known.attempts += 1
            known.lastAt = now
            failures[block] = known
        }
        return known.attempts >= BadBlocks.attemptsMax
    }
}
