import AgentCore
import Base
import Containerizer
import LinuxOS
import Logging
import MesosAPI

extension AgentService {
    // MARK: Specs

    func spec(for order: AgentCore.LaunchOrder) -> ContainerSpec {
        let sandbox = store.paths.sandbox(order)
        let command = order.task?.command ?? order.executor.command
        var container: MesosContainerInfo?
        if let task = order.task {
            container = task.hasContainer ? task.container : nil
        } else if order.executor.hasContainer {
            container = order.executor.container
        }
        let variables = TaskEnvironment(configuration: configuration, port: port)
            .variables(for: order, sandbox: sandbox)
        var labels: [(String, String)] = [
            ("org.holdfast.agent", order.agentID), ("org.holdfast.framework", order.framework.id.value),
        ]
        if let task = order.task { labels.append(("org.holdfast.task", task.taskID.value)) }
        return ContainerSpec(
            id: order.container, command: command, container: container,
            resources: (order.task?.resources ?? []) + order.executor.resources,
            limits: order.task?.limits.mapValues(\.value) ?? [:], environment: variables, sandbox: sandbox,
            stateDirectory: store.paths.run(order),
            user: configuration.switchesUser ? order.framework.user : nil, labels: labels)
    }

    nonisolated func containerizer(for spec: ContainerSpec) -> (any Containerizer)? {
        configuration.containerizers.first { $0.supports(spec.container) }
    }

    // MARK: Life of a container

    func start(_ order: AgentCore.LaunchOrder, isAdopted: Bool) async throws {
        let spec = spec(for: order)
        guard let containerizer = containerizer(for: spec) else {
            handle(
                .containerFailed(
                    id: order.container, message: "None of the enabled containerizers could create a container"))
            return
        }
        if !isAdopted {
            let store = store
            do {
                try await offPool { try store.makeSandbox(order) }
            } catch {
                handle(.containerFailed(id: order.container, message: "Failed to create the sandbox: \(error)"))
                return
            }
        }
        runners[order.container] = Runner(
            spec: spec, containerizer: containerizer, launch: isAdopted ? nil : StopSignal())
        submit(.container(order, isAdopted: isAdopted))
    }

    func runContainer(_ order: AgentCore.LaunchOrder, isAdopted: Bool) async {
        guard let runner = runners[order.container] else { return }
        if let launch = runner.launch {
            // A launch that is given up throws and reports the failure itself.
            await launch.run { await self.launch(runner) }
            guard runners[order.container] != nil else { return }
        }
        await withTaskGroup(of: Void.self) { group in
            group.addTask { await runner.containerizer.followOutput(runner.spec) }
            group.addTask { await self.probe(runner, order) }
            let exit: ContainerExit
            do {
                exit = try await runner.containerizer.wait(runner.spec)
            } catch {
                guard !Task.isCancelled else { return group.cancelAll() }
                exit = .unknown(message: "The container cannot be watched: \(error)")
            }
            ended(order.container, exit)
            // The last of what it wrote may still be on its way.
            await withTaskGroup(of: Void.self) { rest in
                rest.addTask { try? await Task.sleep(for: .seconds(2)) }
                _ = await rest.next()
            }
            group.cancelAll()
        }
    }

    private func ended(_ id: String, _ exit: ContainerExit) {
        logger.notice("container ended", metadata: ["container.id": "\(id)", "exit": "\(exit)"])
        runners[id] = nil
        handle(.containerExited(id: id, exit))
    }

    private func launch(_ runner: Runner) async {
        let id = runner.spec.id
        do {
            try await Fetcher(spec: runner.spec, switchesUser: configuration.switchesUser).fetch()
            let report = try await runner.containerizer.launch(runner.spec)
            logger.notice(
                "container started",
                metadata: ["container.id": "\(id)", "containerizer": "\(runner.containerizer.name)"])
            runners[id]?.launch = nil
            handle(.containerStarted(id: id, report))
        } catch {
            counters.launchErrors += 1
            let text = "\(error)"
            logger.warning("container not launched", metadata: ["container.id": "\(id)", "error": "\(text)"])
            runners[id] = nil
            handle(.containerFailed(id: id, message: "Failed to launch container: \(text)"))
        }
    }

    /// Goes on until the container has ended: an order to kill is never lost, whatever dockerd does.
    func stopContainer(_ id: String, grace: Duration) async {
        if let launch = runners[id]?.launch {
            launch.fire()
            return
        }
        var grace = grace
        while let runner = runners[id], !Task.isCancelled {
            do {
                try await runner.containerizer.stop(runner.spec, grace: grace)
                try await Task.sleep(for: .seconds(10))
            } catch {
                logger.warning("container not stopped", metadata: ["container.id": "\(id)", "error": "\(error)"])
                try? await Task.sleep(for: .seconds(1))
            }
            grace = .zero
        }
    }

    func removeLater(_ spec: ContainerSpec, _ containerizer: any Containerizer) async {
        do {
            try await Task.sleep(for: configuration.removeDelay)
            try await containerizer.remove(spec)
        } catch {
            if !Task.isCancelled {
                logger.info("container not removed", metadata: ["container.id": "\(spec.id)", "error": "\(error)"])
            }
        }
    }

    // MARK: Health and checks

    private func probe(_ runner: Runner, _ order: AgentCore.LaunchOrder) async {
        guard let task = order.task else { return }
        let report = core.executor(ofContainer: order.container)?.1.report ?? ContainerReport()
        let probes = Probes(
            runner: runner, address: report.addresses.first { !$0.contains(":") } ?? report.addresses.first)
        await withTaskGroup(of: Void.self) { group in
            if task.hasHealthCheck {
                group.addTask {
                    await probes.repeatHealthCheck(task.healthCheck) { success in
                        await self.handle(.healthChecked(id: order.container, success: success))
                    }
                }
            }
            if task.hasCheck {
                group.addTask {
                    await probes.repeatCheck(task.check) { status in
                        await self.handle(.checked(id: order.container, status))
                    }
                }
            }
        }
    }
}
