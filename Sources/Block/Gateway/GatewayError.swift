import Base
import HTTPKit
import HTTPTypes

/// An answer of the gateway that is no success: `{"message", "httpStatusCode", "errorCode"}`.
///
/// Old clients decide by the text alone and newer ones by the number, so both are data of the protocol. Numbers up to
/// 206 are the same in all releases of the original; later ones shifted between releases and clients do not rely on
/// them.
struct GatewayError: Error, Equatable {
    var status: Int
    var code: Int
    var message: String
    /// Whether the answer repeats the error in `details`, as those to commands about several objects do.
    var isDetailed = false

    init(status: Int = 500, code: Int, _ message: String) {
        self.status = status
        self.code = code
        self.message = message
    }

    var json: JSONValue {
        var json: JSONValue = [
            "message": .string(message), "httpStatusCode": .integer(Int64(status)), "errorCode": .integer(Int64(code)),
        ]
        if isDetailed {
            json["details"] = [
                ["error": .string(message), "rc": .integer(Int64(code)), "errorMessage": .string(message)]
            ]
        }
        return json
    }

    /// The same with `details`.
    var detailed: GatewayError {
        var error = self
        error.isDetailed = true
        return error
    }

    var failure: HTTPFailure { HTTPFailure(.init(code: status), json: json) }
}

extension GatewayError {
    static let unauthorized = GatewayError(status: 401, code: 0, "Unauthorized")
    static let notAllowed = GatewayError(status: 405, code: 0, "Request method is not supported")

    static func badRequest(_ reason: String) -> GatewayError {
        GatewayError(status: 400, code: 0, "Request message is not valid: \(reason)")
    }

    static func missing(_ parameters: String...) -> GatewayError {
        badRequest(
            "The following parameter(s) must be part of the request body: \(parameters.joined(separator: ", ")).")
    }

    static func unknownPath(_ path: String) -> GatewayError {
        GatewayError(status: 404, code: 0, "Problem accessing \(path): no such resource")
    }

    // The manager's refusals.
    static let notFound = GatewayError(code: 3, "Not found")
    static let managerNotFound = GatewayError(code: 64, "Could not find the MDM")
    static let outOfRange = GatewayError(code: 64, "Parameter out of range")
    static let communication = GatewayError(code: 69, "Communication error")
    static let sdsNotFound = GatewayError(code: 78, "Could not find SDS")
    static let volumeNotFound = GatewayError(code: 79, "Could not find the volume")
    static let sdcNotFound = GatewayError(code: 80, "Could not find the SDC")
    static let sdsLeaving = GatewayError(code: 103, "SDS is being removed")
    static let deviceLeaving = GatewayError(code: 135, "The SDS device is being removed")
    static let alreadyMapped = GatewayError(code: 81, "The volume is already mapped to this SDC")
    static let notMapped = GatewayError(code: 84, "The volume is not mapped to SDC")
    static let invalidVolumeID = GatewayError(code: 88, "Invalid volume ID. Please try again with a valid ID.")
    static let invalidSdcID = GatewayError(code: 90, "Invalid SDC ID. Please try again with a valid ID.")
    static let nameInUse = GatewayError(code: 99, "Volume name already in use. Please use a different name.")
    static let volumeMapped = GatewayError(code: 104, "Volume is mapped")
    static let notLeader = GatewayError(code: 105, "The MDM cluster state is incorrect")
    static let deviceNotFound = GatewayError(code: 126, "Could not find the SDS device")
    static let cannotShrink = GatewayError(code: 133, "Volume capacity can only be increased")
    static let domainNotFound = GatewayError(code: 142, "Could not find Protection Domain")
    static let poolTooSmall = GatewayError(
        code: 144, "Failed to create volume. The storage pool needs devices on at least two SDSs.")
    static let busy = GatewayError(code: 164, "The system is busy. Retry later")
    static let poolNotFound = GatewayError(code: 171, "Could not find Storage Pool")
    static let domainHasServers = GatewayError(code: 143, "Protection Domain has SDSs")
    static let poolHasDevices = GatewayError(code: 172, "The Storage Pool has SDS devices")
    static let domainHasPools = GatewayError(code: 176, "Protection Domain has Storage Pools")
    static let poolHasVolumes = GatewayError(
        code: 196, "The Storage Pool has volumes. Please remove the volumes and try again.")
    static let faultSetNotFound = GatewayError(code: 265, "Fault Set not found")
    static let faultSetNotEmpty = GatewayError(code: 268, "The Fault Set is not empty")
    static let poolCritical = GatewayError(
        code: 337, "The Storage Pool is in critical capacity: no new volumes can be created or extended")
    static let tooManySnapshots = GatewayError(code: 182, "There are too many snapshots in the VTree")
    static let groupNotFound = GatewayError(code: 185, "Could not find the consistency group")
    static let otherTree = GatewayError(code: 198, "Overwriting a volume is possible only within one V-Tree")
    static let sameVolume = GatewayError(code: 330, "You cannot overwrite a volume with itself")
    static let tooLarge = GatewayError(code: 190, "The volume size too large")
    static let illegalSize = GatewayError(
        code: 225, "The specified volume size is illegal. Volume size must be in 8 GB blocks")
    static let nameTooLong = GatewayError(code: 226, "The name is too long. It must not exceed 31 characters")
    static let nameInvalid = GatewayError(
        code: 227, "The given name contains invalid characters. Spaces are not allowed")
    static let unsupported = GatewayError(code: 288, "This command is not supported.")
    static let singleMapping = GatewayError(
        code: 297, "Only a single SDC may be mapped to this volume at a time")
    static let noCapacity = GatewayError(
        code: 300, "Requested volume size exceeds the volume allocation limit")
}
