/// The keys of REX-Ray's config.yml that are understood, and those that are known but have no meaning here.
///
/// `*` stands for any one name. Keys are compared without regard to case.
enum ConfigurationKeys {
    enum Kind: Hashable {
        case text, number, flag, duration, list
        /// Known to REX-Ray: accepted with any value and not used.
        case ignored
    }

    static let operations = "libstorage.integration.volume.operations"

    static let all: [(pattern: String, kind: Kind)] =
        generalKeys + operationKeys.map { (pattern: operations + "." + $0.pattern, kind: $0.kind) }
        + scaleIOKeys.map { (pattern: "scaleio." + $0.pattern, kind: $0.kind) }
        + scaleIOKeys.map { (pattern: "libstorage.server.services.*.scaleio." + $0.pattern, kind: $0.kind) }

    private static let generalKeys: [(pattern: String, kind: Kind)] =
        [
            ("libstorage.host", .text), ("libstorage.service", .text), ("libstorage.embedded", .ignored),
            ("libstorage.disabled", .ignored), ("libstorage.client.type", .ignored),
            ("libstorage.client.auth.token", .ignored), ("libstorage.client.cache.instanceID", .ignored),
            ("libstorage.client.tls", .ignored), ("libstorage.tls.*", .ignored), ("libstorage.tls", .ignored),
            ("libstorage.server.endpoints.*.address", .text), ("libstorage.server.endpoints.*.tls", .ignored),
            ("libstorage.server.autoEndpointMode", .ignored), ("libstorage.server.services.*.driver", .text),
            ("libstorage.server.auth.*", .ignored), ("libstorage.server.parseRequestOpts", .ignored),
            ("libstorage.server.tasks.exeTimeout", .duration), ("libstorage.server.tasks.logTimeout", .duration),
            ("libstorage.http.*", .ignored), ("libstorage.logging.*", .ignored),
            ("libstorage.device.attachTimeout", .duration), ("libstorage.device.scanType", .ignored),
            ("libstorage.executor.*", .ignored), ("libstorage.storage.driver", .text),
            ("libstorage.os.driver", .ignored), ("libstorage.integration.driver", .ignored),
            ("integration.driver", .ignored), ("linux.volume.filemode", .text), ("linux.volume.rootpath", .text),
            ("rexray.logLevel", .text), ("rexray.loglevel", .text), ("rexray.module.startTimeout", .ignored),
            ("rexray.modules.*.type", .ignored), ("rexray.modules.*.host", .text), ("rexray.modules.*.spec", .ignored),
            ("rexray.modules.*.desc", .ignored), ("rexray.modules.*.disabled", .flag),
            ("rexray.storageDrivers", .list), ("rexray.volumeDrivers", .ignored), ("rexray.osDrivers", .ignored),
            ("rexray.docker.mount.path", .ignored), ("csi.*", .ignored),
            ("volume.mount.preempt", .flag), ("volume.create.disable", .flag), ("volume.remove.disable", .flag),
            ("volume.unmount.ignoreusedcount", .flag), ("volume.path.cache", .ignored),
            ("docker.fsType", .text), ("docker.volumeType", .text), ("docker.iops", .number), ("docker.size", .number),
            ("docker.availabilityZone", .text), ("docker.mountDirPath", .text),
            ("holdfast.plugin.directory", .text), ("holdfast.plugin.names", .list),
            ("holdfast.plugin.listedAs", .text), ("holdfast.mount.options", .list),
            ("holdfast.sweepInterval", .duration),
        ]

    private static let operationKeys: [(pattern: String, kind: Kind)] = [
        ("mount.preempt", .flag), ("mount.path", .text), ("mount.rootPath", .text), ("mount.retryCount", .ignored),
        ("mount.retryWait", .ignored), ("unmount.ignoreusedcount", .flag), ("path.cache.enabled", .ignored),
        ("path.cache.async", .ignored), ("path.cache", .ignored), ("create.disable", .flag), ("create.implicit", .flag),
        ("create.default.size", .number), ("create.default.fsType", .text), ("create.default.availabilityZone", .text),
        ("create.default.type", .text), ("create.default.IOPS", .number), ("remove.disable", .flag),
        ("remove.force", .flag),
    ]

    private static let scaleIOKeys: [(pattern: String, kind: Kind)] = [
        ("endpoint", .text), ("insecure", .flag), ("useCerts", .ignored), ("userID", .text), ("userName", .text),
        ("password", .text), ("systemID", .text), ("systemName", .text), ("protectionDomainID", .text),
        ("protectionDomainName", .text), ("storagePoolID", .text), ("storagePoolName", .text), ("thinOrThick", .text),
        ("version", .ignored), ("apiVersion", .ignored), ("guid", .text), ("drvCfg", .ignored),
        ("controlSocket", .text), ("deviceDirectory", .text), ("callDeadline", .duration),
    ]

    /// Sections of storage platforms that REX-Ray has and this service does not: left alone, so that a shared file can
    /// be used.
    static let foreignSections: Set<String> = [
        "ebs", "ec2", "aws", "efs", "gcepd", "cinder", "rbd", "isilon", "virtualbox", "vfs", "azureud", "dobs", "s3fs",
        "fittedcloud", "xtremio", "vmax", "rackspace", "openstack", "gce", "flexrex", "env",
    ]

    /// The kind of the key `path`, lower case and joined by dots; nil when it is unknown.
    static func kind(of path: String) -> Kind? {
        let parts = path.split(separator: ".", omittingEmptySubsequences: false)
        return all.first { entry in
            let pattern = entry.pattern.lowercased().split(separator: ".")
            return pattern.count == parts.count && zip(pattern, parts).allSatisfy { $0 == "*" || $0 == $1 }
        }?.kind
    }

    /// The known key that looks most like `path`; nil when none is close.
    static func nearest(to path: String) -> String? {
        var best: (key: String, distance: Int)?
        for (pattern, _) in all where !pattern.contains("*") {
            let distance = editDistance(Array(path.utf8), Array(pattern.lowercased().utf8))
            if distance < best?.distance ?? Int.max { best = (pattern, distance) }
        }
        guard let best, best.distance <= max(2, path.utf8.count / 4) else { return nil }
        return best.key
    }

    private static func editDistance(_ left: [UInt8], _ right: [UInt8]) -> Int {
        var row = Array(0...right.count)
        for (i, a) in left.enumerated() {
            var diagonal = row[0]
            row[0] = i + 1
            for (j, b) in right.enumerated() {
                let substitution = diagonal + (a == b ? 0 : 1)
                diagonal = row[j + 1]
                row[j + 1] = min(substitution, row[j] + 1, diagonal + 1)
            }
        }
        return row[right.count]
    }
}
