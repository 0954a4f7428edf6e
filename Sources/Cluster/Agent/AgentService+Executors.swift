import AgentCore
import HTTPKit
import HTTPTypes
import Hummingbird
import MesosAPI
import NIOCore

/// `POST /api/v1/executor`: subscriptions and calls of frameworks' own executors.
extension AgentService {
    /// An executor's stream of events.
    struct Subscription: Sendable {
        let feed: BoundedFeed
        let media: MesosAPI.MediaType
    }

    func notify(_ key: ExecutorKey, _ event: ExecutorEvent) {
        guard let subscription = subscriptions[key] else { return }
        if !subscription.feed.offer(RecordIO.encode(subscription.media.encode(event))) {
            subscriptions[key] = nil
            handle(.executorUnsubscribed(key))
        }
    }

    /// Checks and performs a call. Answers the stream of a subscription, nil for other calls.
    func executorCall(_ call: ExecutorCall, answer: MesosAPI.MediaType) throws -> BoundedFeed? {
        let key: ExecutorKey
        do {
            key = try core.validate(call)
        } catch {
            if call.type == .update { counters.invalidStatusUpdates += 1 }
            throw AgentService.failure(error)
        }
        switch call.type {
        case .subscribe:
            subscriptions.removeValue(forKey: key)?.feed.finish()
            let feed = BoundedFeed()
            subscriptions[key] = Subscription(feed: feed, media: answer)
            handle(.executorSubscribed(key, call.subscribe))
            return feed
        case .update:
            counters.validStatusUpdates += 1
            handle(.executorUpdate(key, call.update.status))
        case .message: handle(.executorMessage(key, call.message))
        case .heartbeat: break
        case .unknown: throw HTTPFailure(.notImplemented, text: "Not implemented")
        }
        return nil
    }

    /// The connection of a subscription is gone; a newer one of the same executor stays.
    func executorLeft(_ call: ExecutorCall, _ feed: BoundedFeed) {
        let key = ExecutorKey(framework: call.frameworkID.value, executor: call.executorID.value)
        guard let current = subscriptions[key], !current.feed.offer([]) else { return }
        subscriptions[key] = nil
        handle(.executorUnsubscribed(key))
    }

    private static func failure(_ refusal: ExecutorRefusal) -> HTTPFailure {
        switch refusal {
        case .unknownFramework: HTTPFailure(.badRequest, text: "Framework cannot be found")
        case .unknownExecutor: HTTPFailure(.badRequest, text: "Executor cannot be found")
        case .notSubscribed: HTTPFailure(.forbidden, text: "Executor is not subscribed")
        case .recovering: HTTPFailure(.serviceUnavailable, text: "Agent has not finished recovery")
        case .invalid(let text): HTTPFailure(.badRequest, text: text)
        }
    }
}

/// What the executor and operator endpoints read from a request before looking at its call.
enum CallRequest {
    /// The type of the body, or the error that the protocol wants.
    static func media(_ request: Request) throws -> MesosAPI.MediaType {
        guard let type = request.headers[.contentType] else {
            throw HTTPFailure(.badRequest, text: "Expecting 'Content-Type' to be present")
        }
        guard let media = MesosAPI.MediaType(rawValue: type) else {
            throw HTTPFailure(
                .unsupportedMediaType,
                text: "Expecting 'Content-Type' of application/json or application/x-protobuf")
        }
        return media
    }

    /// The type of the answer: JSON if it is accepted.
    static func accepted(_ request: Request) throws -> MesosAPI.MediaType {
        guard let accept = request.headers[.accept] else { return .json }
        let ranges = accept.split(separator: ",").map { range in
            range.split(separator: ";").map { $0.filter { $0 != " " } }
        }
        for media in [MesosAPI.MediaType.json, .protobuf] {
            for range in ranges where !range.contains("q=0") {
                if let name = range.first, name == media.rawValue || name == "*/*" || name == "application/*" {
                    return media
                }
            }
        }
        throw HTTPFailure(
            .notAcceptable, text: "Expecting 'Accept' to allow 'application/x-protobuf' or 'application/json'")
    }
}
