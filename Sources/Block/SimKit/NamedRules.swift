public import BlockCore

extension ProtocolRules {
    /// Every rule by the name under which a person leaves it out.
    public static let named: [(name: String, rule: ProtocolRules)] = [
        ("removal-before-lone-acknowledgement", .removalBeforeLoneAcknowledgement),
        ("comb-epoch-at-secondary", .combEpochAtSecondary),
        ("range-locks", .rangeLocks),
        ("no-dirty-reads", .noDirtyReads),
        ("session-fencing", .sessionFencing),
        ("restarted-copy-is-suspect", .restartedCopyIsSuspect),
        ("never-promote-stale", .neverPromoteStale),
        ("remap-waits-for-proof", .remapWaitsForProof),
        ("flush-before-acknowledgement", .flushBeforeAcknowledgement),
        ("intent-before-write", .intentBeforeWrite),
        ("resync-of-targets-intents", .resyncOfTargetsIntents),
        ("resync-of-survivors-intents", .resyncOfSurvivorsIntents),
        ("epoch-of-settled-units", .epochOfSettledUnits),
        ("settled-only-in-sync", .settledOnlyInSync),
        ("survivors-list-is-truth", .survivorsListIsTruth),
        ("zeros-before-holes", .zerosBeforeHoles),
        ("stable-before-move", .stableBeforeMove),
        ("drain-before-swap", .drainBeforeSwap),
        ("refused-on-both", .refusedOnBoth),
        ("spare-is-for-copies", .spareIsForCopies),
        ("loss-is-marked", .lossIsMarked),
        ("lost-copy-is-filled-anew", .lostCopyIsFilledAnew),
        ("verified-reads", .verifiedReads),
        ("checksums-before-settled", .checksumsBeforeSettled),
        ("damage-stays-damage", .damageStaysDamage),
        ("zeros-hide-ancestors", .zerosHideAncestors),
        ("copied-holes-show-ancestors", .copiedHolesShowAncestors),
        ("trees-outlive-their-first-volume", .treesOutliveTheirFirstVolume),
        ("sealed-cuts-note-writes", .sealedCutsNoteWrites),
        ("disturbed-cuts-are-dropped", .disturbedCutsAreDropped),
        ("nodes-go-empty", .nodesGoEmpty),
        ("only-merged-is-dropped", .onlyMergedIsDropped),
    ]
}
