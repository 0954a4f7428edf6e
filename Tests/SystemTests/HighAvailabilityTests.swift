import Testing

/// The white paper's Table 2 on real parts: three ZooKeepers, masters, Marathons and managers.
@Suite(.serialized) struct HighAvailabilityTests {
    /// The machine that dies runs the app and leads everything.
    @Test(.timeLimit(.minutes(10))) func theDeathOfAllLeadersMovesTheAppWithItsData() async throws {
        try await withLab(["--store", "zookeeper"]) { lab in
            try await lab.run(["lab", "demo", "--acts", "stop", "leaders"], deadline: .seconds(400))
        }
    }
}
