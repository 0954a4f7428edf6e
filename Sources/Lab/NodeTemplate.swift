import Base
import Yams

/// The node files of a lab: which roles a machine runs and with which flags.
public enum NodeTemplate {
    /// Replaces `${NAME}`, `${NUMBER}`, `${ADDRESS}`, `${DIR}` (of the node), `${FIRST}` (the first node's address),
    /// `${NODES}`, and the places of those who lead: `${ZOOKEEPER}`, `${MANAGERS}` and `${GATEWAYS}`.
    static func fill(_ template: String, lab: LabState, number: Int, directory: String) -> String {
        let values = [
            "NAME": lab.name(of: number), "NUMBER": "\(number)", "ADDRESS": lab.address(of: number), "DIR": directory,
            "FIRST": lab.address(of: 1), "NODES": "\(lab.nodes.count)",
            "ZOOKEEPER": lab.zooKeeperServers,
            "MANAGERS": lab.leaders.map { "\(lab.address(of: $0)):6611" }.joined(separator: ","),
            "GATEWAYS": lab.leaders.map { "http://\(lab.address(of: $0)):8081/api" }.joined(separator: ","),
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

    /// The whole system: every node computes and stores. With ZooKeeper the first three stand for leadership; without,
    /// the first leads.
    static func standard(number: Int, in lab: LabState) -> String {
        guard lab.leaders.contains(number) else { return "roles:\n" + every(lab) }
        return lab.usesZooKeeper ? elected + every(lab) : alone + every(lab) + reserve
    }

    /// A node that carries master, Marathon and manager alone: its agent offers too little for an app, so that the
    /// death of an app's machine is not theirs too.
    private static let reserve = "    resources: cpus:0.1;mem:64\n"

    /// The password of the lab's gateway. A lab is no place for secrets.
    public static let gatewayPassword = "holdfast-lab"

    private static let alone = """
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

    /// Sessions of 3 s: a leader that is cut off is succeeded soon after that time. The machine that died with the
    /// leading master is given up when its agent has not come back 3 s later.
    private static let elected = """
        roles:
          mdm:
            name: ${NAME}
            listen: 0.0.0.0:6611
            advertise: ${ADDRESS}:6611
            store: zk://${ZOOKEEPER}/holdfast/mdm
            zk-session-timeout: 3secs
            work-dir: ${DIR}/mdm
            gateway-http: 0.0.0.0:8081
            gateway-https: 0.0.0.0:8443
            gateway-password: \(gatewayPassword)
          master:
            port: 5050
            advertise_ip: ${ADDRESS}
            hostname: ${ADDRESS}
            work_dir: ${DIR}/master
            zk: zk://${ZOOKEEPER}/mesos
            quorum: 2
            zk_session_timeout: 3secs
            agent_reregister_timeout: 3secs
            agent_ping_timeout: 1secs
            max_agent_ping_timeouts: 3
          marathon:
            master: zk://${ZOOKEEPER}/mesos
            zk: zk://${ZOOKEEPER}/marathon
            zk_session_timeout: 3000
            mesos_heartbeat_interval: 2000
            hostname: ${ADDRESS}

        """

    /// An agent hears of another leading master through ZooKeeper: within the time that masters wait for agents, even when
    /// its own ZooKeeper server died with the former one.
    ///
    /// All machines of a lab share one kernel, and only what FUSE made is told apart and removed with the lab.
    private static func every(_ lab: LabState) -> String {
        """
          sds:
            name: ${NAME}
            mdm: ${MANAGERS}
            listen: ${ADDRESS}:7072
            device: ${DIR}/\(lab.hasVolatileDisks ? "disk/device" : "sds.device")
            device-size: 10g
          sdc:
            name: ${NAME}
            mdm: ${MANAGERS}
            ip: ${ADDRESS}
            guid-file: ${DIR}/sdc.guid
            device-driver: fuse
          volumes:
            config: /etc/rexray/config.yml
          agent:
            master: \(lab.usesZooKeeper ? "zk://${ZOOKEEPER}/mesos" : "${FIRST}:5050")
            zk_session_timeout: 2secs
            ip: ${ADDRESS}
            hostname: ${ADDRESS}
            work_dir: ${DIR}/agent

        """
    }

    /// The REX-Ray configuration of every machine.
    static let rexray = """
        libstorage:
          service: scaleio
        scaleio:
          endpoint: ${GATEWAYS}
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
