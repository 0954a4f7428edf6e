public import MesosAPI

extension Resources {
    /// The resource in the new form: the stack `reservations`, no `role` and no `reservation`.
    public static func normalized(_ resource: MesosResource) -> MesosResource {
        var result = resource
        if result.reservations.isEmpty {
            let role = result.role
            if result.hasReservation {
                var reservation = result.reservation
                reservation.type = .dynamic
                reservation.role = role
                result.reservations = [reservation]
            } else if role != "*", !role.isEmpty {
                var reservation = MesosResource.ReservationInfo()
                reservation.type = .static
                reservation.role = role
                result.reservations = [reservation]
            }
        }
        result.clearRole()
        result.clearReservation()
        return result
    }

    /// For frameworks without RESERVATION_REFINEMENT: `role` always, `reservation` iff dynamically reserved. Refined
    /// reservations have no old form; such frameworks are never offered them.
    public static func oldForm(_ resource: MesosResource) -> MesosResource {
        var result = resource
        if let reservation = resource.reservations.last {
            result.role = reservation.role
            if reservation.type == .dynamic {
                result.reservation = reservation
                result.reservation.clearType()
                result.reservation.clearRole()
            }
        } else {
            result.role = "*"
        }
        result.reservations = []
        return result
    }

    /// Both forms at once, as the v0 endpoints and operators see them.
    public static func bothForms(_ resource: MesosResource) -> MesosResource {
        var result = oldForm(resource)
        result.reservations = resource.reservations
        return result
    }

    /// What is wrong with a list of resources from outside, before it may be added up; nil if nothing.
    public static func fault(in resources: [MesosResource]) -> String? {
        for resource in resources {
            if let fault = fault(in: resource) { return "Resource '\(resource.name)' is invalid: \(fault)" }
        }
        return nil
    }

    private static func fault(in resource: MesosResource) -> String? {
        if resource.name.isEmpty { return "Empty resource name" }
        switch resource.type {
        case .scalar:
            guard resource.hasScalar, !resource.hasRanges, !resource.hasSet else { return "Invalid scalar resource" }
            guard resource.scalar.value.isFinite, resource.scalar.value >= 0 else {
                return "Invalid scalar resource: value < 0"
            }
        case .ranges:
            guard resource.hasRanges, !resource.hasScalar, !resource.hasSet else { return "Invalid ranges resource" }
            var previous: UInt64?
            for range in resource.ranges.range.sorted(by: { $0.begin < $1.begin }) {
                guard range.begin <= range.end else { return "Invalid ranges resource: begin > end" }
                if let previous, range.begin <= previous { return "Invalid ranges resource: overlapping ranges" }
                previous = range.end
            }
        case .set:
            guard resource.hasSet, !resource.hasScalar, !resource.hasRanges else { return "Invalid set resource" }
            guard Set(resource.set.item).count == resource.set.item.count else {
                return "Invalid set resource: duplicated elements"
            }
        case .text: return "Unsupported resource type"
        }
        if resource.hasDisk, resource.name != "disk" {
            return "DiskInfo should not be set for \(resource.name) resource"
        }
        return reservationFault(in: normalized(resource))
    }

    private static func reservationFault(in resource: MesosResource) -> String? {
        var parent: String?
        for reservation in resource.reservations {
            if let fault = roleFault(reservation.role) { return fault }
            if reservation.role == "*" { return "Invalid reservation: role \"*\" cannot be reserved" }
            if let parent, !isStrictSubrole(reservation.role, of: parent) {
                return "Invalid refined reservation: role '\(reservation.role)' is not a refinement of '\(parent)'"
            }
            parent = reservation.role
        }
        return nil
    }
}
