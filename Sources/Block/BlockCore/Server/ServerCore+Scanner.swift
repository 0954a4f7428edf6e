import Base

/// Looking for damage that nobody has read yet: unit by unit, each primary examines what rests on its devices.
///
/// Units that are being written are passed over: their turn comes when they rest.
extension ServerCore {
    struct Scan {
        /// Where the next unit is looked for.
        var slot: UInt32 = 0
        /// When what was read so far is paid for.
        var paidAt = Instant.zero
    }

    /// Slots looked at in one go for a unit to examine.
    private static let slotsPerLook: UInt32 = 4096

    mutating func tickScans(_ now: Instant, _ actions: inout [ServerAction]) {
        for index in stores.indices where now >= scans[index].paidAt && stores[index].stopReason == nil {
            // Two copies of something are more urgent than the certainty that both are good.
            guard examinations.isEmpty, rebuilds.isEmpty else { return }
            scan(index, now, &actions)
        }
    }

    private mutating func scan(_ index: Int, _ now: Instant, _ actions: inout [ServerAction]) {
        let place = CopyPlace(sds: sds, device: devices[index])
        let end = min(scans[index].slot + ServerCore.slotsPerLook, stores[index].label.capacityUnits)
        while scans[index].slot < end {
            let slot = scans[index].slot
            scans[index].slot += 1
            guard let unit = stores[index].restingUnit(inSlot: slot), queues[unit.family] == nil,
                let key = map.combKey(of: unit), let comb = map.comb(key), comb.primary == place,
                case .normal = comb.state
            else { continue }
            let settings = map.pools[key.pool]?.settings ?? PoolSettings()
            if settings.scannerMode == .disabled { continue }
            // Both copies are read, and of other combs this device has the other one.
            let bytes = UInt64(stores[index].map(of: unit).count) * UInt64(Geometry.blockBytes) * 2
            let rate = UInt64(max(1, settings.scannerKibibytesPerSecond)) * 1024
            scans[index].paidAt = now + .nanoseconds(Int64(clamping: bytes * 1_000_000_000 / rate))
            integrity[index].scannedUnits += 1
            begin(examining: unit, key, index, isComparing: settings.scannerMode == .dataComparison)
            return startExaminations(now, &actions)
        }
        if scans[index].slot >= stores[index].label.capacityUnits {
            scans[index].slot = 0
            integrity[index].passes += 1
        }
        scans[index].paidAt = now + .seconds(1)
    }
}
