import BlockCore

/// What snapshots show of the volumes that they were taken of.
extension History {
    struct Problem: Error { var text: String }

    /// A span in which a cut may have been: from the moment that what it shows was begun, until that was certainly replaced.
    private typealias Span = (from: UInt64, to: UInt64)

    /// What a snapshot had in the block when it was taken, if it has been seen and is not zero: it appears in the snapshot's own
    /// history as a write of that moment. A snapshot shows one such value for ever, and one that its ancestors had.
    func inherited(_ block: Block) -> Result<Write?, Problem> {
        guard let register = registers[block] else { return .success(nil) }
        let foreign = Set(register.reads.map(\.value)).filter { $0 != 0 && register.writes[$0] == nil }
        guard let value = foreign.min() else { return .success(nil) }
        guard foreign.count == 1 else {
            return .failure(Problem(text: "values that it was not given: \(foreign.sorted())"))
        }
        guard let origin = origins[block.volume] else {
            return .failure(Problem(text: "\(value) in a volume that is no snapshot"))
        }
        var ancestor: VolumeID? = origin.source
        while let known = ancestor {
            if registers[Block(volume: known, number: block.number)]?.writes[value] != nil {
                let write = Write(
                    value: value, epoch: 0, invoked: origin.from, ended: origin.to, isAcknowledged: true)
                return .success(write)
            }
            ancestor = origins[known]?.source
        }
        return .failure(Problem(text: "\(value), which none of its ancestors was given"))
    }

    /// Whether one moment explains what all snapshots of each group show.
    func checkCuts() -> String? {
        for group in Set(origins.values.map(\.group)).sorted() {
            let members = origins.filter { $0.value.group == group }
            var spans: [(block: Block, options: [Span])] = []
            for block in registers.keys.sorted() {
                guard let origin = members[block.volume], let options = options(block, origin) else { continue }
                spans.append((block, options))
            }
            let from = members.values.map(\.from).max() ?? 0
            let to = members.values.map(\.to).min() ?? .max
            let moments = ([from] + spans.flatMap { $0.options.map(\.from) }.filter { $0 > from && $0 <= to }).sorted()
            let fits = moments.contains { moment in
                spans.allSatisfy { $0.options.contains { $0.from <= moment && moment <= $0.to } }
            }
            if fits || spans.isEmpty { continue }
            let shown = spans.map { "\($0.block.volume)/\($0.block.number) \($0.options)" }.joined(separator: ", ")
            return "no moment from \(from) to \(to) explains the snapshots of group \(group): \(shown)"
        }
        return nil
    }

    /// When the source had what the snapshot shows in this block; nil if nobody has seen what that is.
    private func options(_ block: Block, _ origin: Origin) -> [Span]? {
        let own = registers[block] ?? Register()
        let source = registers[Block(volume: origin.source, number: block.number)] ?? Register()
        let sourcesInitial = try? inherited(Block(volume: origin.source, number: block.number)).get()
        func span(_ shown: Write, replacedBy others: [Write]) -> Span {
            let ends = others.filter { $0.isAcknowledged && $0.invoked > shown.ended }.map(\.ended)
            return (shown.invoked, ends.min() ?? .max)
        }
        if let initial = try? inherited(block).get() {
            let others = source.writes.values.filter { $0.value != initial.value } + Array(source.zeroings.values)
            if let write = source.writes[initial.value] { return [span(write, replacedBy: others)] }
            guard let older = origins[origin.source] else { return nil }
            let inherited = Write(
                value: initial.value, epoch: 0, invoked: older.from, ended: older.to, isAcknowledged: true)
            return [span(inherited, replacedBy: others)]
        }
        // Zeros, if they were seen before anybody could have written them there.
        let firstZeroing = own.zeroings.values.map(\.invoked).min() ?? .max
        guard own.reads.contains(where: { $0.value == 0 && $0.ended < firstZeroing }) else { return nil }
        let others = Array(source.writes.values) + [sourcesInitial].compactMap { $0 }
        let never = Write(value: 0, epoch: 0, invoked: 0, ended: 0, isAcknowledged: true)
        return ([never] + Array(source.zeroings.values)).map { span($0, replacedBy: others) }
    }
}
