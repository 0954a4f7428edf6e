import Agent
import Base
import HTTPKit
import Hummingbird
import Logging
import MasterLocator
import Synchronization
import TestKit
import Testing

/// Where an agent registers.
@Suite(.serialized, .timeLimit(.minutes(1))) struct RegistrationTests {
    /// Masters that send every agent to `destination`, and one that counts who comes.
    private func withMasters(
        _ body:
            @escaping @Sendable (
                _ sender: HTTPAddress, _ sent: @escaping @Sendable () -> Int, _ came: @escaping @Sendable () -> Int
            )
            async throws -> Void
    ) async throws {
        let came = Counter()
        let sent = Counter()
        let destination = HTTPRouter(context: HTTPContext.self)
        destination.post("/holdfast/v1/agent") { _, _ in
            came.increase()
            return Response(status: .serviceUnavailable)
        }
        try await withServer(destination) { address in
            let sender = HTTPRouter(context: HTTPContext.self)
            sender.post("/holdfast/v1/agent") { _, _ in
                sent.increase()
                return Response(
                    status: .temporaryRedirect, headers: [.location: "//\(address)/holdfast/v1/agent"])
            }
            try await withServer(sender) { try await body($0, { sent.value }, { came.value }) }
        }
    }

    private final class Counter: Sendable {
        private let count = Mutex(0)
        func increase() { count.withLock { $0 += 1 } }
        var value: Int { count.withLock { $0 } }
    }

    @Test func aRedirectionIsFollowedWithoutAnElection() async throws {
        try await withMasters { sender, _, came in
            try await withAgent(of: .addresses([sender])) { _ in
                try await eventually("the agent at the other master") { came() > 0 }
            }
        }
    }

    /// A master that has just been elected may still redirect to its dead predecessor.
    @Test func anElectionCountsMoreThanARedirection() async throws {
        try await withMasters { sender, sent, came in
            guard case .tcp(let host, let port) = sender else { return }
            let info: JSONValue = ["id": "m", "address": ["ip": .string(host), "port": .integer(Int64(port))]]
            let elected = MasterLocation.elected {
                AsyncStream { $0.yield(info) }
            }
            try await withAgent(of: elected) { _ in
                try await eventually("being sent away twice") { sent() >= 2 }
            }
            #expect(came() == 0)
        }
    }
}
