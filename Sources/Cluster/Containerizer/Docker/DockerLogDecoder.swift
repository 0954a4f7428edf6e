/// Cuts dockerd's log stream into pieces of stdout and stderr.
///
/// A container without terminal has its two streams multiplexed in frames: one byte stream number, three zero bytes, a
/// 32-bit big-endian length, and that many bytes (Engine API, "Attach to a container"). With a terminal all bytes are
/// stdout.
public struct DockerLogDecoder: Sendable {
    public struct Piece: Hashable, Sendable {
        public var isError: Bool
        public var bytes: [UInt8]
    }

    /// The stream is not framed as documented.
    public struct Malformed: Error {}

    /// dockerd writes log lines of at most 16 KiB; a longer frame than this means that the stream is something else.
    static let frameLengthMax = 16 << 20

    private let isTerminal: Bool
    private var pending: [UInt8] = []

    public init(isTerminal: Bool) { self.isTerminal = isTerminal }

    public mutating func append(_ bytes: some Sequence<UInt8>) throws(Malformed) -> [Piece] {
        if isTerminal { return [Piece(isError: false, bytes: Array(bytes))] }
        pending.append(contentsOf: bytes)
        var pieces: [Piece] = []
        var start = 0
        while pending.count - start >= 8 {
            guard pending[start] <= 2, pending[start + 1] == 0, pending[start + 2] == 0, pending[start + 3] == 0 else {
                throw Malformed()
            }
            var length = 0
            for byte in pending[start + 4..<start + 8] { length = length << 8 | Int(byte) }
            guard length <= DockerLogDecoder.frameLengthMax else { throw Malformed() }
            guard pending.count - start - 8 >= length else { break }
            let body = pending[start + 8..<start + 8 + length]
            pieces.append(Piece(isError: pending[start] == 2, bytes: Array(body)))
            start += 8 + length
        }
        pending.removeFirst(start)
        return pieces
    }
}
