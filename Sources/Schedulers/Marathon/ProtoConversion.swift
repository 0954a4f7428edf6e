import FoundationEssentials
import MarathonCore
import MesosAPI

extension AgentOffer {
    /// - Parameter wallSeconds: now, for maintenance windows.
    init(_ offer: MesosOffer, wallSeconds: Double) {
        self.init(
            id: offer.id.value, agentID: offer.agentID.value, hostname: offer.hostname,
            allocationRole: offer.hasAllocationInfo ? offer.allocationInfo.role : "*",
            resources: offer.resources.compactMap(Resource.init),
            attributes: offer.attributes.compactMap(Attribute.init))
        if offer.hasDomain, offer.domain.hasFaultDomain {
            region = offer.domain.faultDomain.region.name
            zone = offer.domain.faultDomain.zone.name
        }
        if offer.hasUnavailability {
            let start = Double(offer.unavailability.start.nanoseconds) / 1e9
            let length =
                offer.unavailability.hasDuration ? Double(offer.unavailability.duration.nanoseconds) / 1e9 : .infinity
            isUnavailable = start <= wallSeconds && wallSeconds < start + length
        }
    }
}

private func closedRanges(_ ranges: MesosValue.Ranges) -> [ClosedRange<Int>] {
    ranges.range.compactMap { range in
        guard range.begin <= range.end, range.end <= 1 << 40 else { return nil }
        return Int(range.begin)...Int(range.end)
    }
}

extension AgentOffer.Resource {
    /// Nil for what Marathon never uses: revocable, dynamically reserved, shared, and disks other than the root.
    init?(_ resource: MesosResource) {
        let isDynamic = resource.hasReservation || resource.reservations.contains { $0.type == .dynamic }
        guard !resource.hasRevocable, !resource.hasShared, !resource.hasDisk, !isDynamic else { return nil }
        let amount: AgentOffer.Amount
        switch resource.type {
        case .scalar: amount = .scalar(resource.scalar.value)
        case .ranges: amount = .ranges(closedRanges(resource.ranges))
        case .set: amount = .set(resource.set.item)
        case .text: return nil
        }
        let role = resource.reservations.last?.role ?? (resource.hasRole ? resource.role : "*")
        self.init(name: resource.name, role: role, amount: amount)
    }
}

extension AgentOffer.Attribute {
    init?(_ attribute: MesosAttribute) {
        switch attribute.type {
        case .text: self.init(name: attribute.name, value: .text(attribute.text.value))
        case .scalar: self.init(name: attribute.name, value: .scalar(attribute.scalar.value))
        case .ranges: self.init(name: attribute.name, value: .ranges(closedRanges(attribute.ranges)))
        case .set: self.init(name: attribute.name, value: .set(attribute.set.item))
        }
    }
}

extension TaskReport {
    init(_ status: MesosTaskStatus) {
        self.init(
            taskID: status.taskID.value, agentID: status.hasAgentID ? status.agentID.value : nil,
            state: TaskState(status.state), uuid: status.hasUuid && !status.uuid.isEmpty ? Array(status.uuid) : nil)
        message = status.message
        if status.hasReason { reason = TaskReport.name(of: status.reason) }
        if status.hasHealthy { healthy = status.healthy }
        addresses = status.containerStatus.networkInfos.flatMap(\.ipAddresses).filter(\.hasIpAddress).map {
            Address(ip: $0.ipAddress, version: $0.protocol == .ipv6 ? "IPv6" : "IPv4")
        }
    }

    /// The reasons that decide something here; others have no name.
    private static func name(of reason: MesosTaskStatus.Reason) -> String? {
        switch reason {
        case .invalidOffers: "REASON_INVALID_OFFERS"
        case .agentRemoved: "REASON_AGENT_REMOVED"
        case .agentDisconnected: "REASON_AGENT_DISCONNECTED"
        case .agentRestarted: "REASON_AGENT_RESTARTED"
        case .reconciliation: "REASON_RECONCILIATION"
        default: nil
        }
    }
}

extension TaskState {
    init(_ state: MesosTaskState) {
        switch state {
        case .taskStaging: self = .staging
        case .taskStarting: self = .starting
        case .taskRunning: self = .running
        case .taskKilling: self = .killing
        case .taskFinished: self = .finished
        case .taskFailed: self = .failed
        case .taskKilled: self = .killed
        case .taskError: self = .error
        case .taskLost: self = .lost
        case .taskDropped: self = .dropped
        case .taskUnreachable: self = .unreachable
        case .taskGone: self = .gone
        case .taskGoneByOperator: self = .goneByOperator
        case .taskUnknown: self = .unknown
        }
    }
}
