import Base
import Foundation
import HTTPKit
import HTTPTypes
import Hummingbird
import Logging
import Synchronization

/// As much of a ScaleIO Gateway as the driver meets, with the faults that it must stand.
final class FakeGateway: Sendable {
    struct State {
        var volumes: [String: JSONValue] = [:]
        var tokens: Set<String> = []
        var logins = 0
        var lastID = 0
        /// As our own Gateway; the original does not know the parameter.
        var knowsPreempt = true
        /// How many next calls answer "The system is busy".
        var busyCalls = 0
        /// The next mapping is made, but its first answer is lost: the repeated call finds it made.
        var losesAnswer = false
        /// How many next changes are made (or refused) without the caller hearing how they ended.
        var lostAnswers = 0
        /// How many next calls answer that no manager leads.
        var leaderlessCalls = 0
        /// How often volumes were unmapped.
        var unmaps = 0
        /// Called when a volume is unmapped from everybody, to lose a race on purpose.
        var thief: String?
    }

    let state = Mutex(State())
    static let system = "5d2d1a0000000001"
    static let clients = ["d503826900000000": "GUID-A", "d503826900000001": "GUID-B"]

    private func refuse(_ code: Int64, _ message: String, status: HTTPResponse.Status = .internalServerError)
        -> HTTPFailure
    {
        HTTPFailure(
            status,
            json: [
                "message": .string(message), "httpStatusCode": .integer(Int64(status.code)),
                "errorCode": .integer(code),
            ])
    }

