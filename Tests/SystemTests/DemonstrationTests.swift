import Testing

/// The demonstration on real parts: machines of a lab, each with its own dockerd, real Redis on real filesystems.
@Suite(.serialized) struct DemonstrationTests {
    /// One machine leads, without ZooKeeper. All acts one after the other on one lab, and nothing left of it afterwards.
    @Test(.timeLimit(.minutes(12))) func everyActPasses() async throws {
        try await withLab(["--store", "embedded"]) { lab in
            try await lab.run(["lab", "demo", "--acts", "stop", "kill", "isolate", "zombie"], deadline: .seconds(500))
        }
    }
}
