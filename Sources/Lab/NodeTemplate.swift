import Base
import Yams

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

    /// A node file with some flags set differently, or with every role as a process of its own.
    static func adapt(_ text: String, settings: [LabState.Setting], separatesRoles: Bool) throws -> String {
        guard !settings.isEmpty || separatesRoles else { return text }
        guard var root = try compose(yaml: text), var roles = root["roles"] else { return text }
        for setting in settings {
            guard var flags = roles[setting.role] else { continue }
            // The node file takes either spelling; the template's own must not stay beside the new one.
            let known = [setting.flag.replacing("-", with: "_"), setting.flag.replacing("_", with: "-")]
            let flag = known.first { flags[$0] != nil } ?? setting.flag
            flags[flag] = Node(setting.value)
            roles[setting.role] = flags
        }
        if separatesRoles {
            root["separate"] = Node.sequence(.init(roles.mapping?.map(\.key) ?? []))
        }
        root["roles"] = roles
        return try serialize(node: root)
    }

    /// The whole system: the first node leads and serves, every node computes and stores.
    static func standard(number: Int) -> String { number == 1 ? first + every + reserve : "roles:\n" + every }

    /// The first node alone carries master, Marathon and manager: its agent offers too little for an app, so that the
    /// death of an app's machine is not theirs too.
    private static let reserve = "    resources: cpus:0.1;mem:64\n"

    /// The password of the lab's gateway. A lab is no place for secrets.
    public static let gatewayPassword = "holdfast-lab"

    private static let first = """
        roles:
          mdm:
            listen: 0.0.0.0:6611
            store: embedded:${DIR}/mdm.db
            work-dir: ${DIR}/mdm
            gateway-http: 0.0.0.0:8081
            gateway-https: 0.0.0.0:8443
            gateway-password: \(gatewayPassword)
          master:
            port: 5050
            advertise_ip: ${ADDRESS}
            hostname: ${ADDRESS}
            work_dir: ${DIR}/master
            agent_ping_timeout: 1secs
            max_agent_ping_timeouts: 3
          marathon:
            master: ${FIRST}:5050
            hostname: ${ADDRESS}
            store: embedded:${DIR}/marathon.db

        """

    private static let every = """
          sds:
            name: ${NAME}
            mdm: ${FIRST}:6611
            listen: ${ADDRESS}:7072
            device: ${DIR}/sds.device
            device-size: 10g
          sdc:
            name: ${NAME}
            mdm: ${FIRST}:6611
            ip: ${ADDRESS}
            guid-file: ${DIR}/sdc.guid
          volumes:
            config: /etc/rexray/config.yml
          agent:
            master: ${FIRST}:5050
            ip: ${ADDRESS}
            hostname: ${ADDRESS}
            work_dir: ${DIR}/agent

        """

    /// The REX-Ray configuration of every machine.
    static let rexray = """
        libstorage:
          service: scaleio
        scaleio:
          endpoint: http://${FIRST}:8081/api
          userName: admin
          password: \(gatewayPassword)

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
