import AsyncHTTPClient
import Base
import HTTPKit
import Logging
import MesosAPI
import NIOCore
import NIOHTTP1
import SwiftProtobuf
import Synchronization

/// One link to the master, from its first message to its break: a RecordIO stream of the master's messages one way, a
/// POST for each of the agent's the other way, in order.
///
/// What waits to be sent is bounded; on overflow the link is given up, and registration tells the master everything
/// anew.
final class MasterLink: Sendable {
    static let path = "/holdfast/v1/agent"
    static let outboxMax = 16384
    static let redirectsMax = 5
    /// A master that has taken a registration writes it down before it answers.
    static let answerDeadline = Duration.seconds(30)

    private let first: ClusterAgentMessage
    private let outbox: AsyncStream<ClusterAgentMessage>
    private let continuation: AsyncStream<ClusterAgentMessage>.Continuation
    private let hasAnswered = Atomic(false)
    let stop = StopSignal()

    init(first: ClusterAgentMessage) {
        self.first = first
        (outbox, continuation) = AsyncStream.makeStream(bufferingPolicy: .bufferingOldest(MasterLink.outboxMax))
    }

    func send(_ message: ClusterAgentMessage) {
        if case .dropped = continuation.yield(message) { stop.fire() }
    }

    /// Registers at `address`, or where the master there redirects to, and passes on what the master says until the
    /// link breaks or `stop` fires.
    ///
    /// - Parameter isElected: an election named this master. It redirects only because it does not know yet that it
    ///   leads, and to a predecessor that may be dead: so the link is given up, to be tried again.
    func run(
        at address: HTTPAddress, isElected: Bool, caller: HTTPCaller,
        _ receive: @escaping @Sendable (ClusterMasterMessage, HTTPAddress) async -> Void
    ) async -> any Error {
        var address = address
        do {
            let body: [UInt8] = try first.serializedBytes()
            let headers = HTTPHeaders([
                ("content-type", "application/x-protobuf"), ("accept", "application/x-protobuf"),
            ])
            for _ in 0..<MasterLink.redirectsMax {
                // The answer's head must come soon; its body lasts as long as the link, which the core ends when the
                // master falls silent.
                let response = try await caller.stream(
                    .POST, address, MasterLink.path, headers: headers, body: body, deadline: .seconds(10))
                if response.status == .temporaryRedirect, let location = response.headers.first(name: "location"),
                    let leader = MasterLink.leader(location)
                {
                    guard !isElected else {
                        throw AgentError(.undecided, "The master at \(address) does not know yet that it leads")
                    }
                    address = leader
                    continue
                }
                guard response.status == .ok, let streamID = response.headers.first(name: "mesos-stream-id") else {
                    let text = try? await withDeadline(.seconds(5)) { try await response.body.collect(upTo: 4096) }
                    throw AgentError(
                        response.status == .serviceUnavailable ? .undecided : .master,
                        "The master at \(address) refused the registration: \(response.status.code) \(text.map { String(buffer: $0) } ?? "")"
                    )
                }
                let answering = address
                try await converse(response, streamID: streamID, address: address, caller: caller) {
                    await receive($0, answering)
                }
                throw AgentError(.master, "The master at \(address) ended the link")
            }
            throw AgentError(.master, "The masters redirect to each other")
        } catch {
            return error
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
                        self.hasAnswered.store(true, ordering: .relaxed)
                        await receive(try ClusterMasterMessage(knownFieldsIn: record))
                    }
                }
            }
            group.addTask {
                // From the answer on, the core listens for the master's silence.
                try await Task.sleep(for: MasterLink.answerDeadline)
                guard self.hasAnswered.load(ordering: .relaxed) else {
                    throw AgentError(.master, "The master at \(address) did not answer the registration")
                }
                while true { try await Task.sleep(for: .seconds(3600)) }
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
