/// Names a submitted command until its reply.
public struct Ticket: Hashable, Comparable, Sendable {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
    public static func < (left: Ticket, right: Ticket) -> Bool { left.rawValue < right.rawValue }
}

/// A change of one stored record. See docs/formats/manager-store.md.
public enum StoreMutation: Equatable, Sendable {
    case put(key: String, value: [UInt8])
    case delete(key: String)
}

/// Something an operator would want to know; the shell logs it and keeps it as an event.
public enum ManagerNotice: Sendable {
    case serverRegistered(SdsID)
    case serverUp(SdsID)
    case serverDown(SdsID, reason: String)
    /// The server came back on a host that was started anew.
    case hostRebooted(SdsID)
    case clientRegistered(SdcID)
    case deviceFailed(DeviceID)
    case combsDegraded(count: Int, pool: StoragePoolID)
    case combsUnavailable(count: Int, pool: StoragePoolID)
    case rebuildFinished(StoragePoolID)
    /// What a node of the tree held is in its child everywhere.
    case nodeMerged(TreeID, node: UInt32)
    /// An operator gave a server up, and older copies are primaries now.
    case staleCopiesPromoted(count: Int, pool: StoragePoolID, lost: SdsID)
    /// So many units of the volume lie in what older copies serve.
    case volumeLostData(VolumeID, units: UInt32)
    case dataLossCleared(VolumeID)
    /// All its copies have moved away, as asked for.
    case serverRemoved(SdsID)
    case deviceRemoved(DeviceID)
    case maintenanceEntered(SdsID)
    case maintenanceLeft(SdsID)
    /// It was declared down for the `count`-th time in a short while.
    case serverOscillates(SdsID, count: Int)
    /// Blocks of the device are not what was written.
    case damageFound(DeviceID, blocks: UInt64)
    /// Blocks of units whose primary's copy is on the device were written again from the other copy.
    case damageMended(DeviceID, blocks: UInt64)
    case fenced(FencingProof)
    case connectionRefused(LinkID, ManagerError)
}

public enum ManagerEvent: Sendable {
    case submit(Ticket, ManagerCommand)
    /// A message on a control connection. A connection exists from its first message until `linkClosed`.
    case message(LinkID, MessageToManager)
    case linkClosed(LinkID)
    /// The commit asked for last is durable.
    case committed
    /// The commit asked for last was refused or its outcome is unknown: this core is finished, build a new one from
    /// the store if still leader.
    case commitFailed
    /// To be given about every 50 ms.
    case tick
}

public enum ManagerAction: Sendable {
    /// Store all of these or none, then give `committed` or `commitFailed`. Never a second one before that.
    case commit([StoreMutation])
    case reply(Ticket, Result<ManagerReply, ManagerError>)
    case send(LinkID, MessageFromManager)
    case close(LinkID)
    case notice(ManagerNotice)
}

public struct ManagerConfiguration: Sendable {
    /// A server from which nothing was heard for so long is declared down.
    public var serverTimeout: Duration = .seconds(2)
    /// A server whose control connection broke may come back for so long before it is declared down.
    public var reconnectGrace: Duration = .milliseconds(500)
    /// How often keep-alives go to every connection.
    public var keepAliveInterval: Duration = .milliseconds(250)
    /// How long after a server asked for a lease it may answer under it, on the manager's clock: longer than the servers'
    /// own `leaseTime`, because clocks differ in rate.
    public var leaseTime: Duration = .seconds(2)
    /// Where leases are asked for and nothing else is committed, `system` is committed anew so often.
    public var leaseCommitInterval: Duration = .milliseconds(500)
    /// That a copy is complete is committed so long after the last commit at the earliest: the combs of a rebuild come one by
    /// one, and each commit alone would flush the disk and tell every client.
    public var patience: Duration = .milliseconds(50)
    /// How long map and unmap wait for their proof before they answer `fencingUnproven`.
    public var fencingDeadline: Duration = .seconds(20)
    /// Combs that may be rebuilt at once to or from one device: enough for its copies, each comb having little of a small pool.
    public var rebuildsPerDevice = 32
    /// The same for combs whose target is a copy that returns: most of them move little.
    public var resyncsPerDevice = 32
    /// How long the combs that a server left wait for it before they are rebuilt elsewhere.
    public var absenceGrace: Duration = .seconds(5)
    /// Combs that may move at once to or from one device, for evacuation or rebalancing.
    public var movesPerDevice = 2
    /// Combs of a pool whose primary and secondary may exchange their parts at once: clients have to ask another server then.
    public var swapsPerPool = 4
    /// How often moves are looked for.
    public var moveInterval: Duration = .milliseconds(500)
    /// How long servers and devices must have stayed as they are before copies are moved for evenness alone.
    public var rebalanceDelay: Duration = .seconds(10)
    /// A server that was declared down so often, each time within `oscillationWindow` of the last, gets copies only after a pause
    /// that doubles with every time.
    public var oscillationThreshold = 3
    public var oscillationWindow: Duration = .seconds(300)
    public var oscillationPauseMax: Duration = .seconds(60)
    /// An exchange of parts that takes longer is given up.
    public var swapTimeout: Duration = .seconds(5)
    /// How long servers may take to hold up writes, to seal, and to tell of the end. Less than the servers' own `cutHoldTime`.
    public var cutStepTimeout: Duration = .seconds(1)
    /// How often a snapshot is tried, with `cutPause` in between, before it is answered as failed.
    public var cutAttempts = 3
    public var cutPause: Duration = .milliseconds(250)
    /// Commands that may wait for the store; more are refused as `overloaded`.
    public var queueDepthMax = 4096
    /// Create the domains, fault sets and pools that servers name in their introduction.
    public var createsNamedPools = true
    public var combCount = Geometry.defaultCombCount
    public var rules = ProtocolRules.all

