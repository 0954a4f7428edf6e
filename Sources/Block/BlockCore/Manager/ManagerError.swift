public import Base

/// Why the manager refused a command or could not decide it.
public struct ManagerError: CodedError {
    public enum Code: String, Hashable, Sendable, CaseIterable {
        case domainNotFound, poolNotFound, sdsNotFound, deviceNotFound, sdcNotFound, volumeNotFound
        case managerNotFound, faultSetNotFound
        case nameInUse, invalidName, invalidSize, invalidArgument
        /// Not enough usable servers in the pool to hold two copies.
        case insufficientServers
        case insufficientCapacity
        /// The pool is filled to its critical threshold: nothing new is promised.
        case poolCritical
        /// 126 snapshots of one volume and its relatives, or as many nodes as a tree may have.
        case tooManySnapshots
        /// A volume is overwritten from another one of its tree alone.
        case otherTree, sameVolume
        /// The writes of the volumes could not be held up at one moment. Nothing has changed; the message says why.
        case snapshotFailed
        case alreadyMapped, mappedElsewhere, notMapped, volumeMapped
        /// The object is on its way out.
        case sdsLeaving, deviceLeaving
        /// An operator removed this server; it has to be added first.
        case sdsRemoved
        /// The object is still used by others.
        case inUse
        /// It still has others in it, which go first.
        case hasServers, hasPools, hasDevices, hasVolumes
        /// The change is committed, but a server that may still serve the old rights neither answers nor may be
        /// replaced: it holds the only in-sync copy of some comb. The message names it.
        case fencingUnproven
        /// The identity a server or client presented contradicts what is known.
        case identityConflict
        case overloaded
        case notLeader
        /// The store did not take the change; whether it happened is unknown.
        case storeFailed
        case unavailable
        /// A stored record or a message could not be understood.
        case malformed
    }

    public var code: Code
    public var message: String
    public var cause: (any Error)?

    public init(_ code: Code, _ message: String, cause: (any Error)? = nil) {
        self.code = code
        self.message = message
        self.cause = cause
    }
}
