import AsyncHTTPClient
import Base
import HTTPKit
import Logging
import MesosAPI
import NIOCore
import NIOHTTP1
import SwiftProtobuf

/// One link to the master, from its first message to its break: a RecordIO stream of the master's messages one way, a
/// POST for each of the agent's the other way, in order.
///
/// What waits to be sent is bounded; on overflow the link is given up, and registration tells the master everything
/// anew.
final class MasterLink: Sendable {
    static let path = "/holdfast/v1/agent"
    static let outboxMax = 16384

    private let first: ClusterAgentMessage
    private let outbox: AsyncStream<ClusterAgentMessage>
    private let continuation: AsyncStream<ClusterAgentMessage>.Continuation
    let stop = StopSignal()

    init(first: ClusterAgentMessage) {
        self.first = first
        (outbox, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(MasterLink.outboxMax))
    }

    func send(_ message: ClusterAgentMessage) {
        if case .dropped = continuation.yield(message) { stop.fire() }
    }

    /// Where a registration led to.
    enum Outcome: Sendable {
        case broken(any Error)
        /// Another master leads.
        case redirected(HTTPAddress)
    }

    /// Registers at `address` and passes on what the master says until the link breaks or `stop` fires.
    func run(
        at address: HTTPAddress, caller: HTTPCaller,
        _ receive: @escaping @Sendable (ClusterMasterMessage) async -> Void
    ) async -> Outcome {
        do {
            let body: [UInt8] = try first.serializedBytes()
            let headers = HTTPHeaders([
                ("content-type", "application/x-protobuf"), ("accept", "application/x-protobuf"),
            ])
            // The answer's head must come soon; its body lasts as long as the link, which the core ends when the master
            // falls silent.
            let response = try await caller.stream(
                .POST, address, MasterLink.path, headers: headers, body: body, deadline: .seconds(10))
            if response.status == .temporaryRedirect, let location = response.headers.first(name: "location"),
                let leader = MasterLink.leader(location)
            {
                return .redirected(leader)
            }
            guard response.status == .ok, let streamID = response.headers.first(name: "mesos-stream-id") else {
                let text = try? await withDeadline(.seconds(5)) { try await response.body.collect(upTo: 4096) }
                throw AgentError(
                    .master,
                    "The master at \(address) refused the registration: \(response.status.code) \(text.map { String(buffer: $0) } ?? "")"
                )
            }
            try await converse(response, streamID: streamID, address: address, caller: caller, receive)
            throw AgentError(.master, "The master at \(address) ended the link")
        } catch {
            return .broken(error)
        }
    }

    private func converse(
        _ response: HTTPClientResponse, streamID: String, address: HTTPAddress, caller: HTTPCaller,
        _ receive: @escaping @Sendable (ClusterMasterMessage) async -> Void
    ) async throws {
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask {
                var decoder = RecordIO.Decoder()
                for try await buffer in response.body {
                    for record in try decoder.append(buffer.readableBytesView) {
                        await receive(try ClusterMasterMessage(knownFieldsIn: record))
                    }
                }
            }
            group.addTask { [outbox] in
                let headers = HTTPHeaders([
                    ("content-type", "application/x-protobuf"), ("mesos-stream-id", streamID),
                ])
                for await message in outbox {
                    let reply = try await caller.call(
                        .POST, address, MasterLink.path, headers: headers, body: try message.serializedBytes())
                    guard reply.isSuccess else {
                        throw AgentError(.master, "The master refused a message: \(reply.status) \(reply.text)")
                    }
                }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    /// The address in `//host:port/path` or `http://host:port/path`.
    static func leader(_ location: String) -> HTTPAddress? {
        var rest = Substring(location)
        for prefix in ["http:", "//"] where rest.hasPrefix(prefix) { rest = rest.dropFirst(prefix.count) }
        return HTTPAddress(String(rest.prefix { $0 != "/" }))
    }
}
