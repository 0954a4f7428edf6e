import Base
import BlockCore

extension Simulation {
    /// Does one bad thing, and comes back for the next.
    func adversary() {
        if isHealed { return }
        heap.add(.adversary, at: now + delay(100, 1500))
        let everyone = [NodeID.manager] + serverIDs + clientIDs
        let one = everyone.randomElement(using: &random) ?? .manager
        let other = everyone.filter { $0 != one }.randomElement(using: &random) ?? .manager
        let until = now + delay(300, 7000)
        switch Int.random(in: 0..<16, using: &random) {
        case 0, 1:
            let victim = serverIDs.randomElement(using: &random) ?? one
            crash(victim)
            heap.add(.start(victim), at: now + delay(50, 6000))
        case 2:
            crash(one)
            heap.add(.start(one), at: now + delay(50, 4000))
        case 3, 4:
            note("\(one) pauses until \(until)")
            pause(one, until: until)
        case 5:
            note("\(one) -> \(other) blocked until \(until)")
            network.block(one, other, until: until)
        case 6:
            note("\(one) <-> \(other) blocked until \(until)")
            network.block(one, other, until: until)
            network.block(other, one, until: until)
        case 7, 8:
            note("\(one) -> \(other) clogged until \(until)")
            network.clog(one, other, until: until)
        case 9, 10:
            // A server that clients reach and nobody else does.
            let server = serverIDs.randomElement(using: &random) ?? one
            note("\(server) is cut off from all but clients until \(until)")
            for peer in [NodeID.manager] + serverIDs where peer != server { isolate(server, peer, until) }
        case 11, 12:
            // A client and a server that both miss what the manager decides.
            let client = clientIDs.randomElement(using: &random) ?? one
            let server = serverIDs.randomElement(using: &random) ?? one
            note("\(client) and \(server) are cut off from the manager until \(until)")
            isolate(client, .manager, until)
            isolate(server, .manager, until)
            heap.add(.preempt, at: now + delay(10, 200))
        case 13, 14:
            // The power fails for some, and is soon back: nobody has missed them.
            note("a power failure")
            for victim in everyone where victim != .manager && Bool.random(using: &random) {
                crash(victim)
                heap.add(.start(victim), at: now + delay(20, 450))
            }
        default:
            // The zombie: alive, connected to all other servers, but cut off from the manager.
            note("\(one) cut off from the manager until \(until)")
            isolate(one, .manager, until)
        }
    }

    private func isolate(_ one: NodeID, _ other: NodeID, _ until: Instant) {
        network.block(one, other, until: until)
        network.block(other, one, until: until)
    }
}