    private func authorize(_ request: Request) throws {
        let given = request.headers[.authorization] ?? ""
        let decoded = Data(base64Encoded: String(given.dropFirst("Basic ".count))).map {
            String(decoding: $0, as: UTF8.self)
        }
        let password = decoded?.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false).last.map(
            String.init)
        try state.withLock { state in
            guard let password, state.tokens.contains(password) else {
                throw refuse(0, "Unauthorized", status: .unauthorized)
            }
            if state.leaderlessCalls > 0 {
                state.leaderlessCalls -= 1
                throw refuse(105, "The MDM cluster state is incorrect")
            }
            if state.busyCalls > 0 {
                state.busyCalls -= 1
                throw refuse(164, "The system is busy. Retry later")
            }
        }
    }

    func router() -> HTTPRouter {
        let router = HTTPRouter(context: HTTPContext.self)
        router.get("/api/login") { request, _ in
            let expected = "Basic " + Data("admin:secret".utf8).base64EncodedString()
            guard request.headers[.authorization] == expected else {
                throw self.refuse(0, "Unauthorized", status: .unauthorized)
            }
            let token = self.state.withLock { state in
                state.logins += 1
                state.tokens.insert("token\(state.logins)")
                return "token\(state.logins)"
            }
            return Response.json(.string(token))
        }
        get("/api/types/System/instances", router) { _ in [["id": .string(Self.system), "name": "cluster1"]] }
        get("/api/types/ProtectionDomain/instances", router) { _ in [["id": "pd00000000000000", "name": "pd1"]] }
        get("/api/types/StoragePool/instances", router) { _ in
            [
                ["id": "5001000000000000", "name": "hdd", "protectionDomainId": "pd00000000000000"],
                ["id": "5001000000000001", "name": "ssd", "protectionDomainId": "pd00000000000000"],
            ]
        }
        get("/api/types/Volume/instances", router) { _ in
            .array(self.state.withLock { $0.volumes.values.sorted { $0.text < $1.text } })
        }
        get(RouterPath("/api/instances/System::\(Self.system)/relationships/Sdc"), router) { _ in
            .array(
                Self.clients.sorted { $0.key < $1.key }.map { ["id": .string($0.key), "sdcGuid": .string($0.value)] })
        }
        get("/api/instances/:object", router) { context in
            let id = (context.parameters.get("object") ?? "").replacing("Volume::", with: "")
            guard let volume = self.state.withLock({ $0.volumes[id] }) else {
                throw self.refuse(79, "Could not find the volume")
            }
            return volume
        }
        router.post("/api/types/Volume/instances") { request, _ in
            try self.authorize(request)
            let body = try JSONValue(parsing: try await request.bytes())
            return try self.mayLoseAnswer { try self.create(body) }
        }
        router.post("/api/types/Volume/instances/action/queryIdByKey") { request, _ in
            try self.authorize(request)
            let name = try JSONValue(parsing: try await request.bytes())["name"]
            let found = self.state.withLock { $0.volumes.values.first { $0["name"] == name }?["id"] }
            guard let found else { throw self.refuse(3, "Not found") }
            return Response.json(found)
        }
        router.post("/api/instances/:object/action/:action") { request, context in
            try self.authorize(request)
            let id = (context.parameters.get("object") ?? "").replacing("Volume::", with: "")
            let body = try JSONValue(parsing: try await request.bytes())
            return try self.mayLoseAnswer {
                try self.act(id, context.parameters.get("action") ?? "", body)
                return Response.json([:])
            }
        }
        return router
    }

    private func get(
        _ path: RouterPath, _ router: HTTPRouter, _ body: @escaping @Sendable (HTTPContext) throws -> JSONValue
    ) {
        router.get(path) { request, context in
            try self.authorize(request)
            return Response.json(try body(context))
        }
    }

    private func mayLoseAnswer(_ body: () throws -> Response) throws -> Response {
        let result = Result { try body() }
        let isLost = state.withLock { state in
            guard state.lostAnswers > 0 else { return false }
            state.lostAnswers -= 1
            return true
        }
        if isLost { throw refuse(69, "Communication error") }
        return try result.get()
    }

    private func create(_ body: JSONValue) throws -> Response {
        let id = try state.withLock { state in
            guard !state.volumes.values.contains(where: { $0["name"] == body["name"] }) else {
                throw refuse(99, "Volume name already in use. Please use a different name.")
            }
            state.lastID += 1
            let id = (0xC047_CB29_0000_0000 + UInt64(state.lastID)).hex
            state.volumes[id] = [
                "id": .string(id), "name": body["name"] ?? .null,
                "sizeInKb": .integer(Int64(body["volumeSizeInKb"]?.string ?? "") ?? 0),
                "storagePoolId": body["storagePoolId"] ?? .null, "volumeType": body["volumeType"] ?? .null,
                "mappedSdcInfo": .null, "ancestorVolumeId": .null,
            ]
            return id
        }
        return Response.json(["id": .string(id)])
    }

    private func act(_ id: String, _ action: String, _ body: JSONValue) throws {
        try state.withLock { state in
            guard var volume = state.volumes[id] else { throw refuse(79, "Could not find the volume") }
            let mapped = volume["mappedSdcInfo"]?.array ?? []
            switch action {
            case "addMappedSdc":
                guard let client = body["sdcId"]?.string, Self.clients[client] != nil else {
                    throw refuse(80, "Could not find the SDC")
                }
                if mapped.contains(where: { $0["sdcId"]?.string == client }) {
                    throw refuse(81, "The volume is already mapped to this SDC")
                }
                if body["preempt"] != nil, !state.knowsPreempt {
                    throw refuse(0, "Request message is not valid", status: .badRequest)
                }
                if !mapped.isEmpty, body["preempt"]?.string != "TRUE" {
                    throw refuse(306, "Only a single SDC may be mapped to this volume at a time")
                }
                state.lastID += 1
                volume["mappedSdcInfo"] = [["sdcId": .string(client), "attachEpoch": .integer(Int64(state.lastID))]]
                if state.losesAnswer {
                    state.losesAnswer = false
                    state.volumes[id] = volume
                    throw refuse(81, "The volume is already mapped to this SDC")
                }
            case "removeMappedSdc":
                state.unmaps += 1
                guard !mapped.isEmpty else { throw refuse(84, "The volume is not mapped to SDC") }
                volume["mappedSdcInfo"] = .null
                if let thief = state.thief {
                    volume["mappedSdcInfo"] = [["sdcId": .string(thief)]]
                    state.thief = nil
                }
            case "setVolumeSize":
                guard let size = Int64(body["sizeInGB"]?.string ?? ""), size % 8 == 0 else {
                    throw refuse(225, "Volume size must be in 8 GB blocks")
                }
                volume["sizeInKb"] = .integer(size << 20)
            case "removeVolume":
                guard mapped.isEmpty else { throw refuse(104, "Volume is mapped") }
                state.volumes[id] = nil
                return
            default: throw refuse(288, "This command is not supported.")
            }
            state.volumes[id] = volume
        }
    }
}
