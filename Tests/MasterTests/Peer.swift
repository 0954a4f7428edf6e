import AsyncHTTPClient
import Base
import HTTPKit
import MesosAPI
import NIOCore
import NIOHTTP1
import SwiftProtobuf

/// The far end of a master's stream: reads records, posts calls with the stream's id.
final class Peer: Sendable {
    struct Ended: Error {}

    let contentType: String
    /// Whether the answer named its length, which streams must not.
    let isSized: Bool
    private let address: HTTPAddress
    private let path: String
    private let media: MediaType
    private let streamID: String
    private let source: RecordSource

    static func open(
        _ address: HTTPAddress, _ path: String, _ media: MediaType, _ call: some Message
    ) async throws -> Peer {
        let headers: HTTPHeaders = ["content-type": media.rawValue, "accept": media.rawValue]
        let response = try await HTTPCaller(headers: headers).stream(.POST, address, path, body: media.encode(call))
        guard response.status == .ok else { throw Ended() }
        return Peer(address, path, media, response)
    }

    private init(_ address: HTTPAddress, _ path: String, _ media: MediaType, _ response: HTTPClientResponse) {
        self.address = address
        self.path = path
        self.media = media
        streamID = response.headers.first(name: "mesos-stream-id") ?? ""
        contentType = response.headers.first(name: "content-type") ?? ""
        isSized = response.headers.contains(name: "content-length")
        source = RecordSource(response.body)
    }

    func next<M: Message>(_ type: M.Type) async throws -> M {
        guard let record = try await source.next() else { throw Ended() }
        return try media.decode(type, from: record)
    }

    func post(_ call: some Message) async throws -> HTTPReply {
        try await HTTPCaller().call(
            .POST, address, path, headers: ["content-type": media.rawValue, "mesos-stream-id": streamID],
            body: media.encode(call))
    }
}

private actor RecordSource {
    private var iterator: HTTPClientResponse.Body.AsyncIterator?
    private var decoder = RecordIO.Decoder()
    private var pending: [[UInt8]] = []

    init(_ body: HTTPClientResponse.Body) { iterator = body.makeAsyncIterator() }

    func next() async throws -> [UInt8]? {
        while pending.isEmpty {
            guard var current = iterator.take() else { return nil }
            guard let chunk = try await current.next(isolation: self) else { return nil }
            iterator = current
            pending = try decoder.append(Array(buffer: chunk))
        }
        return pending.removeFirst()
    }
}
