import LinuxOS
import TestKit
import Testing

/// `holdfast master` and `holdfast agent` with flags that cannot be meant: told, and nothing started.
@Suite(.timeLimit(.minutes(2))) struct MasterFlagsTests {
    private func run(_ arguments: [String]) async throws -> String {
        let directory = try TemporaryDirectory()
        let role = try HoldfastProcess(
            arguments + ["--work_dir=\(directory.path)/work"], log: directory.file("log"))
        let status = try await eventually("the end of the role", within: .seconds(60)) { role.child.exitStatus }
        #expect(!status.isSuccess)
        return role.log
    }

    @Test(arguments: [
        (["--quorum=0"], "Invalid value '0' for --quorum. Must be at least 1"),
        (["--quorum=two"], "Failed to load flag 'quorum': 'two' is no integer"),
        (["--zk=h:2181/mesos"], "Failed to load flag 'zk': Expecting 'zk://' at the beginning of the URL"),
        (["--registry=etcd"], "'etcd' is not a supported option for registry persistence"),
        (["--registry=in_memory", "--zk=zk://h:1/m"], "--registry=in_memory does not go with --zk"),
        (["--recovery_agent_removal_limit=150%"], "Must be between 0% and 100%"),
        (["--agent_removal_rate_limit=5"], "Format is <Number of agents>/<Duration>"),
        (["--agent_reregister_timeout=0secs"], "Must be more than 0secs"),
        (["--zk_session_timeout=soon"], "Failed to load flag 'zk_session_timeout': 'soon' is no duration"),
    ])
    func aMasterTellsWhatItCannotUse(_ flags: [String], _ says: String) async throws {
        let output = try await run(["master"] + flags)
        #expect(output.contains(says), "\(flags): \(output)")
    }

    @Test(arguments: ["", "host:", "zk://", "zk://,/m", "file:///no/such/file"])
    func anAgentTellsWhichMasterItCannotFind(_ master: String) async throws {
        let output = try await run(["agent", "--master=\(master)"])
        #expect(output.contains("Failed to load flag 'master': "), "\(output)")
    }
}
