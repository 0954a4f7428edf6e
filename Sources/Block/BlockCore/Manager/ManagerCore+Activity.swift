import Base

extension ManagerConfiguration {
    /// How long a server that was declared down for the `count`-th time in a short while gets no copies.
    func oscillationPause(after count: Int) -> Duration {
        guard count >= oscillationThreshold else { return .zero }
        return min(oscillationPauseMax, .seconds(5) * (1 << min(count - oscillationThreshold, 6)))
    }
}

extension ManagerCore {
    /// What a device had done at some moment.
    struct Sample {
        var at: Instant
        var counters: IOCounters
    }

    /// Rates are taken over at least so long.
    private static let activityWindow = Duration.seconds(5)

    /// Takes what a server told of damage; an operator reads of it once in a while, not of every block.
    mutating func note(
        _ integrity: DeviceIntegrity, of device: DeviceID, _ now: Instant, _ actions: inout [ManagerAction]
    ) {
        state.integrity[device] = integrity
        guard let (told, at) = integrityTold[device], integrity.found >= told.found, integrity.mended >= told.mended
        else {
            // The first word of it, or of the server's next run.
            integrityTold[device] = (integrity, now)
            return
        }
        guard now - at >= ManagerCore.activityWindow else { return }
        if integrity.found > told.found {
            actions.append(.notice(.damageFound(device, blocks: integrity.found - told.found)))
        }
        if integrity.mended > told.mended {
            actions.append(.notice(.damageMended(device, blocks: integrity.mended - told.mended)))
        }
        integrityTold[device] = (integrity, now)
    }

    /// Takes what a server told of one of its devices.
    mutating func sample(_ usage: DeviceUsage, _ now: Instant) {
        guard let last = samples[usage.device], usage.counters.isAtLeast(last.counters) else {
            // The first word of it, or of the server's next run.
            samples[usage.device] = Sample(at: now, counters: usage.counters)
            return
        }
        let elapsed = now - last.at
        guard elapsed >= ManagerCore.activityWindow else { return }
        state.activity[usage.device] = Activity(
            seconds: UInt64(elapsed.components.seconds), counters: usage.counters.since(last.counters))
        samples[usage.device] = Sample(at: now, counters: usage.counters)
    }
}
