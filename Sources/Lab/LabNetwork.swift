import LinuxOS

/// The lab's wires: a bridge on this machine and a cable from it into each machine of the lab.
struct LabNetwork: Sendable {
    let lab: LabState

    /// Makes the bridge, and lets packets pass it whatever dockerd of this machine made of the FORWARD policy.
    func up() async throws {
        try await runChecked(["ip", "link", "add", lab.bridge, "type", "bridge"])
        try await runChecked(["ip", "address", "add", "\(lab.gateway)/24", "dev", lab.bridge])
        try await runChecked(["ip", "link", "set", lab.bridge, "up"])
        for rule in forwardRules { try await runChecked(["iptables", "-w", "-I"] + rule) }
    }

    /// Removes what is left of a lab whose machines have all ended without `down`: its bridge has no cable any more, since
    /// a cable goes with the machine at its end.
    ///
    /// - Throws: when a lab with this index is there, with machines.
    func reclaim() async throws {
        guard try await runCommand(["ip", "link", "show", lab.bridge]).isSuccess else { return }
        guard directoryEntries("/sys/class/net/\(lab.bridge)/brif").isEmpty else {
            throw LabError(
                .state, "The network \(lab.bridge) exists: another lab uses it. Give this one another --index.")
        }
        await down()
    }

    /// Removes everything that `up` and `plug` made; what is not there is no error.
    func down() async {
        for rule in forwardRules { _ = try? await runCommand(["iptables", "-w", "-D"] + rule) }
        for node in lab.nodes { _ = try? await runCommand(["ip", "link", "delete", lab.cable(of: node.number)]) }
        _ = try? await runCommand(["ip", "link", "delete", lab.bridge])
    }

    private var forwardRules: [[String]] {
        [
            ["FORWARD", "-i", lab.bridge, "-j", "ACCEPT"],
            ["FORWARD", "-o", lab.bridge, "-j", "ACCEPT"],
        ]
    }

    /// Lays a cable from the bridge into the network namespace of the machine's init.
    func plug(_ number: Int, into machine: ProcessIdentity) async throws {
        let cable = lab.cable(of: number)
        // The cable of a machine that was switched off lives until the kernel has cleared its namespace away.
        _ = try await runCommand(["ip", "link", "delete", cable])
        try await runChecked([
            "ip", "link", "add", cable, "type", "veth", "peer", "name", "eth0", "address", hardwareAddress(of: number),
            "netns", "\(machine.pid)",
        ])
        try await runChecked(["ip", "link", "set", cable, "master", lab.bridge, "up"])
        let inside = ["nsenter", "-t", "\(machine.pid)", "-n"]
        try await runChecked(inside + ["ip", "address", "add", "\(lab.address(of: number))/24", "dev", "eth0"])
        try await runChecked(inside + ["ip", "link", "set", "lo", "up"])
        try await runChecked(inside + ["ip", "link", "set", "eth0", "up"])
        try await runChecked(inside + ["ip", "route", "add", "default", "via", lab.gateway])
    }

    /// A machine keeps its network card over a power loss; with a new one each time, its peers would go on sending to
    /// the old one until their neighbour tables forget it. The first byte says "locally administered".
    private func hardwareAddress(of number: Int) -> String {
        [0x02, 0x48, 0x46, lab.index, number >> 8, number & 0xFF].map { byte in
            let digits = String(byte, radix: 16)
            return digits.count == 1 ? "0" + digits : digits
        }.joined(separator: ":")
    }

    /// Pulls the cable: nothing that the machine still sends gets out, so its peers see silence and no closed
    /// connection.
    func unplug(_ number: Int) async throws {
        _ = try await runCommand(["ip", "link", "set", lab.cable(of: number), "down"])
    }

    /// Makes the machine drop exactly what the lab's cuts say, at the first place a packet passes: before port
    /// mappings.
    func applyCuts(at number: Int, machine: ProcessIdentity) async throws {
        let iptables = ["nsenter", "-t", "\(machine.pid)", "-n", "iptables", "-w", "-t", "raw"]
        if try await !runCommand(iptables + ["-n", "-L", LabNetwork.chain]).isSuccess {
            try await runChecked(iptables + ["-N", LabNetwork.chain])
            try await runChecked(iptables + ["-I", "PREROUTING", "-j", LabNetwork.chain])
        }
        try await runChecked(iptables + ["-F", LabNetwork.chain])
        for cut in lab.cuts where cut.to == number {
            let ends = cut.ports.flatMap { [["-p", "tcp", "--sport", "\($0)"], ["-p", "tcp", "--dport", "\($0)"]] }
            for end in cut.ports.isEmpty ? [[]] : ends {
                try await runChecked(
                    iptables + ["-A", LabNetwork.chain, "-s", lab.address(of: cut.from)] + end + ["-j", "DROP"])
            }
        }
    }

    private static let chain = "HOLDFAST-LAB"
}
