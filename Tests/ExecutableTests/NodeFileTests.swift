import LinuxOS
import TestKit
import Testing

/// `holdfast node --config FILE` with files that it cannot use: every fault with its place, and nothing started.
@Suite(.timeLimit(.minutes(2))) struct NodeFileTests {
    /// What the node says to a file with this text, and how it ends.
    private func run(_ text: String) async throws -> (status: LinuxOS.ExitStatus, output: String) {
        let directory = try TemporaryDirectory()
        let path = directory.file("node.yaml")
        try writeFile(path, text)
        let node = try HoldfastProcess(["node", "--config", path], log: directory.file("log"))
        let status = try await eventually("the end of the node", within: .seconds(60)) { node.child.exitStatus }
        return (status, node.log.replacing(path, with: "FILE"))
    }

    @Test(arguments: [
        ("roles:\n  mdmm: {}\n", "FILE:2: unknown role \"mdmm\"; did you mean \"mdm\"?"),
        ("roles:\n  zebra: {}\n", "FILE:2: unknown role \"zebra\""),
        ("rols:\n  mdm: {}\n", "FILE:1: unknown key \"rols\"; did you mean \"roles\"?"),
        ("", "FILE: \"roles\" is missing"),
        ("separate: []\n", "FILE: \"roles\" is missing"),
        ("- mdm\n", "a node file is a mapping with the key \"roles\""),
        ("roles: [mdm, sds]\n", "FILE:1: \"roles\" is a mapping of roles to their flags"),
        ("roles:\n  sds: five\n", "FILE:2: the flags of sds are a mapping"),
        ("roles:\n  sds:\n    devcie: /tmp/x\n", "FILE:3: unknown flag \"devcie\" of sds; did you mean \"device\"?"),
        ("roles:\n  sds:\n    device: {a: b}\n", "the value of \"device\" is a scalar or a list of scalars"),
        ("roles:\n  sds:\n    device: /nowhere/d\n    device-size: large\n", "--device-size large is no size"),
        ("roles:\n  sds:\n    device: '/nowhere/d,pool='\n", "--device /nowhere/d,pool= names no path or no pool"),
        ("roles:\n  mdm:\nseparate: [sdc]\n", "FILE:3: \"sdc\" is to be separate and is no role of this node"),
        ("roles:\n  mdm:\nseparate: sdc\n", "FILE:3: \"separate\" is a list of roles"),
        ("roles:\n  mdm:\nseparate: [{a: b}]\n", "FILE:3: \"separate\" is a list of roles"),
        ("roles: {mdm\n", "FILE: "), ("roles:\n\tmdm:\n", "FILE: "), ("roles: &a [*b]\n", "FILE: "),
        ("\u{1}\u{2}", "FILE: "),
    ])
    func faultsAreNamedWithTheirPlaces(_ text: String, _ says: String) async throws {
        let (status, output) = try await run(text)
        #expect(output.contains(says), "\(text.debugDescription): \(output)")
        #expect(!status.isSuccess && !output.contains("Fatal error"), "\(status): \(output)")
    }

    @Test func allFaultsAreToldAtOnce() async throws {
        let (_, output) = try await run("roles:\n  mdmm: {}\n  sds:\n    devcie: x\nseparate: [agent]\nrole: 1\n")
        for says in ["\"mdmm\"", "\"devcie\"", "\"agent\" is to be separate", "unknown key \"role\""] {
            #expect(output.contains(says), "\(says): \(output)")
        }
    }

    @Test func anAbsentFileAndAnAbsentFlagAreErrors() async throws {
        let directory = try TemporaryDirectory()
        for arguments in [["node", "--config", directory.file("none")], ["node"], ["node", "--confgi", "x"], ["nod"]] {
            let node = try HoldfastProcess(arguments, log: directory.file("log"))
            let status = try await eventually("the end", within: .seconds(60)) { node.child.exitStatus }
            #expect(!status.isSuccess)
            #expect(!node.log.isEmpty && !node.log.contains("Fatal error"), "\(node.log)")
        }
    }

    @Test func aNodeOfAProperFileRunsUntilItIsToldToEnd() async throws {
        let directory = try TemporaryDirectory()
        let path = directory.file("node.yaml")
        try writeFile(
            path,
            """
            roles:
              mdm:
                store: "memory:"
                listen: 127.0.0.1:0
                work-dir: \(directory.path)
                gateway-http: none
                gateway_https: none
            """)
        let node = try HoldfastProcess(["node", "--config", path], log: directory.file("log"))
        try await eventually("the manager's leading") { node.log.contains("manager leads") }
        #expect(node.child.exitStatus == nil)
        #expect(try await node.stop().isSuccess)
    }
}
