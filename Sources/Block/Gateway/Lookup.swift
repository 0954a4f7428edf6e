import Base
import BlockCore
import OrderedCollections

/// Finds ids by what users call things.
struct Lookup {
    let state: SystemState

    /// `queryIdByKey`. A missing volume answers "Not found": clients wait for exactly that text.
    func id(_ type: ObjectType, _ fields: RequestFields) throws(GatewayError) -> String {
        switch type {
        case .volume:
            let name = try fields.requiredText("name")
            guard let found = state.volume(named: name) else { throw .notFound }
            return found.id.description
        case .protectionDomain:
            let name = try fields.requiredText("name")
            guard let found = state.domain(named: name) else { throw .domainNotFound }
            return found.id.description
        case .storagePool:
            let name = try fields.requiredText("name")
            let domain: ProtectionDomain?
            if let domainName = try fields.text("protectionDomainName") {
                domain = state.domain(named: domainName)
            } else {
                let id = try fields.requiredText("protectionDomainId")
                domain = ProtectionDomainID(id).flatMap { state.domains[$0] }
            }
            guard let domain else { throw .domainNotFound }
            guard let found = state.pool(named: name, in: domain.id) else { throw .poolNotFound }
            return found.id.description
        case .faultSet:
            let name = try fields.requiredText("name")
            let domain = ProtectionDomainID(try fields.requiredText("protectionDomainId"))
            guard let found = domain.flatMap({ state.faultSet(named: name, in: $0) }) else { throw .faultSetNotFound }
            return found.id.description
        case .sds:
            if let name = try fields.text("name") {
                guard let found = state.server(named: name) else { throw .sdsNotFound }
                return found.id.description
            }
            let address = try fields.requiredText("ip")
            let found = state.servers.values.first { ObjectViews.hostAndPort($0.address).host == address }
            guard let found else { throw .sdsNotFound }
            return found.id.description
        case .sdc: return try client(fields).id.description
        case .system, .vtree, .device, .user: throw .unsupported
        }
    }

    private func client(_ fields: RequestFields) throws(GatewayError) -> Sdc {
        let found: Sdc?
        if let guid = try fields.text("guid") {
            found = state.client(guid: guid.uppercased())
        } else if let name = try fields.text("name") {
            found = state.clients.values.first { $0.name == name }
        } else {
            let address = try fields.requiredText("ip")
            found = state.clients.values.first { $0.ip == address }
        }
        guard let found else { throw .sdcNotFound }
        return found
    }

    /// `types/T/instances/getByName::KEY` and its kin, with the type names of the first releases.
    func legacy(type: String, method: String, key: String) throws(GatewayError) -> String {
        switch (type, method) {
        case ("Domain", "getByName"), ("ProtectionDomain", "getByName"):
            guard let found = state.domain(named: key) else { throw .domainNotFound }
            return found.id.description
        case ("Pool", "getByName"), ("StoragePool", "getByName"):
            let parts = key.split(separator: ",", maxSplits: 1)
            guard parts.count == 2, let domain = ProtectionDomainID(parts[0]),
                let found = state.pool(named: String(parts[1]), in: domain)
            else { throw .poolNotFound }
            return found.id.description
        case ("Volume", "getByName"):
            guard let found = state.volume(named: key) else { throw .volumeNotFound }
            return found.id.description
        case ("Client", "getByIp"), ("Sdc", "getByIp"):
            let address = key.split(separator: "/").first.map(String.init) ?? ""
            guard let found = state.clients.values.first(where: { $0.ip == address }) else { throw .sdcNotFound }
            return found.id.description
        default: throw .unknownPath("/api/types/\(type)/instances/\(method)")
        }
    }

    /// The SDC that a mapping action names by `sdcId` or `guid`.
    func sdc(_ fields: RequestFields) throws(GatewayError) -> SdcID {
        if let id = try fields.text("sdcId"), !id.isEmpty {
            guard let parsed = SdcID(id) else { throw .invalidSdcID }
            guard state.clients[parsed] != nil else { throw .sdcNotFound }
            return parsed
        }
        for key in ["guid", "sdcGuid"] {
            guard let guid = try fields.text(key), !guid.isEmpty else { continue }
            guard let found = state.client(guid: guid.uppercased()) else { throw .sdcNotFound }
            return found.id
        }
        throw .missing("sdcId")
    }
}
