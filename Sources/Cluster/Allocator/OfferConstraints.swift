public import MesosAPI

extension SchedulerOfferConstraints {
    /// What is wrong with the constraints; nil if nothing. Patterns are not supported by this allocator's first
    /// version.
    public func fault(roles: [String]) -> String? {
        for (role, constraints) in roleConstraints.sorted(by: { $0.key < $1.key }) {
            if !roles.contains(role) {
                return "Framework is not subscribed to role '\(role)' which has offer constraints"
            }
            if constraints.groups.isEmpty { return "Role '\(role)' has offer constraints without groups" }
            for group in constraints.groups {
                if group.attributeConstraints.isEmpty {
                    return "Role '\(role)' has an empty group of offer constraints"
                }
                for constraint in group.attributeConstraints {
                    if let fault = constraint.fault { return fault }
                }
            }
        }
        return nil
    }

    /// Whether a framework with these constraints may be offered the agent in `role`: all of at least one group hold.
    func admits(_ agent: MesosAgentInfo, role: String) -> Bool {
        guard let constraints = roleConstraints[role] else { return true }
        return constraints.groups.contains { group in group.attributeConstraints.allSatisfy { $0.holds(for: agent) } }
    }
}

extension SchedulerAttributeConstraint {
    fileprivate var fault: String? {
        switch selector.kind {
        case .attributeName: break
        case .pseudoattributeType(let type) where type != .unknown: break
        case .pseudoattributeType, nil: return "Exactly one of 'AttributeConstraint::Selector::selector' must be set"
        }
        switch predicate.kind {
        case .exists, .notExists, .textEquals, .textNotEquals: return nil
        case .textMatches, .textNotMatches: return "Regular expressions in offer constraints are not implemented"
        case nil: return "Unknown predicate type"
        }
    }

    /// Text predicates hold for attributes that are no text; on a missing attribute only the negated ones hold.
    fileprivate func holds(for agent: MesosAgentInfo) -> Bool {
        let candidates = texts(of: agent)
        switch predicate.kind {
        case .exists: return !candidates.isEmpty
        case .notExists: return candidates.isEmpty
        case .textEquals(let wanted): return candidates.contains { $0 == nil || $0 == wanted.value }
        case .textNotEquals(let unwanted): return candidates.allSatisfy { $0 == nil || $0 != unwanted.value }
        case .textMatches, .textNotMatches, nil: return true
        }
    }

    /// The texts of the selected attributes; nil for an attribute of another type.
    private func texts(of agent: MesosAgentInfo) -> [String?] {
        switch selector.kind {
        case .attributeName(let name):
            return agent.attributes.filter { $0.name == name }.map { $0.type == .text ? $0.text.value : nil }
        case .pseudoattributeType(let type):
            let domain = agent.domain.faultDomain
            switch type {
            case .hostname: return [agent.hostname]
            case .region: return agent.hasDomain ? [domain.region.name] : []
            case .zone: return agent.hasDomain ? [domain.zone.name] : []
            case .unknown: return []
            }
        case nil: return []
        }
    }
}
