/// Names one I/O of a front end until its completion.
public struct ClientIO: Hashable, Sendable {
    public var rawValue: UInt64
    public init(rawValue: UInt64) { self.rawValue = rawValue }
}

public enum ClientIOKind: Equatable, Sendable {
    case read
    /// The buffer holds all bytes of the I/O; the core releases it after completion.
    case write(PayloadID)
    /// Also for discards.
    case writeZeroes
    /// Which blocks hold data, of whole units: `BlockMap.encodedSize` bytes are delivered for each.
    case map
    case flush

    var isWrite: Bool {
        switch self {
        case .write, .writeZeroes: true
        case .read, .map, .flush: false
        }
    }
}

/// A volume as attached here. A new grant after a withdrawal is a new attachment with another epoch.
public struct Attachment: Hashable, Sendable {
    public var volume: VolumeID
    public var epoch: UInt64
    public init(volume: VolumeID, epoch: UInt64) {
        self.volume = volume
        self.epoch = epoch
    }
}

public struct AttachedVolume: Equatable, Sendable {
    public var attachment: Attachment
    public var name: String
    public var sizeBytes: UInt64
    public var mode: AccessMode
    public var limits = VolumeLimits.none
}

public enum ClientIOResult: Equatable, Sendable {
    case ok
    /// The right to the volume was withdrawn: the attachment is dead for good (EIO).
    case fenced
    /// Held for as long as configured without success (EIO).
    case timedOut
    case mediaError
    case noSpace
    case readOnly
    /// Not whole blocks, beyond the end, or of an unknown attachment.
    case invalid
    case overloaded
}

public struct ClientConfiguration: Sendable {
    public var guid: String
    public var name: String
    public var ip: String
    /// Random, non-zero, chosen at process start.
    public var incarnation: UInt64
    public var keepAliveInterval: Duration = .milliseconds(250)
    /// How long an I/O is held while it cannot be served.
    public var holdTime: Duration = .seconds(60)
    /// A server that leaves a request unanswered for so long is reconnected.
    public var requestTimeout: Duration = .seconds(3)
    /// Bytes asked of, or sent to, one server without its answer; what exceeds them waits here.
    public var outstandingBytesMax = 32 << 20
    /// Front-end I/Os accepted and unfinished; more complete as `overloaded`.
    public var requestsMax = 4096

    public init(guid: String, name: String, ip: String, incarnation: UInt64) {
        self.guid = guid
        self.name = name
        self.ip = ip
        self.incarnation = incarnation
    }
}

public enum ClientEvent: Sendable {
    /// A control connection to the leading manager is open; the core introduces itself.
    case managerConnected
    case managerClosed
    case manager(MessageFromManager)
    /// Offsets and lengths in bytes, whole blocks; `length` at most 64 MiB; both ignored for a flush.
    case submit(ClientIO, Attachment, ClientIOKind, offset: UInt64, length: UInt32)
    /// The connection asked for with `connect` is open.
    case serverConnected(SdsID, LinkID)
    /// It could not be opened, or is closed.
    case serverClosed(SdsID)
    /// An answer of a server, with the buffer that holds its payload if it has one.
    case answer(LinkID, DataHeader, PayloadID?)
    /// The time that `wake` named has passed. One that never comes is made up for by the next tick.
    case wake
    /// To be given about every 20 ms.
    case tick
}

public enum ClientAction: Sendable {
    case sendManager(MessageToManager)
    case connect(SdsID, address: String)
    case close(LinkID)
    case send(LinkID, DataHeader, PayloadSlice?)
    /// Part of a read or of a map has arrived: copy the buffer to `offset` in the I/O's memory, then drop the buffer. Nil: zeros.
    case deliver(ClientIO, offset: UInt32, length: UInt32, PayloadID?)
    case complete(ClientIO, ClientIOResult)
    case release(PayloadID)
    /// Give the event `wake` after this time; an earlier wish stays in force.
    case wake(after: Duration)
    case welcomed(SystemID, SdcID)
    /// Fatal: the manager does not accept this client.
    case refused(code: String, message: String)
    case attached(AttachedVolume)
    /// Name, size, mode or limits changed.
    case changed(AttachedVolume)
    /// No longer mapped here, or fenced: every I/O of it has completed with an error, and every later one will.
    case detached(Attachment)
}
