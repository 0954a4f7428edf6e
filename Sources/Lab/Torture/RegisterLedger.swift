/// What a load on a raw device has said, and what its blocks may hold because of it. Each block is a register with one
/// writer; every write has a number of its own, and a block that was never written holds 0.
///
/// A load's log has a line for each event: `b` (the load begins, on a device that nobody else can write any more),
/// `w BLOCK NUMBER` (a write is begun), `a BLOCK NUMBER` (it was acknowledged), `e BLOCK NUMBER ERRNO` (it failed: it may
/// have happened, or may still), `n BLOCK NUMBER` (it was refused for lack of space: it has not happened),
/// `r BLOCK NUMBER` (a read found this), `d` (the whole device was discarded). What was on its way when a load died ends
/// with the next `b`.
struct RegisterLedger {
    private struct Register {
        var settled: UInt64 = 0
        /// Begun, and neither acknowledged nor failed.
        var begun: UInt64?
        /// Writes whose outcome is unknown.
        var open: Set<UInt64> = []
    }

    private var registers: [UInt64: Register] = [:]
    /// Blocks not read since the load began.
    private var unseen: Set<UInt64> = []
    private(set) var acknowledged = 0
    private(set) var verified = 0
    private(set) var failed = 0
    /// Writes for which there was no space.
    private(set) var refused = 0

    /// Blocks that were ever written and not read since the last `b`.
    var unverified: Int { unseen.intersection(registers.keys).count }

    /// - Throws: when the line tells of something that must not be.
    mutating func take(_ line: Substring) throws(ScenarioFailure) {
        let words = line.split(separator: " ")
        let numbers = words.dropFirst().compactMap { UInt64($0) }
        switch (words.first, numbers.count) {
        case ("b", 0): begin()
        case ("w", 2):
            registers[numbers[0], default: Register()].begun = numbers[1]
            unseen.remove(numbers[0])
        case ("a", 2):
            registers[numbers[0], default: Register()].settled = numbers[1]
            registers[numbers[0]]?.begun = nil
            acknowledged += 1
        case ("e", 3):
            registers[numbers[0], default: Register()].open.insert(numbers[1])
            registers[numbers[0]]?.begun = nil
            failed += 1
        case ("n", 2):
            registers[numbers[0]]?.begun = nil
            refused += 1
        case ("d", 0): registers = registers.mapValues { _ in Register() }
        case ("r", 2): try read(numbers[0], numbers[1])
        default: throw ScenarioFailure("the load says: \(line)")
        }
    }

    private mutating func begin() {
        for block in registers.keys {
            guard let begun = registers[block]?.begun else { continue }
            registers[block]?.open.insert(begun)
            registers[block]?.begun = nil
        }
        unseen = Set(registers.keys)
    }

    private mutating func read(_ block: UInt64, _ number: UInt64) throws(ScenarioFailure) {
        let register = registers[block] ?? Register()
        guard number == register.settled || register.open.contains(number) else {
            let open = register.open.sorted().map(String.init).joined(separator: ", ")
            throw ScenarioFailure(
                "block \(block) holds write \(number); it was settled as \(register.settled), open were [\(open)]")
        }
        verified += 1
        registers[block, default: Register()].settled = number
        // The first look of a load decides what became of its dead predecessor's writes.
        if unseen.remove(block) != nil { registers[block]?.open = [] }
    }
}
