import Base
import Testing

@Suite struct IDTableTests {
    /// Against a dictionary, with numbers that grow and some that stay for long.
    @Test(arguments: 1...20 as ClosedRange<UInt64>)
    func holdsWhatADictionaryHolds(seed: UInt64) {
        var random = SeededRandom(seed: seed)
        var table = IDTable<UInt64, [UInt64]>()
        var model: [UInt64: [UInt64]] = [:]
        var next: UInt64 = 1
        for _ in 0..<4000 {
            let known = model.keys.sorted()
            switch Int.random(in: 0..<5, using: &random) {
            case 0, 1:
                table[next, default: [7]].append(next)
                model[next, default: [7]].append(next)
                // Some numbers share their low bits with those that stay.
                next += Int.random(in: 0..<20, using: &random) == 0 ? 64 : 1
            case 2:
                guard let number = known.randomElement(using: &random) else { continue }
                table[number]?.append(next)
                model[number]?.append(next)
            case 3:
                // The oldest ones stay.
                guard let number = known.dropFirst(3).randomElement(using: &random) else { continue }
                #expect(table.removeValue(forKey: number) == model.removeValue(forKey: number))
            default:
                guard let number = known.randomElement(using: &random), known.count > 40 else { continue }
                table[number] = nil
                model[number] = nil
            }
            #expect(table.count == model.count)
        }
        #expect(table.keys.sorted() == model.keys.sorted())
        for number in 0...next { #expect(table[number] == model[number]) }
        #expect(table.removeValue(forKey: next) == nil)
        table[0]?.append(1)
        #expect(table[0] == nil && table.count == model.count)
        #expect(table.firstKey { $0.contains(7) && $0.count == 1 } == nil)
    }
}
