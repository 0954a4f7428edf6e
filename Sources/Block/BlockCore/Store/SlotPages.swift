/// What is bound in a device's slots, by number. Slots that were never bound cost 16 bytes for 512 of them, so that memory
/// follows the data on a device and not its size.
struct SlotPages: Sendable {
    private static let pageSize = 512

    /// Empty until something is bound in the page.
    private var pages: [[UnitStore.Slot?]]
    let count: Int

    init(count: Int) {
        self.count = count
        pages = Array(repeating: [], count: (count + SlotPages.pageSize - 1) / SlotPages.pageSize)
    }

    /// Nil while the slot is not bound.
    subscript(number: Int) -> UnitStore.Slot? {
        get {
            let page = number / SlotPages.pageSize
            return pages[page].isEmpty ? nil : pages[page][number % SlotPages.pageSize]
        }
        _modify {
            let page = number / SlotPages.pageSize
            if pages[page].isEmpty {
                var slot: UnitStore.Slot?
                yield &slot
                guard slot != nil else { return }
                pages[page] = Array(repeating: nil, count: SlotPages.pageSize)
                pages[page][number % SlotPages.pageSize] = slot
            } else {
                yield &pages[page][number % SlotPages.pageSize]
            }
        }
    }

    /// Changes what is bound in the slot, if anything is, and answers what `body` does. The accessor above allocates memory for
    /// its frame each time.
    @inline(__always) @discardableResult
    mutating func change<Result>(_ number: Int, _ body: (inout UnitStore.Slot) -> Result) -> Result? {
        let (page, place) = (number / SlotPages.pageSize, number % SlotPages.pageSize)
        guard !pages[page].isEmpty, pages[page][place] != nil else { return nil }
        return body(&pages[page][place]!)
    }

    var pageCount: Int { pages.count }

    /// Passes the bound slots of a page on, in order of their numbers.
    func forEach(inPage page: Int, _ body: (UInt32, UnitStore.Slot) -> Void) {
        for (index, slot) in pages[page].enumerated() {
            if let slot { body(UInt32(page * SlotPages.pageSize + index), slot) }
        }
    }

    /// The bound slots, in order of their numbers.
    var bound: [(number: UInt32, slot: UnitStore.Slot)] {
        var bound: [(number: UInt32, slot: UnitStore.Slot)] = []
        for page in pages.indices { forEach(inPage: page) { bound.append(($0, $1)) } }
        return bound
    }
}
