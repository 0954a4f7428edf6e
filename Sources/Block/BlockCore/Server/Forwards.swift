import Base

/// One other copy's part in an operation.
struct Forward: Equatable {
    enum State: Equatable {
        /// Not before the own device says that the unit is being written: what another copy has of a write that this one lost is
        /// found by it.
        case afterIntent
        /// To be sent, or sent again, not before this moment.
        case due(Instant)
        case sent(request: UInt64, combEpoch: UInt64)
        /// It answered that it cannot: only its removal ends the wait.
        case impossible
    }

    var place: CopyPlace
    var state: State
    /// Since when it is awaited.
    var since: Instant
}

/// The other copies that still have to do their part in an operation: the secondary, a place that is being filled, or both.
struct Forwards {
    private var first: Forward?
    private var second: Forward?

    static let slots = 0..<2
    var isEmpty: Bool { first == nil && second == nil }

    subscript(slot: Int) -> Forward? {
        get { slot == 0 ? first : second }
        set { if slot == 0 { first = newValue } else { second = newValue } }
    }

    mutating func add(_ place: CopyPlace, _ now: Instant, _ state: Forward.State = .afterIntent) {
        let forward = Forward(place: place, state: state, since: now)
        if first == nil { first = forward } else { second = forward }
    }

    func slot(of place: CopyPlace) -> Int? {
        if first?.place == place { return 0 }
        return second?.place == place ? 1 : nil
    }
}
