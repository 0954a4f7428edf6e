import Base
import Testing

@testable import BlockCore

@Suite struct UnitIndexTests {
    /// Against a dictionary, with pools of fewer, as many and more combs than the index has parts.
    @Test func findsWhatIsThere() {
        var index = UnitIndex()
        var truth: [UnitKey: UInt32] = [:]
        var random = SeededRandom(seed: 61)
        for step in 0..<20_000 as Range<UInt32> {
            let key = UnitKey(
                tree: TreeID(rawValue: UInt64.random(in: 1...4, using: &random)),
                node: UInt32.random(in: 0...1, using: &random), index: UInt32.random(in: 0...3000, using: &random))
            let slot = Int.random(in: 0..<3, using: &random) == 0 ? nil : step
            index[key] = slot
            truth[key] = slot
        }
        #expect(index.count == truth.count)
        #expect(index.units { _ in true }.sorted() == truth.keys.sorted())
        #expect(index.slots.sorted() == truth.values.sorted())
        #expect(truth.allSatisfy { index[$0.key] == $0.value })
        #expect(index[UnitKey(tree: TreeID(rawValue: 9), node: 0, index: 0)] == nil)
        for combCount in [1, 8, 1024, 4096] as [UInt32] {
            for comb in stride(from: 0, to: combCount, by: Int(max(1, combCount / 8))) {
                let belongs = { (key: UnitKey) in Geometry.comb(of: key.family, combCount: combCount) == comb }
                #expect(
                    index.units(inComb: comb, of: combCount, where: belongs).sorted()
                        == truth.keys.filter(belongs).sorted(), "comb \(comb) of \(combCount)")
            }
        }
        #expect(index.units(inComb: 5, of: 1024) { _ in true }.count < truth.count / 100)
    }
}
