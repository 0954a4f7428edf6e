// swift-tools-version: 6.3
import PackageDescription

// The house: a folder is a wing, a target is a room, and dependencies point down (docs/architecture.md).
// A room may name only rooms of its own wing, of Ground, or of another wing's port.

/// One room of the house. `optimised` asks for optimisation also in debug builds, without which the block data path is
/// unusable, and for no checks of exclusive access at run time, which would take a twentieth of it (the compiler's remain).
func room(
    _ name: String, in wing: String, _ dependencies: [Target.Dependency] = [], exclude: [String] = [],
    optimised: Bool = false
) -> Target {
    .target(
        name: name,
        dependencies: dependencies,
        path: wing.isEmpty ? "Sources/\(name)" : "Sources/\(wing)/\(name)",
        exclude: exclude,
        swiftSettings: optimised
            ? [.unsafeFlags(["-O"], .when(configuration: .debug)), .unsafeFlags(["-enforce-exclusivity=unchecked"])]
            : [])
}

func tests(_ name: String, _ dependencies: [Target.Dependency], resources: [Resource] = []) -> Target {
    .testTarget(name: name, dependencies: dependencies, path: "Tests/\(name)", resources: resources)
}

let nio: Target.Dependency = .product(name: "NIOCore", package: "swift-nio")
let nioPosix: Target.Dependency = .product(name: "NIOPosix", package: "swift-nio")
let nioHTTP1: Target.Dependency = .product(name: "NIOHTTP1", package: "swift-nio")
let hummingbird: Target.Dependency = .product(name: "Hummingbird", package: "hummingbird")
let hummingbirdTLS: Target.Dependency = .product(name: "HummingbirdTLS", package: "hummingbird")
let httpClient: Target.Dependency = .product(name: "AsyncHTTPClient", package: "async-http-client")
let httpTypes: Target.Dependency = .product(name: "HTTPTypes", package: "swift-http-types")
let protobuf: Target.Dependency = .product(name: "SwiftProtobuf", package: "swift-protobuf")
let lifecycle: Target.Dependency = .product(name: "ServiceLifecycle", package: "swift-service-lifecycle")
let unixSignals: Target.Dependency = .product(name: "UnixSignals", package: "swift-service-lifecycle")
let logging: Target.Dependency = .product(name: "Logging", package: "swift-log")
let metrics: Target.Dependency = .product(name: "Metrics", package: "swift-metrics")
let coreMetrics: Target.Dependency = .product(name: "CoreMetrics", package: "swift-metrics")
let grdb: Target.Dependency = .product(name: "GRDB", package: "GRDB.swift")
let yams: Target.Dependency = .product(name: "Yams", package: "Yams")
let arguments: Target.Dependency = .product(name: "ArgumentParser", package: "swift-argument-parser")
let orderedCollections: Target.Dependency = .product(name: "OrderedCollections", package: "swift-collections")
let deque: Target.Dependency = .product(name: "DequeModule", package: "swift-collections")

let ground: [Target] = [
    .target(name: "CLinux", path: "Sources/Ground/CLinux"),
    .target(
        name: "CZooKeeper", path: "Sources/Ground/CZooKeeper", linkerSettings: [.linkedLibrary("zookeeper_mt")]),
    .target(name: "CURing", path: "Sources/Ground/CURing", linkerSettings: [.linkedLibrary("uring")]),
    room("Base", in: "Ground", [orderedCollections], optimised: true),
    room("Linearizability", in: "Ground", optimised: true),
    room("Telemetry", in: "Ground", ["Base", logging, metrics, coreMetrics]),
    room(
        "HTTPKit", in: "Ground",
        [
            "Base", "Telemetry", hummingbird, hummingbirdTLS, httpTypes, httpClient, nio, nioPosix, nioHTTP1, lifecycle,
            logging,
        ]),
    room("Coordination", in: "Ground", ["Base", "LinuxOS", "CZooKeeper", grdb, logging]),
    room("LinuxOS", in: "Ground", ["Base", "CLinux", logging]),
]

