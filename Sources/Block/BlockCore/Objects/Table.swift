/// Objects in order of their id: iteration is the same in every process, which replay depends on.
public struct Table<ID: BlockStoreID, Object: Equatable & Sendable>: Equatable, Sendable {
    private var ids: [ID] = []
    private var objects: [Object] = []

    public init() {}

    public var count: Int { ids.count }
    public var isEmpty: Bool { ids.isEmpty }
    /// In order of the ids.
    public var values: [Object] { objects }
    public var keys: [ID] { ids }

    public subscript(id: ID) -> Object? {
        get {
            let position = position(of: id)
            return position < ids.count && ids[position] == id ? objects[position] : nil
        }
        set {
            let position = position(of: id)
            let exists = position < ids.count && ids[position] == id
            switch (newValue, exists) {
            case (let object?, true): objects[position] = object
            case (let object?, false):
                ids.insert(id, at: position)
                objects.insert(object, at: position)
            case (nil, true):
                ids.remove(at: position)
                objects.remove(at: position)
            case (nil, false): break
            }
        }
    }

    /// Changes an existing object in place; nil if there is none.
    mutating func modify<Result>(_ id: ID, _ body: (inout Object) -> Result) -> Result? {
        let position = position(of: id)
        guard position < ids.count, ids[position] == id else { return nil }
        return body(&objects[position])
    }

    private func position(of id: ID) -> Int {
        var low = 0
        var high = ids.count
        while low < high {
            let middle = (low + high) / 2
            if ids[middle] < id { low = middle + 1 } else { high = middle }
        }
        return low
    }
}
