import Base
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
            let channel = try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
                .connectTimeout(.seconds(2))
                .connect(unixDomainSocketPath: path) { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try NIOAsyncChannel<ByteBuffer, ByteBuffer>(wrappingChannelSynchronously: channel)
                    }
                }
            return try await channel.executeThenClose { inbound, outbound in
                try await outbound.write(ByteBuffer(bytes: question.bytes + [UInt8(ascii: "\n")]))
                return try await SDCControl.withDeadline(.seconds(5)) {
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
        } catch let error as VolumeDriverError {
            throw error
        } catch {
            throw VolumeDriverError(.unreachable, "The SDC at \(path) could not be asked", cause: error)
        }
    }

    private static func withDeadline<Value: Sendable>(
        _ deadline: Duration, _ body: @escaping @Sendable () async throws -> Value
    ) async throws -> Value {
        try await withThrowingTaskGroup(of: Value.self) { group in
            group.addTask { try await body() }
            group.addTask {
                try await Task.sleep(for: deadline)
                throw VolumeDriverError(.timedOut, "No answer within \(deadline.inSeconds) s")
            }
            defer { group.cancelAll() }
            guard let first = try await group.next() else { throw CancellationError() }
            return first
        }
    }
}