    public init() {}
}

/// The protocol's safety rules (block-store facts, section 1.1). Shipped code always runs with `all`; the simulator
/// leaves one out to show that it notices.
public struct ProtocolRules: OptionSet, Sendable {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }

    /// 1: a primary acknowledges alone only after the removal of its secondary is committed.
    public static let removalBeforeLoneAcknowledgement = ProtocolRules(rawValue: 1 << 1)
    /// 2: a secondary refuses a lower comb epoch.
    public static let combEpochAtSecondary = ProtocolRules(rawValue: 1 << 2)
    /// 5: overlapping writes have one order on both copies.
    public static let rangeLocks = ProtocolRules(rawValue: 1 << 5)
    /// 6: a read waits for an overlapping unfinished write.
    public static let noDirtyReads = ProtocolRules(rawValue: 1 << 6)
    /// 7: a server refuses older sessions of a peer once it knows a newer one.
    public static let sessionFencing = ProtocolRules(rawValue: 1 << 7)
    /// 8: a restarted server's copies are out of sync until rebuilt, where another copy exists.
    public static let restartedCopyIsSuspect = ProtocolRules(rawValue: 1 << 8)
    /// 9: a stale copy is never promoted.
    public static let neverPromoteStale = ProtocolRules(rawValue: 1 << 9)
    /// A re-map is answered only with proof that older rights are refused.
    public static let remapWaitsForProof = ProtocolRules(rawValue: 1 << 10)
    /// Acknowledged means flushed.
    public static let flushBeforeAcknowledgement = ProtocolRules(rawValue: 1 << 11)
    /// Before a unit is written, the device says so on stable media.
    public static let intentBeforeWrite = ProtocolRules(rawValue: 1 << 12)
    /// A returning copy gets what it was itself writing when it left.
    public static let resyncOfTargetsIntents = ProtocolRules(rawValue: 1 << 13)
    /// It gets what the survivor was writing when it left.
    public static let resyncOfSurvivorsIntents = ProtocolRules(rawValue: 1 << 14)
    /// A unit that is no longer being written is recorded with the comb epoch of that moment.
    public static let epochOfSettledUnits = ProtocolRules(rawValue: 1 << 15)
    /// Only a copy in sync calls a unit settled.
    public static let settledOnlyInSync = ProtocolRules(rawValue: 1 << 16)
    /// Of units that only one of two copies has, the survivor's list is the truth.
    public static let survivorsListIsTruth = ProtocolRules(rawValue: 1 << 17)
    /// Blocks count as holes only once the zeros in them are stable.
    public static let zerosBeforeHoles = ProtocolRules(rawValue: 1 << 20)
    /// A moved copy counts only when it is complete.
    public static let stableBeforeMove = ProtocolRules(rawValue: 1 << 24)
    /// Primary and secondary exchange their parts only when nothing is under way.
    public static let drainBeforeSwap = ProtocolRules(rawValue: 1 << 25)
    /// A write that one copy has no room for is on none.
    public static let refusedOnBoth = ProtocolRules(rawValue: 1 << 26)
    /// Writes of clients leave the spare of every device to copies between devices.
    public static let spareIsForCopies = ProtocolRules(rawValue: 1 << 27)
    /// Writes of others leave thick volumes the room that they were promised.
    public static let promisesAreKept = ProtocolRules(rawValue: 1 << 44)
    /// What was read is answered or copied only if it matches its checksum.
    public static let verifiedReads = ProtocolRules(rawValue: 1 << 18)
    /// A unit counts as settled only when its checksums are stable.
    public static let checksumsBeforeSettled = ProtocolRules(rawValue: 1 << 19)
    /// A half of a device's log is begun anew only when the table that makes its records superfluous is stable.
    public static let tableBeforeLogReuse = ProtocolRules(rawValue: 1 << 45)
    /// A copy of what is damaged is damaged as well.
    public static let damageStaysDamage = ProtocolRules(rawValue: 1 << 21)
    /// Zeros are stored where an ancestor has data.
    public static let zerosHideAncestors = ProtocolRules(rawValue: 1 << 3)
    /// Where a copied unit holds nothing, its copy holds nothing either, not zeros.
    public static let copiedHolesShowAncestors = ProtocolRules(rawValue: 1 << 4)
    /// Units are freed when their node is gone, not with the volume that the tree is named after.
    public static let treesOutliveTheirFirstVolume = ProtocolRules(rawValue: 1 << 22)
    /// A server notes writes that begin although their volumes were to be held.
    public static let sealedCutsNoteWrites = ProtocolRules(rawValue: 1 << 23)
    /// Data that covers what an ancestor shows is stable before it is recorded.
    public static let stableBeforeShown = ProtocolRules(rawValue: 1 << 38)
    /// Opening a device makes data of what the holes of searched units hold.
    public static let unrecordedIsFound = ProtocolRules(rawValue: 1 << 39)
    /// Data that no record names is written over only when one does.
    public static let recordedBeforeOverwritten = ProtocolRules(rawValue: 1 << 40)
    /// A volume is overwritten only when it has been proven that no client has it.
    public static let overwrittenIsUnmapped = ProtocolRules(rawValue: 1 << 41)
    /// A node goes only when no server has any of its units.
    public static let nodesGoEmpty = ProtocolRules(rawValue: 1 << 0)
    /// A unit that is merged is forgotten only where all that it shows is in the other one.
    public static let onlyMergedIsDropped = ProtocolRules(rawValue: 1 << 37)
    /// Who leads a comb after another looks for units of nodes that go which only the second copy has.
    public static let remnantsAreAskedFor = ProtocolRules(rawValue: 1 << 42)
    /// Blocks that are to show a unit's ancestors again are left out of its record before they are zeroed.
    public static let holesShowAncestors = ProtocolRules(rawValue: 1 << 43)
    /// Snapshots of a disturbed moment are not shown.
    public static let disturbedCutsAreDropped = ProtocolRules(rawValue: 1 << 30)
    /// Where an operator had an older copy promoted, the volumes are marked.
    public static let lossIsMarked = ProtocolRules(rawValue: 1 << 28)
    /// A copy that was given up for an older one gets everything anew when it returns.
    public static let lostCopyIsFilledAnew = ProtocolRules(rawValue: 1 << 29)
    /// A primary answers reads of volumes that several clients have only under its lease.
    public static let leaseForReads = ProtocolRules(rawValue: 1 << 31)
    /// A lease counts from when it was asked for, not from when the grant arrived.
    public static let leaseCountsFromRequest = ProtocolRules(rawValue: 1 << 32)
    /// Where several clients have volumes, a primary is replaced only when its lease has run out.
    public static let promotionWaitsForLease = ProtocolRules(rawValue: 1 << 33)
    /// Leases are granted only after a commit that began after they were asked for.
    public static let grantAfterCommit = ProtocolRules(rawValue: 1 << 34)
    /// A volume's second client is let in only when nobody can answer its first one as if it were alone.
    public static let sharingIsConfirmed = ProtocolRules(rawValue: 1 << 35)
    /// Who has asked to be replaced as a primary answers no reads of volumes that several clients have.
    public static let resignationEndsReads = ProtocolRules(rawValue: 1 << 36)

    public static let all: ProtocolRules = [
        .removalBeforeLoneAcknowledgement, .combEpochAtSecondary, .rangeLocks, .noDirtyReads, .sessionFencing,
        .restartedCopyIsSuspect, .neverPromoteStale, .remapWaitsForProof, .flushBeforeAcknowledgement,
        .intentBeforeWrite, .resyncOfTargetsIntents, .resyncOfSurvivorsIntents, .epochOfSettledUnits,
        .settledOnlyInSync, .survivorsListIsTruth, .zerosBeforeHoles, .stableBeforeMove, .drainBeforeSwap,
        .refusedOnBoth, .spareIsForCopies, .lossIsMarked, .lostCopyIsFilledAnew,
        .verifiedReads, .checksumsBeforeSettled, .tableBeforeLogReuse, .damageStaysDamage,
        .zerosHideAncestors, .copiedHolesShowAncestors, .treesOutliveTheirFirstVolume, .sealedCutsNoteWrites,
        .disturbedCutsAreDropped, .stableBeforeShown, .unrecordedIsFound, .recordedBeforeOverwritten,
        .overwrittenIsUnmapped, .nodesGoEmpty, .onlyMergedIsDropped, .remnantsAreAskedFor,
        .holesShowAncestors, .promisesAreKept,
        .leaseForReads, .leaseCountsFromRequest, .promotionWaitsForLease, .grantAfterCommit, .sharingIsConfirmed,
        .resignationEndsReads,
    ]
}