let cluster: [Target] = [
    room("MesosAPI", in: "Cluster", ["Base", protobuf, orderedCollections], exclude: ["Protos"]),
    room("Resources", in: "Cluster", ["Base", "MesosAPI"]),
    room("Allocator", in: "Cluster", ["Base", "MesosAPI", "Resources"]),
    room("MasterCore", in: "Cluster", ["Base", "MesosAPI", "Resources", "Allocator"]),
    room(
        "Master", in: "Cluster",
        [
            "MasterCore", "Base", "MesosAPI", "Resources", "Allocator", "HTTPKit", "Coordination",
            hummingbird, httpTypes, lifecycle, logging, protobuf, orderedCollections,
        ]),
    .executableTarget(name: "holdfast-task", path: "Sources/Cluster/TaskRunner"),
    room("MasterLocator", in: "Cluster", ["Base", "HTTPKit", "Coordination", "LinuxOS"]),
    room("AgentCore", in: "Cluster", ["Base", "MesosAPI", orderedCollections]),
    room(
        "Containerizer", in: "Cluster",
        [
            "AgentCore", "Base", "MesosAPI", "HTTPKit", "LinuxOS", logging, httpClient, nio, nioHTTP1,
            orderedCollections,
        ]),
    room(
        "Agent", in: "Cluster",
        [
            "AgentCore", "Containerizer", "MasterLocator", "Base", "MesosAPI", "Resources", "Telemetry", "HTTPKit",
            "LinuxOS",
            hummingbird, httpTypes, httpClient, lifecycle, logging, protobuf, nio, nioPosix, nioHTTP1,
            orderedCollections,
        ]),
    room(
        "MesosClient", in: "Cluster",
        ["MasterLocator", "Base", "MesosAPI", "HTTPKit", httpClient, nio, nioHTTP1, logging]),
]

let schedulers: [Target] = [
    room("MarathonCore", in: "Schedulers", ["Base", "MesosAPI", orderedCollections, protobuf]),
    room(
        "Marathon", in: "Schedulers",
        [
            "MarathonCore", "MesosClient", "MasterLocator", "Base", "MesosAPI", "Telemetry", "HTTPKit", "Coordination",
            hummingbird, httpTypes, httpClient, lifecycle, logging, nio, nioHTTP1, nioPosix, orderedCollections,
            protobuf,
        ]),
]

let volumes: [Target] = [
    room("VolumeDriver", in: "Volumes", ["Base", "LinuxOS", logging]),
    room(
        "ScaleIODriver", in: "Volumes", ["VolumeDriver", "Base", "HTTPKit", nio, nioPosix, nioHTTP1, logging]),
    room(
        "VolumeService", in: "Volumes",
        [
            "VolumeDriver", "ScaleIODriver", "Base", "HTTPKit", "LinuxOS", hummingbird, httpTypes,
            lifecycle, logging, yams, orderedCollections,
        ]),
]

let block: [Target] = [
    room("BlockCore", in: "Block", ["Base"], optimised: true),
    .target(name: "CBlockIO", path: "Sources/Block/CBlockIO"),
    room("BlockIO", in: "Block", ["BlockCore", "Base", "CBlockIO", "CURing", logging], optimised: true),
    room(
        "BlockManager", in: "Block",
        ["BlockCore", "BlockIO", "Base", "Coordination", lifecycle, logging]),
    room(
        "BlockServer", in: "Block",
        ["BlockCore", "BlockIO", "CBlockIO", "Base", "LinuxOS", lifecycle, logging],
        optimised: true),
    room(
        "BlockClient", in: "Block",
        ["BlockCore", "BlockIO", "CBlockIO", "Base", "CURing", "LinuxOS", lifecycle, logging],
        optimised: true),
    room(
        "Gateway", in: "Block",
        [
            "BlockCore", "Base", "Coordination", "HTTPKit", "LinuxOS", hummingbird, httpTypes, lifecycle, logging, nio,
            nioHTTP1, orderedCollections,
        ]),
    room("SimKit", in: "Block", ["BlockCore", "Base", "Linearizability"], optimised: true),
    room("StorageTools", in: "Block", ["Base", "HTTPKit", nio, nioPosix, nioHTTP1]),
]

