import Base
public import MesosAPI
import Resources

/// What may be wrong with calls and framework descriptions; texts are those that operators know from Mesos.
public enum FrameworkValidation {
    /// The shape of a scheduler call, before anything is looked up; nil if fine.
    public static func fault(in call: SchedulerCall) -> String? {
        if !call.hasType { return "Expecting 'type' to be present" }
        if call.type == .subscribe {
            guard call.hasSubscribe else { return "Expecting 'subscribe' to be present" }
            let id = call.subscribe.frameworkInfo.id
            if call.hasFrameworkID || !id.value.isEmpty, call.frameworkID != id {
                return "'framework_id' differs from 'subscribe.framework_info.id'"
            }
            return nil
        }
        guard call.hasFrameworkID else { return "Expecting 'framework_id' to be present" }
        if let missing = missingPart(of: call) { return "Expecting '\(missing)' to be present" }
        if call.type == .acknowledge, call.acknowledge.uuid.count != 16 {
            return "Not a valid UUID"
        }
        if call.type == .updateFramework, call.frameworkID != call.updateFramework.frameworkInfo.id {
            return "'framework_id' differs from 'update_framework.framework_info.id'"
        }
        return nil
    }

    private static func missingPart(of call: SchedulerCall) -> String? {
        switch call.type {
        case .accept: call.hasAccept ? nil : "accept"
        case .decline: call.hasDecline ? nil : "decline"
        case .acceptInverseOffers: call.hasAcceptInverseOffers ? nil : "accept_inverse_offers"
        case .declineInverseOffers: call.hasDeclineInverseOffers ? nil : "decline_inverse_offers"
        case .kill: call.hasKill ? nil : "kill"
        case .shutdown: call.hasShutdown ? nil : "shutdown"
        case .acknowledge: call.hasAcknowledge ? nil : "acknowledge"
        case .acknowledgeOperationStatus: call.hasAcknowledgeOperationStatus ? nil : "acknowledge_operation_status"
        case .reconcile: call.hasReconcile ? nil : "reconcile"
        case .reconcileOperations: call.hasReconcileOperations ? nil : "reconcile_operations"
        case .message: call.hasMessage ? nil : "message"
        case .request: call.hasRequest ? nil : "request"
        case .updateFramework: call.hasUpdateFramework ? nil : "update_framework"
        case .unknown, .subscribe, .teardown, .revive, .suppress: nil
        }
    }

    /// What is wrong with a framework's description; nil if nothing.
    public static func fault(in info: MesosFrameworkInfo, options: MasterOptions) -> String? {
        if info.has(.multiRole) {
            if info.hasRole { return "'FrameworkInfo.role' must not be set when the framework is MULTI_ROLE capable" }
            if Set(info.roles).count != info.roles.count { return "'FrameworkInfo.roles' contains duplicate items" }
        } else if !info.roles.isEmpty {
            return "'FrameworkInfo.roles' must not be set when the framework is not MULTI_ROLE capable"
        }
        for role in info.subscribedRoles {
            if let fault = roleFault(role) { return "'FrameworkInfo.role' is not a valid role: \(fault)" }
        }
        if let allowed = options.roles {
            let unknown = info.subscribedRoles.filter { $0 != "*" && !allowed.contains($0) }
            if !unknown.isEmpty {
                return "Roles [ \(unknown.joined(separator: ", ")) ] are not present in the master's --roles"
            }
        }
        if !info.id.value.isEmpty, let fault = idFault(info.id.value) { return "Framework ID is invalid: \(fault)" }
        if !info.failoverTimeout.isFinite || info.failoverTimeout < 0 {
            return
                "The framework failover_timeout (\(info.failoverTimeout)) is invalid: it must be a non-negative duration"
        }
        if info.user == "root", !options.allowsRoot {
            return "User 'root' is not allowed to run frameworks without root submissions"
        }
        return nil
    }

    /// At most what a duration in nanoseconds holds.
    static func failoverTimeout(of info: MesosFrameworkInfo) -> Duration {
        .seconds(min(max(info.failoverTimeout, 0), 9e9))
    }
}
