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
    /// A disk with more of them is not one with a few bad places.
    private static let countMax = 64

    private var failures: [UnitKey: [UInt16: Failure]] = [:]
    private var count = 0

    /// Notes that the block could not be read; answers whether that was so often enough to give it up.
    mutating func isLost(_ unit: UnitKey, _ block: UInt16, _ now: Instant) -> Bool {
        guard var known = failures[unit]?[block] else {
            guard count < BadBlocks.countMax else { return false }
            failures[unit, default: [:]][block] = Failure(lastAt: now)
            count += 1
            return false
        }
        if now - known.lastAt >= BadBlocks.pause {
            known.attempts += 1
            known.lastAt = now
            failures[unit]?[block] = known
        }
        return known.attempts >= BadBlocks.attemptsMax
    }
}