let top: [Target] = [
    room(
        "Lab", in: "",
        [
            "Base", "LinuxOS", "CLinux", "HTTPKit", "CBlockIO", "BlockCore", "BlockIO", "BlockClient",
            nioHTTP1, logging, yams,
        ]),
    .executableTarget(
        name: "holdfast",
        dependencies: [
            "Base", "Telemetry", "HTTPKit", "Coordination", "LinuxOS",
            "MesosAPI", "Resources", "Master", "MasterLocator", "AgentCore", "MasterCore", "Allocator", "Agent",
            "MesosClient",
            "Marathon", "MarathonCore",
            "VolumeDriver", "ScaleIODriver", "VolumeService",
            "BlockCore", "BlockIO", "BlockManager", "BlockServer", "BlockClient", "Gateway", "StorageTools", "SimKit",
            "Lab",
            nioHTTP1, arguments, lifecycle, unixSignals, logging, yams,
        ]),
]

let testing: [Target] = [
    .target(
        name: "TestKit", dependencies: ["Base", "LinuxOS", "HTTPKit", "Lab", hummingbird, lifecycle, logging],
        path: "Tests/TestKit"),
    tests("BaseTests", ["Base"]),
    tests("LinearizabilityTests", ["Linearizability", "Base"]),
    tests(
        "HTTPKitTests",
        ["HTTPKit", "Base", "TestKit", logging, hummingbird, httpTypes, httpClient, nio, nioHTTP1]),
    tests("TelemetryTests", ["Telemetry", "Base", logging, metrics, coreMetrics]),
    tests("CoordinationTests", ["Coordination", "Base", "LinuxOS", "TestKit", logging]),
    tests("LinuxOSTests", ["LinuxOS", "Base", "TestKit"]),
    tests("MesosAPITests", ["MesosAPI", "Base", protobuf]),
    tests("ResourcesTests", ["Resources", "MesosAPI", "Base"]),
    tests("AllocatorTests", ["Allocator", "Resources", "MesosAPI", "Base"]),
    tests("MasterCoreTests", ["MasterCore", "Allocator", "Resources", "MesosAPI", "Base"]),
    tests(
        "MasterTests",
        [
            "Master", "MasterCore", "MasterLocator", "Agent", "AgentCore", "Containerizer", "MesosAPI", "Base",
            "HTTPKit", "Coordination", "TestKit", logging, lifecycle, "MesosClient", orderedCollections, httpClient,
            nio, nioHTTP1,
            protobuf,
        ]),
    tests("MasterLocatorTests", ["MasterLocator", "Base", "HTTPKit", "TestKit"]),
    tests(
        "AgentTests",
        [
            "Agent", "MasterLocator", "MesosAPI", "Base", "HTTPKit", "TestKit", hummingbird, httpTypes, logging,
            lifecycle,
            nioHTTP1, protobuf,
        ]),
    tests("AgentCoreTests", ["AgentCore", "MesosAPI", "Resources", "Base", orderedCollections]),
    tests(
        "ContainerizerTests",
        [
            "Containerizer", "AgentCore", "MesosAPI", "Base", "HTTPKit", "LinuxOS", "TestKit", logging,
            orderedCollections,
        ]),
    tests("MarathonCoreTests", ["MarathonCore", "MesosAPI", "Base", orderedCollections]),
    tests(
        "MarathonTests",
        [
            "Marathon", "MarathonCore", "MasterLocator", "MesosAPI", "Base", "HTTPKit", "Coordination", "TestKit",
            logging, lifecycle, hummingbird, httpClient, httpTypes, nio, nioHTTP1,
        ]),
    tests(
        "VolumeServiceTests",
        [
            "VolumeService", "ScaleIODriver", "VolumeDriver", "Base", "HTTPKit", "LinuxOS", "TestKit", logging,
            lifecycle, nioHTTP1, hummingbird, orderedCollections,
        ]),
    tests(
        "ScaleIODriverTests",
        [
            "ScaleIODriver", "VolumeDriver", "Base", "HTTPKit", "TestKit", logging, hummingbird, httpTypes, nio,
            nioPosix,
        ]),
    tests("BlockIOTests", ["BlockIO", "CBlockIO", "Base", "CURing", "LinuxOS", "TestKit"]),
    tests("BlockCoreTests", ["BlockCore", "Base"]),
    tests("BlockSimulationTests", ["SimKit", "BlockCore", "Base", "Linearizability"]),
    tests(
        "BlockManagerTests",
        ["BlockManager", "BlockCore", "BlockIO", "Base", "Coordination", "TestKit", logging, lifecycle]),
    tests("BlockServerTests", ["BlockServer", "BlockCore", "BlockIO", "Base", "TestKit", logging, lifecycle]),
    tests(
        "BlockClientTests",
        [
            "BlockClient", "BlockServer", "BlockManager", "BlockCore", "BlockIO", "Coordination", "Base", "LinuxOS",
            "TestKit", "HTTPKit", logging, lifecycle,
        ]),
    tests(
        "GatewayTests",
        [
            "Gateway", "StorageTools", "BlockManager", "BlockIO", "BlockCore", "Base", "Coordination", "HTTPKit",
            "LinuxOS", "TestKit", logging, lifecycle, httpTypes, hummingbird, nioHTTP1,
        ]),
    tests(
        "StorageToolsTests",
        ["StorageTools", "Base", "HTTPKit", "TestKit", logging, hummingbird, httpTypes, nio, nioPosix]),
    tests("ExecutableTests", ["TestKit", "LinuxOS", "holdfast"]),
    tests("LabTests", ["Lab", "Base", "LinuxOS", "TestKit"]),
    tests(
        "SystemTests",
        ["TestKit", "LinuxOS", "HTTPKit", "Coordination", "Base", "holdfast", "holdfast-task", nioHTTP1]),
]

