public import MesosAPI

/// A multiset of resources with the algebra of Mesos: resources of one identity (name, reservations, allocation, disk,
/// provider, revocable, shared) are summed into one; scalars have three decimals; shared resources are counted by
/// copies.
///
/// Every resource inside has the new form (`reservations`, no `role`); see `normalized`.
public struct Resources: Hashable, Sendable, CustomStringConvertible {
    struct Entry: Hashable, Sendable {
        var resource: MesosResource
        /// Copies of a shared resource; 1 for all others.
        var copies = 1
    }

    private(set) var entries: [Entry] = []

    public init() {}

    public init(_ resources: some Sequence<MesosResource>) {
        for resource in resources { add(Resources.normalized(resource)) }
    }

    /// Each resource as a message; a shared one as often as it has copies.
    public var list: [MesosResource] { entries.flatMap { Array(repeating: $0.resource, count: $0.copies) } }

    public var isEmpty: Bool { entries.isEmpty }

    // MARK: Sums and differences

    public static func += (left: inout Resources, right: Resources) {
        for entry in right.entries { left.add(entry.resource, copies: entry.copies) }
    }

    public static func + (left: Resources, right: Resources) -> Resources {
        var result = left
        result += right
        return result
    }

    /// Removes what is there; what is not there is ignored.
    public static func -= (left: inout Resources, right: Resources) {
        for entry in right.entries { left.subtract(entry.resource, copies: entry.copies) }
    }

    public static func - (left: Resources, right: Resources) -> Resources {
        var result = left
        result -= right
        return result
    }

    /// Whether all of `other` can be taken out of these.
    public func contains(_ other: Resources) -> Bool {
        var rest = self
        for entry in other.entries {
            guard rest.holds(entry.resource, copies: entry.copies) else { return false }
            rest.subtract(entry.resource, copies: entry.copies)
        }
        return true
    }

    // MARK: Selections

    public func filter(_ isIncluded: (MesosResource) -> Bool) -> Resources {
        var result = Resources()
        result.entries = entries.filter { isIncluded($0.resource) }
        return result
    }

    /// The resources changed one by one, merged again where they became equal.
    public func map(_ change: (inout MesosResource) -> Void) -> Resources {
        var result = Resources()
        for entry in entries {
            var resource = entry.resource
            change(&resource)
            result.add(resource, copies: entry.copies)
        }
        return result
    }

    public var unreserved: Resources { filter { $0.reservations.isEmpty } }
    public var revocable: Resources { filter(\.hasRevocable) }
    public var nonRevocable: Resources { filter { !$0.hasRevocable } }
    public var shared: Resources { filter(\.hasShared) }

    /// What is reserved to exactly `role`, or to any role when nil.
    public func reserved(to role: String? = nil) -> Resources {
        filter { resource in resource.reservations.last.map { role == nil || $0.role == role } ?? false }
    }

    /// What a framework of `role` may be offered: unreserved, or reserved to the role or an ancestor of it.
    public func allocatable(to role: String) -> Resources {
        filter { resource in
            guard let owner = resource.reservations.last?.role else { return true }
            return owner == role || isStrictSubrole(role, of: owner)
        }
    }

    /// Reservations, disks and allocations dropped: the plain amounts.
    public var flattened: Resources {
        map { resource in
            resource.reservations = []
            resource.clearAllocationInfo()
            resource.clearDisk()
        }
    }

    public func allocated(to role: String) -> Resources { map { $0.allocationInfo.role = role } }

    public var unallocated: Resources { map { $0.clearAllocationInfo() } }

    // MARK: Amounts

    public var names: [String] {
        var result: [String] = []
        for entry in entries where !result.contains(entry.resource.name) { result.append(entry.resource.name) }
        return result
    }

    /// The sum of all scalars called `name`; a shared resource counts once.
    public func quantity(_ name: String) -> Quantity {
        entries.reduce(.zero) { sum, entry in
            entry.resource.name == name && entry.resource.type == .scalar
                ? sum + Quantity(entry.resource.scalar.value) : sum
        }
    }

    public var cpus: Double { quantity("cpus").value }
    public var mem: Double { quantity("mem").value }
    public var disk: Double { quantity("disk").value }
    public var gpus: Double { quantity("gpus").value }

    /// All integers of the ranges called `name`.
    public func ranges(_ name: String) -> IntegerRanges {
        entries.reduce(IntegerRanges()) { sum, entry in
            entry.resource.name == name && entry.resource.type == .ranges
                ? sum + IntegerRanges(entry.resource.ranges) : sum
        }
    }

    public var ports: IntegerRanges { ranges("ports") }

    public func items(_ name: String) -> Set<String> {
        entries.reduce(into: []) { sum, entry in
            if entry.resource.name == name, entry.resource.type == .set { sum.formUnion(entry.resource.set.item) }
        }
    }

    /// Names of scalars, in order of first appearance, with their sums.
    public var scalarQuantities: [(name: String, quantity: Quantity)] {
        names.compactMap { name in
            entries.contains { $0.resource.name == name && $0.resource.type == .scalar } ? (name, quantity(name)) : nil
        }
    }

