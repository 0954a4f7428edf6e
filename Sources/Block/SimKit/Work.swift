import Base
import BlockCore

/// What clients do all day.
extension Simulation {
    /// Blocks of each unit that are written and watched: enough to overlap, and on both sides of a unit's border.
    static func isInPlay(_ block: UInt64) -> Bool {
        let inside = block % UInt64(Geometry.blocksPerUnit)
        return inside < UInt64(blocksInPlay) || inside >= UInt64(Geometry.blocksPerUnit) - UInt64(blocksInPlay)
    }

    /// Begins I/Os now and then, several at a time and often on the same blocks.
    func work(_ id: NodeID, _ life: Int) {
        guard let node = clients[id], node.life == life, let core = node.core, !node.isResting else { return }
        let pause = delay(options.profile.workPause.lowerBound, options.profile.workPause.upperBound)
        heap.add(.work(id, life: life), at: max(now + pause, node.pausedUntil))
        let isShared = options.profile == .shared
        guard now >= node.pausedUntil, let target = core.attachments.randomElement(using: &random),
            node.ios.count < (isShared ? 48 : 6)
        else { return }
        if isShared { return workTogether(id, target) }
        let action = [ClientNode.IO.Action.read, .read, .read, .write, .write, .write, .zero, .map].randomElement(
            using: &random)
        begin(action ?? .read, on: target, by: id)
    }

    /// Mostly few blocks of one unit, sometimes across a border, and for what carries no bytes sometimes whole units.
    func extent(_ action: ClientNode.IO.Action, units: UInt64) -> (first: UInt64, count: Int) {
        let perUnit = UInt64(Geometry.blocksPerUnit)
        let inPlay = UInt64(Simulation.blocksInPlay)
        let unit = UInt64.random(in: 0..<units, using: &random) * perUnit
        if action == .map { return (unit, Int(perUnit * min(2, units - unit / perUnit))) }
        switch Int.random(in: 0..<10, using: &random) {
        case 0 where unit > 0, 1 where unit > 0:
            let before = UInt64.random(in: 1...inPlay, using: &random)
            return (unit - before, Int(before + UInt64.random(in: 1...inPlay, using: &random)))
        case 2 where action != .write:
            let first = unit + UInt64.random(in: 0..<2, using: &random) * UInt64.random(in: 0..<inPlay, using: &random)
            let most = min(units * perUnit - first, 2 * perUnit + 2)
            return (first, Int(Bool.random(using: &random) ? min(most, perUnit) : most))
        case 3: return (unit + perUnit - inPlay, Int(UInt64.random(in: 1...inPlay, using: &random)))
        default:
            let start = UInt64.random(in: 0..<inPlay, using: &random)
            return (unit + start, Int(UInt64.random(in: 1...inPlay - start, using: &random)))
        }
    }

    private func begin(_ action: ClientNode.IO.Action, on target: AttachedVolume, by id: NodeID) {
        let part = extent(action, units: target.sizeBytes / UInt64(Geometry.unitBytes))
        begin(action, target.attachment, first: part.first, count: part.count, by: id)
    }

    /// Every block that was written by anybody is read once.
    func readAll() {
        let perUnit = UInt64(Geometry.blocksPerUnit)
        let inPlay = UInt64(Simulation.blocksInPlay)
        for id in clientIDs {
            for target in clients[id]?.core?.attachments ?? [] {
                for block in stride(from: 0, to: target.sizeBytes / 4096, by: UInt64.Stride(perUnit)) {
                    begin(.read, target.attachment, first: block, count: Int(inPlay), by: id)
                    begin(.read, target.attachment, first: block + perUnit - inPlay, count: Int(inPlay), by: id)
                }
            }
        }
    }

    func begin(
        _ action: ClientNode.IO.Action, _ attachment: Attachment, first: UInt64, count: Int, by id: NodeID
    ) {
        let io = ClientIO(rawValue: clients[id]?.nextIO ?? 0)
        clients[id]?.nextIO += 1
        var record = ClientNode.IO(
            volume: attachment.volume, lineage: history.lineage(of: attachment.volume), epoch: attachment.epoch,
            first: first, action: action, invoked: now, seen: Array(repeating: 0, count: count))
        var kind = ClientIOKind.read
        switch action {
        case .read: break
        case .map:
            kind = .map
            record.seen = Array(repeating: 0, count: count / 64)
        case .write:
            for index in 0..<UInt64(count) {
                let block = History.Block(volume: record.lineage, number: first + index)
                history.began(block, nextValue, attachment.epoch, at: now.nanoseconds)
                record.values.append(nextValue)
                nextValue += 1
            }
            kind = .write(keep(record.values, on: id))
        case .zero:
            record.values = Array(repeating: nextValue, count: count)
            nextValue += 1
            kind = .writeZeroes
            for index in 0..<UInt64(count) where Simulation.isInPlay(first + index) {
                let block = History.Block(volume: record.lineage, number: first + index)
                history.beganZeroing(block, record.values[0], attachment.epoch, at: now.nanoseconds)
            }
        }
        clients[id]?.ios[io] = record
        note("\(id) io \(io.rawValue) \(action) begins on \(attachment) \(first)+\(count) \(record.values.prefix(8))")
        drive(
            id,
            .submit(io, attachment, kind, offset: first * 4096, length: UInt32(count) * Geometry.blockBytes))
    }

    func completed(_ id: NodeID, _ io: ClientIO, _ result: ClientIOResult) {
        guard let done = clients[id]?.ios.removeValue(forKey: io) else { return fail("\(id) completed an I/O twice") }
        note("\(id) io \(io.rawValue) \(done.action) \(done.first): \(result) saw \(done.seen.prefix(8))")
        if result == .noSpace { return refusedForSpace(done) }
        let isInTime = result == .ok || result == .fenced
        if result == .mediaError, isSpoilt(done) { return }
        if !isInTime, done.invoked > healedAt {
            fail("\(id) io \(io.rawValue) begun after the faults ended: \(result)")
        }
        guard result == .ok else { return }
        if isHealed { clients[id]?.servedSinceHeal.insert(done.volume) }
        if done.action == .map { return sawMap(done) }
        for (index, seen) in done.seen.enumerated() {
            let block = History.Block(volume: done.lineage, number: done.first + UInt64(index))
            if Simulation.isInPlay(block.number) {
                if done.action == .read {
                    history.saw(
                        block, seen, done.epoch, from: done.invoked.nanoseconds, to: now.nanoseconds)
                } else {
                    history.acknowledged(block, done.values[index], at: now.nanoseconds)
                }
            } else if seen != 0 {
                fail("block \(block.number) of \(block.volume) was never written and holds \(seen)")
            }
        }
    }

    /// A hole has been seen to read as zeros. Data may be anything.
    private func sawMap(_ done: ClientNode.IO) {
        for index in 0..<UInt64(done.seen.count * 64) where done.seen[Int(index / 64)] >> (index % 64) & 1 == 0 {
            let block = History.Block(volume: done.lineage, number: done.first + index)
            guard Simulation.isInPlay(block.number) else { continue }
            history.saw(block, 0, done.epoch, from: done.invoked.nanoseconds, to: now.nanoseconds)
        }
    }
}