let package = Package(
    name: "holdfast",
    products: [.executable(name: "holdfast", targets: ["holdfast"])],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.2"),
        .package(url: "https://github.com/apple/swift-collections", from: "1.6.0"),
        .package(url: "https://github.com/apple/swift-http-types", from: "1.8.0"),
        .package(url: "https://github.com/apple/swift-log", from: "1.16.2"),
        .package(url: "https://github.com/apple/swift-metrics", from: "2.13.0"),
        .package(url: "https://github.com/apple/swift-nio", from: "2.101.2"),
        .package(url: "https://github.com/apple/swift-protobuf", from: "1.39.0", traits: []),
        .package(url: "https://github.com/groue/GRDB.swift", from: "7.10.0"),
        .package(url: "https://github.com/hummingbird-project/hummingbird", from: "2.28.1", traits: []),
        .package(url: "https://github.com/jpsim/Yams", from: "6.2.2"),
        .package(url: "https://github.com/swift-server/async-http-client", from: "1.37.0"),
        .package(url: "https://github.com/swift-server/swift-service-lifecycle", from: "2.13.0"),
    ],
    targets: ground + cluster + schedulers + volumes + block + top + testing,
    swiftLanguageModes: [.v6]
)

let clangTargets = ["CLinux", "CURing", "CZooKeeper", "CBlockIO", "holdfast-task"]
for target in package.targets where target.type != .system && !clangTargets.contains(target.name) {
    target.swiftSettings =
        (target.swiftSettings ?? []) + [
            .enableUpcomingFeature("ExistentialAny"),
            .enableUpcomingFeature("MemberImportVisibility"),
            .enableUpcomingFeature("InternalImportsByDefault"),
            .enableUpcomingFeature("NonisolatedNonsendingByDefault"),
            .treatAllWarnings(as: .error),
        ]
}