    public var description: String {
        entries.map { entry in
            let resource = entry.resource
            let role =
                resource.reservations.isEmpty
                ? "" : "(" + resource.reservations.map(\.role).joined(separator: ",") + ")"
            let value =
                switch resource.type {
                case .scalar: Quantity(resource.scalar.value).description
                case .ranges: IntegerRanges(resource.ranges).description
                case .set: "{" + resource.set.item.sorted().joined(separator: ", ") + "}"
                case .text: resource.type.name
                }
            return "\(resource.name)\(role):\(value)"
        }.joined(separator: "; ")
    }
}

// MARK: - One resource at a time

extension Resources {
    private mutating func add(_ resource: MesosResource, copies: Int = 1) {
        guard !Resources.isEmpty(resource) else { return }
        let identity = Identity(resource)
        if identity.isShared || identity.isIndivisible {
            if identity.isShared, let index = entries.firstIndex(where: { $0.resource == resource }) {
                entries[index].copies += copies
            } else {
                entries.append(Entry(resource: resource, copies: copies))
            }
            return
        }
        if let index = entries.firstIndex(where: { Identity($0.resource) == identity }) {
            entries[index].resource.merge(resource)
        } else {
            var resource = resource
            resource.canonicalize()
            entries.append(Entry(resource: resource))
        }
    }

    private func holds(_ resource: MesosResource, copies: Int) -> Bool {
        if Resources.isEmpty(resource) { return true }
        let identity = Identity(resource)
        if identity.isShared || identity.isIndivisible {
            return entries.contains { $0.resource == resource && $0.copies >= copies }
        }
        return entries.contains { Identity($0.resource) == identity && $0.resource.covers(resource) }
    }

    private mutating func subtract(_ resource: MesosResource, copies: Int) {
        let identity = Identity(resource)
        if identity.isShared || identity.isIndivisible {
            guard let index = entries.firstIndex(where: { $0.resource == resource }) else { return }
            entries[index].copies -= copies
            if entries[index].copies <= 0 { entries.remove(at: index) }
            return
        }
        guard let index = entries.firstIndex(where: { Identity($0.resource) == identity }) else { return }
        entries[index].resource.remove(resource)
        if Resources.isEmpty(entries[index].resource) { entries.remove(at: index) }
    }

    static func isEmpty(_ resource: MesosResource) -> Bool {
        switch resource.type {
        case .scalar: Quantity(resource.scalar.value) <= .zero
        case .ranges: IntegerRanges(resource.ranges).isEmpty
        case .set: resource.set.item.isEmpty
        case .text: true
        }
    }
}

extension MesosValue.TypeEnum {
    var name: String {
        switch self {
        case .scalar: "SCALAR"
        case .ranges: "RANGES"
        case .set: "SET"
        case .text: "TEXT"
        }
    }
}

extension MesosResource {
    /// The value in its one canonical form, so that equal amounts are equal messages.
    fileprivate mutating func canonicalize() {
        switch type {
        case .scalar: scalar.value = Quantity(scalar.value).value
        case .ranges: ranges = IntegerRanges(ranges).message
        case .set: set.item = Set(set.item).sorted()
        case .text: break
        }
    }

    fileprivate mutating func merge(_ other: MesosResource) {
        switch type {
        case .scalar: scalar.value = (Quantity(scalar.value) + Quantity(other.scalar.value)).value
        case .ranges: ranges = (IntegerRanges(ranges) + IntegerRanges(other.ranges)).message
        case .set: set.item = Set(set.item).union(other.set.item).sorted()
        case .text: break
        }
    }

    fileprivate mutating func remove(_ other: MesosResource) {
        switch type {
        case .scalar: scalar.value = (Quantity(scalar.value) - Quantity(other.scalar.value)).value
        case .ranges: ranges = (IntegerRanges(ranges) - IntegerRanges(other.ranges)).message
        case .set: set.item = Set(set.item).subtracting(other.set.item).sorted()
        case .text: break
        }
    }

    fileprivate func covers(_ other: MesosResource) -> Bool {
        switch type {
        case .scalar: Quantity(scalar.value) >= Quantity(other.scalar.value)
        case .ranges: IntegerRanges(ranges).contains(IntegerRanges(other.ranges))
        case .set: Set(set.item).isSuperset(of: other.set.item)
        case .text: false
        }
    }
}

extension IntegerRanges {
    /// Ranges of a message; those that end before they begin are left out.
    public init(_ message: MesosValue.Ranges) {
        self.init(message.range.compactMap { $0.begin <= $0.end ? $0.begin...$0.end : nil })
    }

    public var message: MesosValue.Ranges {
        var result = MesosValue.Ranges()
        result.range = ranges.map { range in
            var part = MesosValue.Range()
            part.begin = range.lowerBound
            part.end = range.upperBound
            return part
        }
        return result
    }
}
