import Base
import HTTPKit
import HTTPTypes
import Hummingbird
import Logging
import OrderedCollections
import VolumeDriver

/// The version of REX-Ray whose interfaces are offered.
public let rexraySemanticVersion = "0.11.4"

/// A request of the libStorage API, taken apart.
struct LibStorageCall: Sendable {
    var id: String
    var caller: LibStorageCaller
    /// A parameter without a value is the empty string.
    var query: [String: String]
    var content: [UInt8]

    /// What a member of a body may be.
    enum Kind: String {
        case string
        case number = "whole number, 0 or more"
        case boolean
        case object

        func admits(_ value: JSONValue) -> Bool {
            switch self {
            case .string: value.string != nil
            case .number: value.integer.map { $0 >= 0 } ?? false
            case .boolean: value.bool != nil
            case .object: value.object != nil
            }
        }
    }

    /// The body; unknown members and wrong types are refused, as the original's schema does.
    func body(allowing kinds: [String: Kind]) throws -> JSONValue {
        if content.isEmpty { return [:] }
        let body: JSONValue
        do {
            body = try JSONValue(parsing: content)
        } catch {
            throw VolumeDriverError(.failed, "validate req schema: the body is no JSON", cause: error)
        }
        guard let members = body.object else {
            throw VolumeDriverError(.failed, "validate req schema: the body is no object")
        }
        for (name, value) in members {
            guard let kind = kinds[name] else {
                throw VolumeDriverError(.failed, "validate req schema: '\(name)' is not allowed")
            }
            guard value.isNull || kind.admits(value) else {
                throw VolumeDriverError(.failed, "validate req schema: '\(name)' is no \(kind.rawValue)")
            }
        }
        return body
    }
}

/// How volumes look to one caller.
struct LibStorageView: Sendable {
    var mask: AttachmentMask
    var instanceID: String?
    var devices: [String: String]
    var driver: String
    var service: String

    /// Without attachments.
    static func plain(driver: String, service: String) -> LibStorageView {
        LibStorageView(mask: [], instanceID: nil, devices: [:], driver: driver, service: service)
    }

    static func attached(
        _ caller: LibStorageCaller, instanceID: String, driver: String, service: String
    ) -> LibStorageView {
        LibStorageView(
            mask: .requested, instanceID: instanceID, devices: caller.devices ?? [:], driver: driver, service: service)
    }

    /// libStorage's Volume object; nil when the mask leaves the volume out.
    func object(_ volume: PlatformVolume, mountPoint: String?) -> JSONValue? {
        let isMine = instanceID.map { volume.isAttached(to: $0) } ?? false
        // 2 attached to the caller, 3 to nobody, 4 to somebody else.
        let state: Int64 = volume.attachments.isEmpty ? 3 : isMine ? 2 : 4
        if mask.contains(.attached) || mask.contains(.unattached) {
            let isWanted =
                mask.contains(.attached) && (state == 2 || state == 4 && !mask.contains(.mine))
                || mask.contains(.unattached) && state == 3
            guard isWanted else { return nil }
        }
        var object: JSONValue = [:]
        if mask.contains(.requested) {
            let attachments = volume.attachments.filter { attachment in
                !mask.contains(.mine) || attachment.instanceID.lowercased() == instanceID?.lowercased()
            }
            if !attachments.isEmpty {
                object["attachments"] = .array(attachments.map { self.attachment($0, volume, mountPoint) })
            }
        }
        object["attachmentState"] = .integer(mask.isEmpty ? 0 : state)
        if !volume.availabilityZone.isEmpty { object["availabilityZone"] = .string(volume.availabilityZone) }
        if volume.iops > 0 { object["iops"] = .integer(volume.iops) }
        object["name"] = .string(volume.name)
        object["size"] = .integer(Int64(volume.size.wholeGibibytes))
        if !volume.status.isEmpty { object["status"] = .string(volume.status) }
        object["id"] = .string(volume.id)
        if !volume.type.isEmpty { object["type"] = .string(volume.type) }
        if !volume.fields.isEmpty {
            object["fields"] = .object(
                .init(
                    uniqueKeysWithValues: volume.fields.sorted { $0.key < $1.key }.map { ($0.key, .string($0.value)) }))
        }
        return object
    }

    private func attachment(
        _ attachment: PlatformAttachment, _ volume: PlatformVolume, _ mountPoint: String?
    ) -> JSONValue {
        let isMine = attachment.instanceID.lowercased() == instanceID?.lowercased()
        var object: JSONValue = [
            "deviceName": .string(isMine ? devices[volume.id.lowercased()] ?? "" : ""),
            "instanceID": [
                "id": .string(attachment.instanceID), "driver": .string(driver), "service": .string(service),
            ],
        ]
        if isMine, let mountPoint { object["mountPoint"] = .string(mountPoint) }
        if !attachment.status.isEmpty { object["status"] = .string(attachment.status) }
        object["volumeID"] = .string(volume.id)
        return object
    }
}

extension LibStorageServer {
    /// Thrown for a task that takes longer than its request may.
    private struct Unfinished: Error {
        var task: JSONValue
        var status: HTTPResponse.Status
    }

