/// The framing of Mesos' streaming endpoints: `"<length in decimal>\n<bytes>"`, records back to back.
public enum RecordIO {
    public static func encode(_ record: some Collection<UInt8>) -> [UInt8] {
        var frame = Array("\(record.count)\n".utf8)
        frame.reserveCapacity(frame.count + record.count)
        frame.append(contentsOf: record)
        return frame
    }

    public enum Failure: Error, Hashable, Sendable {
        /// The length is empty, no number, or has more than 18 digits.
        case malformedLength
        case recordTooLong(Int)
    }

    /// Cuts a byte stream into records, whatever the pieces in which it arrives. After an error it stays failed.
    public struct Decoder: Sendable {
        private var pending: [UInt8] = []
        private var failure: Failure?
        private let recordLengthMax: Int

        public init(recordLengthMax: Int = 64 << 20) { self.recordLengthMax = recordLengthMax }

        /// True between records: an end of the stream here is no truncation.
        public var isAtBoundary: Bool { pending.isEmpty }

        /// The records that are complete with `bytes`, in order. Whole records before a broken one are answered first;
        /// the next call throws then.
        public mutating func append(_ bytes: some Sequence<UInt8>) throws(Failure) -> [[UInt8]] {
            if let failure { throw failure }
            pending.append(contentsOf: bytes)
            var records: [[UInt8]] = []
            var start = 0
            do throws(Failure) {
                while let (header, length) = try length(at: start), pending.count - header >= length {
                    records.append(Array(pending[header..<header + length]))
                    start = header + length
                }
            } catch {
                failure = error
                if records.isEmpty { throw error }
            }
            pending.removeFirst(start)
            return records
        }

        /// Where the record's bytes begin and how many they are; nil while the length is incomplete.
        private func length(at start: Int) throws(Failure) -> (header: Int, length: Int)? {
            var length = 0
            var position = start
            while position < pending.count {
                let byte = pending[position]
                if byte == UInt8(ascii: "\n") {
                    guard position > start else { throw .malformedLength }
                    guard length <= recordLengthMax else { throw .recordTooLong(length) }
                    return (position + 1, length)
                }
                guard byte >= UInt8(ascii: "0"), byte <= UInt8(ascii: "9"), position - start < 18 else {
                    throw .malformedLength
                }
                length = length * 10 + Int(byte - UInt8(ascii: "0"))
                position += 1
            }
            return nil
        }
    }
}
