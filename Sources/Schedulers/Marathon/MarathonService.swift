import AsyncHTTPClient
import Base
public import Coordination
import HTTPKit
public import Logging
public import ServiceLifecycle

/// Marathon: serves the REST API for as long as the process lives, and schedules while it leads. Others hand their
/// requests on to the leader.
///
/// A leadership that ends, for whatever reason, ends everything that was known under it; the next one starts from what
/// is stored.
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
        let client = LeaderProxy.client(configuration)
        let result: Result<Void, any Error>
        do {
            try await cancelWhenGracefulShutdown { try await serve(proxyingWith: client) }
            result = .success(())
        } catch is CancellationError {
            result = .success(())
        } catch {
            result = .failure(error)
        }
        try? await client.shutdown()
        try result.get()
    }

    private func address(port: Int) -> String {
        switch configuration.httpAddress {
        case .tcp(_, let configured): "\(configuration.hostname):\(configured == 0 ? port : configured)"
        case .unix(let path): path
        }
    }

    private func serve(proxyingWith client: HTTPClient) async throws {
        let standing = Standing(address: address(port: 0))
        let entrance = MarathonEntrance(
            standing: standing, configuration: configuration,
            proxy: LeaderProxy(standing: standing, caller: HTTPCaller(client: client)), logger: logger)
        let (ports, continuation) = AsyncStream.makeStream(of: Int.self, bufferingPolicy: .bufferingOldest(1))
        let onServerRunning = onServerRunning
        let server = HTTPServer(
            name: "Holdfast Marathon", address: configuration.httpAddress, router: entrance.router(), logger: logger,
            onServerRunning: { port in
                continuation.yield(port)
                await onServerRunning(port)
            })
        try await withThrowingTaskGroup(of: Void.self) { group in
            group.addTask { try await server.run() }
            group.addTask {
                // Who cannot be asked must not lead.
                for await port in ports {
                    standing.address = address(port: port)
                    try await stand(standing)
                }
            }
            defer { group.cancelAll() }
            try await group.next()
        }
    }

    // MARK: Standing for election

    private func stand(_ standing: Standing) async throws {
        let gauges = MarathonGauges()
        while !Task.isCancelled {
            let candidacy = backend.election.stand(
                at: configuration.storePrefix + "leader", advertising: ["address": .string(standing.address)])
            let (terms, continuation) = AsyncStream.makeStream(of: Term.self, bufferingPolicy: .bufferingNewest(1))
            let result: Result<Void, any Error>
            do {
                try await withThrowingTaskGroup(of: Void.self) { group in
                    group.addTask { await take(candidacy.events, standing, continuation) }
                    group.addTask { try await serve(terms, standing, candidacy, gauges) }
                    defer { group.cancelAll() }
                    try await group.next()
                }
                result = .success(())
            } catch {
                result = .failure(error)
            }
            // Nothing is done as the leader any more: the next one need not wait for our silence.
            await candidacy.end()
            try result.get()
            try Task.checkCancellation()
            standing.end(.lost)
            standing.follow(nil)
            logger.warning("the election has ended; standing anew")
            try await Task.sleep(for: .seconds(1))
        }
    }

    /// The one reader of the election. Never waits for anything else, so that a loss is noticed at once.
    private func take(
        _ events: AsyncStream<ElectionEvent>, _ standing: Standing, _ terms: AsyncStream<Term>.Continuation
    ) async {
        for await event in events {
            switch event {
            case .leader(let info): standing.follow(info?["address"]?.string)
            case .lost: standing.end(.lost)
            case .elected(let epoch):
                let term = Term(epoch)
                standing.begin(term)
                terms.yield(term)
            }
        }
    }

    private enum Outcome {
        case ended(Term.End)
        case failed(MarathonError)
    }

    private func serve(
        _ terms: AsyncStream<Term>, _ standing: Standing, _ candidacy: Candidacy, _ gauges: MarathonGauges
    ) async throws {
        var pause = Duration.zero
        for await term in terms {
            logger.notice("elected", metadata: ["leader.epoch": "\(term.epoch.epoch)"])
            let start = ContinuousClock.now
            let outcome = try await serve(term, standing, after: pause, gauges)
            gauges.reset()
            switch outcome {
            case .ended(.lost): logger.notice("the leadership is lost")
            case .ended(.resigned):
                logger.notice("abdicating")
                candidacy.abdicate()
            case .failed(let error):
                logger.error("stepping down", metadata: ["error": "\(error)"])
                if standing.stepDown(from: term) { candidacy.abdicate() }
            }
            // Should nobody else be there to lead, our own next try waits: what just failed needs time.
            if case .failed = outcome, ContinuousClock.now - start < .seconds(30) {
                pause = min(max(pause * 2, .milliseconds(100)), .seconds(5))
            } else {
                pause = .zero
            }
        }
    }

    private func serve(
        _ term: Term, _ standing: Standing, after pause: Duration, _ gauges: MarathonGauges
    ) async throws -> Outcome {
        try await withThrowingTaskGroup(of: Outcome.self) { group in
            group.addTask { .ended(await term.awaitEnd()) }
            group.addTask {
                try await Task.sleep(for: pause)
                do throws(MarathonError) {
                    let scheduler = try await prepare(term.epoch, gauges)
                    standing.serve(scheduler, in: term)
                    try await scheduler.run()
                    return .ended(.lost)
                } catch {
                    if error.endsProcess { throw error }
                    return .failed(error)
                }
            }
            defer { group.cancelAll() }
            return try await group.next() ?? .ended(.lost)
        }
    }

    /// Reads what is stored, again and again while the store does not answer.
    private func prepare(
        _ epoch: LeaderEpoch, _ gauges: MarathonGauges
    ) async throws(MarathonError) -> MarathonScheduler {
        let end = ContinuousClock.now + configuration.preparationTimeout
        while true {
            do throws(MarathonError) {
                return try await MarathonScheduler(
                    configuration: configuration, store: backend.store, leadership: epoch, gauges: gauges,
                    logger: logger)
            } catch {
                guard error.code == .store, ContinuousClock.now < end, !Task.isCancelled else { throw error }
                logger.warning("loading again", metadata: ["error": "\(error)"])
            }
            try? await Task.sleep(for: .milliseconds(250))
        }
    }
}