    /// Runs `body` as a task and answers its result if it is there in time; 408 (or 202 with `?async`) otherwise.
    func task(
        _ name: String, _ call: LibStorageCall, _ body: @escaping @Sendable () async throws -> JSONValue
    ) async throws -> JSONValue {
        let isAsync = call.query["async"] != nil
        let entry = try await tasks.submit(name, deadline: isAsync ? .zero : taskTimeout, body)
        if let failure = entry.failure { throw failure }
        guard entry.isFinished else {
            throw Unfinished(task: LibStorageServer.object(entry), status: isAsync ? .accepted : .requestTimeout)
        }
        return entry.result ?? .null
    }

    static func notFound(_ id: String) -> VolumeDriverError {
        VolumeDriverError(.notFound, "resource not found")
    }

    static func object(_ entry: TaskBoard.Entry) -> JSONValue {
        var object: JSONValue = [
            "id": .integer(entry.id), "name": .string(entry.name), "queueTime": .integer(entry.queued),
            "state": .string(entry.state.rawValue),
        ]
        if entry.started > 0 { object["startTime"] = .integer(entry.started) }
        if entry.completed > 0 { object["completeTime"] = .integer(entry.completed) }
        if let result = entry.result, !result.isNull { object["result"] = result }
        if let failure = entry.failure { object["error"] = .string(errorChain(failure)) }
        return object
    }

    /// The name in an LDAP filter `(name=X)`; nil for any other filter.
    static func nameInFilter(_ filter: String?) -> String? {
        guard let filter, filter.lowercased().hasPrefix("(name="), filter.hasSuffix(")") else { return nil }
        return String(filter.dropFirst("(name=".count).dropLast())
    }

    /// Takes the request apart, runs `body` and dresses its answer.
    func answer(
        _ request: Request, _ context: HTTPContext, status: HTTPResponse.Status,
        _ body: (LibStorageCall) async throws -> JSONValue
    ) async -> Response {
        let headers: HTTPFields = [.libStorageServerName: "holdfast"]
        let id = context.parameters.get("id").map(percentDecoded) ?? ""
        do {
            if let service = context.parameters.get("service"), service.lowercased() != serviceName.lowercased() {
                throw VolumeDriverError(.notFound, "resource not found")
            }
            let call = LibStorageCall(
                id: id,
                caller: LibStorageCaller(
                    instances: request.headers[values: .libStorageInstanceID],
                    devices: request.headers[values: .libStorageLocalDevices], driver: manager.driver.name,
                    service: serviceName),
                query: LibStorageServer.query(request.uri.query), content: try await request.bytes(limit: 1 << 20))
            let value = try await body(call)
            if status == .noContent { return Response(status: .noContent, headers: headers) }
            // The original answers a detach with 205 and a body all the same, and its clients read it.
            let isDetach = call.query["detach"] != nil
            return LibStorageServer.document(value, status: isDetach ? .resetContent : status, headers: headers)
        } catch let unfinished as Unfinished {
            return LibStorageServer.document(unfinished.task, status: unfinished.status, headers: headers)
        } catch let failure as HTTPFailure {
            return LibStorageServer.document(
                ["message": .string(failure.body), "status": .integer(Int64(failure.status.code))],
                status: failure.status, headers: headers)
        } catch {
            return refusal(error, resource: id, headers: headers)
        }
    }

    private func refusal(_ error: any Error, resource: String, headers: HTTPFields) -> Response {
        let driverError = error as? VolumeDriverError
        var status = HTTPResponse.Status.internalServerError
        var object: JSONValue = [:]
        switch driverError?.code {
        case .notFound?:
            // Clients compare this text.
            status = .notFound
            object = ["message": "resource not found", "status": 404, "error": ["resourceID": .string(resource)]]
        case .invalid? where driverError?.message.hasPrefix("missing ") == true:
            status = .badRequest
            object = ["message": .string(driverError?.message ?? ""), "status": 400]
        case .notImplemented?:
            object = ["message": "not implemented", "status": 500]
        default:
            object = ["message": .string(errorChain(error)), "status": 500]
            logger.error(
                "a libStorage call failed", metadata: ["error": "\(errorChain(error))", "resource": "\(resource)"])
        }
        return LibStorageServer.document(object, status: status, headers: headers)
    }

    private static func document(_ value: JSONValue, status: HTTPResponse.Status, headers: HTTPFields) -> Response {
        var headers = headers
        headers[.contentType] = "application/json"
        return Response(status: status, headers: headers, body: .init(byteBuffer: .init(string: value.prettyText)))
    }

    static func query(_ text: String?) -> [String: String] {
        var result: [String: String] = [:]
        for pair in (text ?? "").split(separator: "&") {
            let parts = pair.split(separator: "=", maxSplits: 1, omittingEmptySubsequences: false)
            let key = percentDecoded(String(parts[0]))
            let value = parts.count > 1 ? percentDecoded(String(parts[1])) : ""
            result[key] = value
        }
        return result
    }
}

extension HTTPField.Name {
    /// `constant` is one of the valid names below.
    private static func constant(_ name: String) -> HTTPField.Name {
        guard let name = HTTPField.Name(name) else { preconditionFailure("\(name) is a valid header name") }
        return name
    }

    static let libStorageInstanceID = constant("Libstorage-Instanceid")
    static let libStorageLocalDevices = constant("Libstorage-Localdevices")
    static let libStorageServerName = constant("Libstorage-Servername")
}
