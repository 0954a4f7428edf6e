import Testing

@testable import Coordination

@Suite struct CommitCoreTests {
    /// Several stores begin on an empty ensemble at the same time: one finds what another has made only half.
    @Test func halfMadeDirectoriesAreCompleted() throws {
        let layout = ZooKeeperLayout(base: "/base", candidates: [:])
        var core = CommitCore(
            [.put(key: "a", bytes: [1], expected: .absent)], as: nil, token: "t", session: 1, layout: layout, hints: [:]
        )
        guard case .request(.multi(let parts)) = core.start() else {
            Issue.record("no multi")
            return
        }
        let marker = try #require(parts.firstIndex { $0.path == layout.marker(of: 1) })
        guard case .request(.createEphemeral) = core.apply(.failed(.noNode, part: marker)) else {
            Issue.record("the marker is not made")
            return
        }
        var action = core.apply(.failed(.noNode, part: nil))
        for directory in layout.directories {
            guard case .request(.create(directory)) = action else {
                Issue.record("\(action) instead of making \(directory)")
                return
            }
            action = core.apply(.failed(.exists, part: nil))
        }
        guard case .request(.multi) = action else {
            Issue.record("\(action) instead of the commit")
            return
        }
    }
}
