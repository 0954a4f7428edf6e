import Testing

@testable import BlockCore

@Suite struct SlotPagesTests {
    private func slot(_ index: UInt32) -> UnitStore.Slot {
        UnitStore.Slot(
            key: UnitKey(volume: VolumeID(rawValue: 1), index: index), generation: UInt64(index), combEpoch: 1)
    }

    @Test func keepsWhatIsBoundByNumber() {
        var pages = SlotPages(count: 2000)
        for number in [0, 511, 512, 1999] { pages[number] = slot(UInt32(number)) }
        pages[1000] = nil
        pages[511] = nil
        pages[512]?.generation = 7
        #expect(pages.bound.map(\.number) == [0, 512, 1999])
        #expect(pages.bound.map(\.slot.generation) == [0, 7, 1999])
        #expect(pages[511] == nil)
        #expect(pages[1000] == nil)
        #expect(pages[1001]?.generation == nil)
    }
}
