import Base

/// The node files of a lab: which roles a machine runs and with which flags.
public enum NodeTemplate {
    /// Replaces `${NAME}`, `${NUMBER}`, `${ADDRESS}`, `${DIR}` (of the node), `${FIRST}` (the first node's address) and
    /// `${NODES}`.
    static func fill(_ template: String, lab: LabState, number: Int, directory: String) -> String {
        let values = [
            "NAME": lab.name(of: number), "NUMBER": "\(number)", "ADDRESS": lab.address(of: number), "DIR": directory,
            "FIRST": lab.address(of: 1), "NODES": "\(lab.nodes.count)",
        ]
        var text = ""
        var rest = template[...]
        while let start = rest.firstRange(of: "${"), let end = rest[start.upperBound...].firstIndex(of: "}") {
            text += rest[..<start.lowerBound]
            let name = rest[start.upperBound..<end]
            text += values[String(name)] ?? "${\(name)}"
            rest = rest[rest.index(after: end)...]
        }
        return text + rest
    }

    /// The whole system: the first node leads and serves, every node computes and stores.
    static func standard(number: Int) -> String { (number == 1 ? first : "roles:\n") + every }

    private static let first = """
        roles:
          mdm:
            listen: 0.0.0.0:6611
            gateway: 0.0.0.0:8081
            store: embedded:${DIR}/mdm.db
          master:
            ip: ${ADDRESS}
            port: 5050
            work_dir: ${DIR}/master
            agent_ping_timeout: 1secs
            max_agent_ping_timeouts: 3
          marathon:
            master: ${FIRST}:5050
            store: embedded:${DIR}/marathon.db

        """

    private static let every = """
          sds:
            listen: ${ADDRESS}:7072
            mdm: ${FIRST}:6611
            device: ${DIR}/sds/device
          sdc:
            mdm: ${FIRST}:6611
            guid-file: ${DIR}/sdc.guid
          volumes:
            gateway: http://${FIRST}:8081
          agent:
            master: ${FIRST}:5050
            ip: ${ADDRESS}
            hostname: ${ADDRESS}
            work_dir: ${DIR}/agent

        """

    /// TCP ports that answer once a role of a node file runs.
    static func ports(of role: String) -> [Int] {
        switch role {
        case "master": [5050]
        case "agent": [5051]
        case "marathon": [8080]
        case "mdm": [6611, 8081]
        case "sds": [7072]
        default: []
        }
    }
}
