import Base
import HTTPKit
import NIOCore
import NIOPosix
import VolumeDriver

/// The control socket of this host's SDC: one JSON object per line and direction.
struct SDCControl: Sendable {
    let path: String

    /// The SDC's GUID, upper case.
    func guid() async throws(VolumeDriverError) -> String {
        let answer = try await ask(["command": "query_guid"])
        guard let guid = answer["guid"]?.string, !guid.isEmpty else {
            throw VolumeDriverError(.unreachable, "The SDC at \(path) gave no GUID: \(answer.text)")
        }
        return guid.uppercased()
    }

    private func ask(_ question: JSONValue) async throws(VolumeDriverError) -> JSONValue {
        do {
            return try await withDeadline(.seconds(5)) { try await exchange(question) }
        } catch let error as VolumeDriverError {
            throw error
        } catch let error as DeadlineExceeded {
            throw VolumeDriverError(.timedOut, "The SDC at \(path) gave no answer", cause: error)
        } catch {
            throw VolumeDriverError(.unreachable, "The SDC at \(path) could not be asked", cause: error)
        }
    }

    private func exchange(_ question: JSONValue) async throws -> JSONValue {
        let channel = try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
            .connectTimeout(.seconds(2))
            .connect(unixDomainSocketPath: path) { channel in
                channel.eventLoop.makeCompletedFuture {
                    try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                }
            }
        return try await channel.executeThenClose { inbound, outbound in
            try await outbound.write(ByteBuffer(bytes: question.bytes + [UInt8(ascii: "\n")]))
            var line: [UInt8] = []
            for try await chunk in inbound {
                line.append(contentsOf: chunk.readableBytesView)
                if let end = line.firstIndex(of: UInt8(ascii: "\n")) {
                    return try JSONValue(parsing: Array(line[..<end]))
                }
                guard line.count < 1 << 20 else { break }
            }
            throw VolumeDriverError(.unreachable, "The SDC closed its control socket without an answer")
        }
    }
}
