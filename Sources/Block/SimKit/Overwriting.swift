import Base
import BlockCore

/// Volumes that are overwritten from others of their tree. In the history such a volume is another one from then on, and shows
/// what a snapshot of its source would.
extension Simulation {
    /// In some of the runs with snapshots, so that the others stay what they were.
    var overwritesVolumes: Bool { takesSnapshots && options.seed % 4 == 2 }

    /// Often takes a volume from its client first, but it is the manager that has to refuse. False: there is none to be
    /// overwritten. Only of those of which nothing else is asked for can be told, afterwards, what they have to show.
    func overwrite(_ state: SystemState) -> Bool {
        guard overwritesVolumes, Bool.random(using: &random) else { return false }
        let cutSources = askedSnapshots.values.map(\.source) + askedOverwriting.values.map(\.source)
        let pairs = state.volumes.values.flatMap { volume in
            state.volumes(in: volume.tree)
                .filter { $0.id != volume.id && $0.sizeUnits == volume.sizeUnits && askedOverwriting[$0.id] == nil }
                .map { (volume: volume.id, source: $0.id) }
        }
        let free = pairs.filter { !cutSources.contains($0.volume) && askedOverwriting[$0.volume] == nil }
        let unmapped = free.filter { state.volumes[$0.volume]?.mappings.isEmpty == true }
        let candidates = unmapped.isEmpty || Bool.random(using: &random) ? free : unmapped
        guard let (volume, source) = candidates.randomElement(using: &random) else { return false }
        if unmapped.isEmpty, Bool.random(using: &random) {
            submit(.unmap(volume, nil), .fence(volume))
            return true
        }
        askedOverwriting[volume] = (source, now)
        submit(
            .takeSnapshots([SnapshotDefinition(volume: source, name: "", overwriting: volume)], createdAt: 0),
            .overwriting(volume))
        return true
    }

    /// Compares what was stored before and after a commit: a volume whose head has no longer anything to do with its former one
    /// has been overwritten.
    func noteOverwriting(_ before: [String: [UInt8]]) {
        guard let old = try? stored(before), let new = try? stored(store.records) else {
            return fail("the stored records cannot be read")
        }
        for (id, asked) in askedOverwriting.sorted(by: { $0.key < $1.key }) {
            guard let was = old.volumes[id], let volume = new.volumes[id], volume.head != was.head,
                new.trees[volume.tree]?.ancestors(of: volume.head).contains(was.head) != true
            else { continue }
            askedOverwriting[id] = nil
            did("volume overwritten")
            history.overwritten(
                id, from: asked.source, fencing: volume.attachEpoch, since: asked.at.nanoseconds, at: now.nanoseconds)
        }
    }
}
