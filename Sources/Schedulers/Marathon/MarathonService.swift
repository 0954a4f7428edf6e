import Base
public import Coordination
import HTTPKit
public import Logging
public import ServiceLifecycle

/// Marathon: stands for election, then serves the REST API and schedules for as long as it leads.
public struct MarathonService: Service {
    private let configuration: MarathonConfiguration
    private let backend: CoordinationBackend
    private let logger: Logger
    private let onServerRunning: @Sendable (Int) async -> Void

    /// - Parameter onServerRunning: called with the port once the API answers; lets tests bind port 0.
    public init(
        configuration: MarathonConfiguration, backend: CoordinationBackend, logger: Logger,
        onServerRunning: @escaping @Sendable (Int) async -> Void = { _ in }
    ) {
        self.configuration = configuration
        self.backend = backend
        self.logger = logger
        self.onServerRunning = onServerRunning
    }

    public func run() async throws {
        try await cancelWhenGracefulShutdown {
            do {
                try await lead()
            } catch is CancellationError {
                return
            }
        }
    }

    private var advertised: String {
        switch configuration.httpAddress {
        case .tcp(_, let port): "\(configuration.hostname):\(port)"
        case .unix(let path): path
        }
    }

    private func lead() async throws {
        let candidacy = backend.election.stand(
            at: configuration.storePrefix + "leader", advertising: ["address": .string(advertised)])
        let events = candidacy.events
        try await withThrowingTaskGroup(of: Void.self) { group in
            defer { group.cancelAll() }
            for await event in events {
                switch event {
                case .leader: continue
                case .elected(let epoch):
                    logger.notice("elected", metadata: ["leader.epoch": "\(epoch.epoch)"])
                    group.addTask { try await serve(under: epoch) }
                    group.addTask {
                        // Everything in memory may be outdated from here on: a fresh start is the safe way back.
                        for await event in events where event == .lost {
                            throw MarathonError(.leadershipLost, "The leadership was lost")
                        }
                    }
                    try await group.next()
                    return
                case .lost: throw MarathonError(.leadershipLost, "The leadership was lost")
                }
            }
        }
    }

    private func serve(under epoch: LeaderEpoch) async throws {
        let scheduler = try await MarathonScheduler(
            configuration: configuration, store: backend.store, leadership: epoch, logger: logger)
        let api = MarathonAPI(
            scheduler: scheduler, configuration: configuration, leader: advertised, logger: logger)
        let server = HTTPServer(
            name: "Holdfast Marathon", address: configuration.httpAddress, router: api.router(), logger: logger,
            onServerRunning: onServerRunning)
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await scheduler.run() }
            group.addTask { try await server.run() }
            defer { group.cancelAll() }
            try await group.next()
        }
    }
}
