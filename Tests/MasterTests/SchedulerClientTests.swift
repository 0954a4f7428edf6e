import Base
import HTTPKit
import Logging
import MasterLocator
import MesosAPI
import MesosClient
import NIOHTTP1
import TestKit
import Testing

/// Our own client against our own master.
@Suite(.serialized) struct SchedulerClientTests {
    private static let logger = Logger(label: "test") { _ in SwiftLogNoOpLogHandler() }

    private func options(_ address: HTTPAddress, _ media: MediaType, id: MesosFrameworkID? = nil)
        -> SchedulerClient.Options
    {
        var info = MesosFrameworkInfo()
        info.user = "u"
        info.name = "f"
        info.failoverTimeout = 60
        if let id { info.id = id }
        // The first address is nobody's: the client must go on to the next.
        var options = SchedulerClient.Options(
            masters: .addresses([.tcp(host: "127.0.0.1", port: 1), address]), framework: info)
        options.mediaType = media
        options.backoffMin = .milliseconds(20)
        return options
    }

    @Test(arguments: MediaType.allCases) func subscribesLaunchesAndIsTakenOver(media: MediaType) async throws {
        try await withMaster { address in
            var register = ClusterAgentMessage()
            register.register.agentInfo.hostname = "h1"
            register.register.agentInfo.resources = [
                try jsonDecode(MesosResource.self, from: ["name": "cpus", "type": "SCALAR", "scalar": ["value": 2]])
            ]
            register.register.version = "1.11.0"
            register.register.pid = "slave(1)@127.0.0.1:5051"
            let agent = try await Peer.open(address, "/holdfast/v1/agent", media, register)
            _ = try await agent.next(ClusterMasterMessage.self)

            let client = SchedulerClient(options(address, media), logger: Self.logger)
            await #expect(throws: MesosClientError.self) { try await client.revive() }
            async let end: Void = client.run()
            var id: MesosFrameworkID?
            for await signal in client.signals {
                switch signal {
                case .subscribed(let framework, _): id = framework
                case .event(let event) where event.type == .offers:
                    let offer = try #require(event.offers.offers.first)
                    var task = MesosTaskInfo()
                    task.name = "t"
                    task.taskID = MesosTaskID("t")
                    task.agentID = offer.agentID
                    task.resources = offer.resources
                    task.command.value = "true"
                    try await client.launch([task], from: [offer.id])
                    #expect(try await agent.next(ClusterMasterMessage.self).runTask.task.taskID.value == "t")
                    try await client.reconcile()
                case .event(let event) where event.type == .update:
                    #expect(event.update.status.reason == .reconciliation)
                    // Another scheduler takes the framework over: this one's subscription ends for good.
                    let framework = try #require(id)
                    let heir = SchedulerClient(options(address, media, id: framework), logger: Self.logger)
                    let task = Task { try? await heir.run() }
                    defer { task.cancel() }
                    for await signal in heir.signals {
                        guard case .subscribed(let taken, _) = signal else { continue }
                        #expect(taken == framework)
                        break
                    }
                    var failure: MesosClientError?
                    do { try await end } catch { failure = error as? MesosClientError }
                    #expect(failure?.code == .unsubscribed)
                    return
                case .event, .disconnected: break
                }
            }
            Issue.record("the signals ended early")
        }
    }
}
