import Base
import HTTPKit
import ScaleIODriver
import Testing
import VolumeDriver

@testable import VolumeService

@Suite struct ConfigurationTests {
    static let usual = """
        rexray:
          logLevel: warn
        libstorage:
          service: scaleio
          integration:
            volume:
              operations:
                mount:
                  preempt: true
                create:
                  default:
                    size: 32
                    fsType: xfs
        scaleio:
          endpoint: http://10.0.0.1:8081/api
          insecure: true
          userName: admin
          password: secret
          systemName: cluster1
          protectionDomainName: pd1
          storagePoolName: pool1
          thinOrThick: ThinProvisioned
        """

    @Test func theUsualFileIsUnderstood() throws {
        let configuration = try VolumesConfiguration(yaml: Self.usual, environment: [:])
        #expect(configuration.serviceName == "scaleio")
        #expect(configuration.scaleIO.endpoints.map(\.description) == ["http://10.0.0.1:8081/api"])
        #expect(configuration.scaleIO.isInsecure)
        #expect(configuration.scaleIO.storagePoolName == "pool1")
        #expect(configuration.volumes.defaultSize == .gibibytes(32))
        #expect(configuration.volumes.defaultFilesystem == .xfs)
        #expect(configuration.volumes.mountDirectory == "/var/lib/rexray/volumes")
        #expect(configuration.pluginNames == ["rexray", "REX-Ray"])
        #expect(configuration.listedAs == "REX-Ray")
        #expect(configuration.endpoints.contains(.tcp(host: "127.0.0.1", port: 7979)))
    }

    @Test func environmentAndFlagsWinOverTheFile() throws {
        let configuration = try VolumesConfiguration(
            yaml: Self.usual,
            environment: [
                "SCALEIO_PASSWORD": "other", "LIBSTORAGE_INTEGRATION_VOLUME_OPERATIONS_MOUNT_PREEMPT": "false",
                "REXRAY_HOME": "/opt/r",
            ],
            overrides: [("scaleio.userName", "flag"), ("holdfast.plugin.names", "one,two")])
        #expect(configuration.scaleIO.password == "other")
        #expect(configuration.scaleIO.userName == "flag")
        #expect(!configuration.volumes.preempts)
        #expect(configuration.volumes.mountDirectory == "/opt/r/var/lib/rexray/volumes")
        #expect(configuration.pluginNames == ["one", "two"])
    }

    @Test func aServicesOwnBlockShadowsTheTopLevelOne() throws {
        let configuration = try VolumesConfiguration(
            yaml: Self.usual + """

                libstorage.server.services.fast.driver: scaleio
                libstorage.server.services.fast.scaleio.storagePoolName: ssd
                """,
            environment: ["LIBSTORAGE_SERVICE": "fast"])
        #expect(configuration.serviceName == "fast")
        #expect(configuration.scaleIO.storagePoolName == "ssd")
        #expect(configuration.scaleIO.protectionDomainName == "pd1")
    }

    @Test func allFaultsAreReportedTogetherWithTheNearestName() throws {
        let error = #expect(throws: ConfigurationError.self) {
            try VolumesConfiguration(
                yaml: """
                    libstorage:
                      service: ebs
                    scaleio:
                      endpont: http://x/api
                      userName: admin
                      insecure: perhaps
                    linux.volume.filemode: 9
                    ebs:
                      whatever: 1
                    """, environment: [:])
        }
        let text = error?.message ?? ""
        #expect(error?.faults.count == 6)
        #expect(text.contains("'scaleio.endpont' is no known key; did you mean 'scaleio.endpoint'?"))
        #expect(text.contains("'scaleio.endpoint' is missing"))
        #expect(text.contains("'scaleio.password' is missing"))
        #expect(text.contains("'scaleio.insecure' is 'perhaps'"))
        #expect(text.contains("filemode"))
        #expect(text.contains("'ebs'"))
    }

    @Test func legacySpellingsAreUnderstood() throws {
        let configuration = try VolumesConfiguration(
            yaml: """
                rexray:
                  storageDrivers: [scaleio]
                volume:
                  mount: {preempt: false}
                  unmount: {ignoreusedcount: true}
                docker: {size: 8, fsType: ext4}
                scaleio: {endpoint: "http://gw/api", userName: a, password: b}
                """, environment: [:])
        #expect(!configuration.volumes.preempts)
        #expect(configuration.volumes.ignoresUsedCount)
        #expect(configuration.volumes.defaultSize == .gibibytes(8))
    }

    @Test func severalGatewaysAreListed() throws {
        func load(_ endpoint: String) throws -> [String]? {
            try VolumesConfiguration(
                yaml: "scaleio: {endpoint: \"\(endpoint)\", userName: a, password: b}", environment: [:]
            ).scaleIO.endpoints.map(\.description)
        }
        #expect(
            try load("http://10.0.0.1:8081, http://10.0.0.2:8081/api")
                == ["http://10.0.0.1:8081/api", "http://10.0.0.2:8081/api"])
        for wrong in ["http://10.0.0.1,", "http://10.0.0.1,gw", ""] {
            #expect(throws: ConfigurationError.self) { try load(wrong) }
        }
    }

    @Test(arguments: ["a: [", "just text", "- a\n- b"]) func whatIsNoConfigurationIsRefused(yaml: String) {
        #expect(throws: ConfigurationError.self) { try VolumesConfiguration(yaml: yaml, environment: [:]) }
    }

    @Test func durations() {
        #expect(ConfigurationTree.duration("1m30s") == .seconds(90))
        #expect(ConfigurationTree.duration("500ms") == .milliseconds(500))
        #expect(ConfigurationTree.duration("7") == .seconds(7))
        for wrong in ["", "x", "5y", "-1s", "1e300"] { #expect(ConfigurationTree.duration(wrong) == nil) }
    }
}

@Suite struct LedgerTests {
    @Test func anEntrySurvivesTheFile() throws {
        var entry = LedgerEntry(name: "data", volumeID: "1122334455667788", stage: .mounted, mountPoint: "/v/data")
        entry.device = "/dev/loop3"
        entry.deviceNumber = DeviceNumber(major: 7, minor: 3)
        entry.filesystem = .ext4
        entry.generation = "12"
        entry.holders = ["a", "b"]
        entry.anonymousHolders = 1
        #expect(try MountLedgerFormat.decode(MountLedgerFormat.encode([entry])) == [entry])
    }

    @Test(arguments: ["", "{}", "[]", #"{"version":2,"volumes":[]}"#, #"{"version":1,"volumes":[{"name":"x"}]}"#])
    func whatIsNoLedgerIsRefused(text: String) {
        #expect(throws: (any Error).self) { try MountLedgerFormat.decode(Array(text.utf8)) }
    }
}

@Suite struct HeaderTests {
    @Test func callersAreRecognised() {
        let metadata = encodeBase64(Array("\"ABC-1\"".utf8))
        let caller = LibStorageCaller(
            instances: ["ebs=i-1", "scaleio=,,\(metadata)"], devices: ["scaleio=AA11::/dev/x,bb::/dev/y"],
            driver: "scaleio", service: "scaleio")
        #expect(caller.metadata == "ABC-1")
        #expect(caller.instanceID == nil)
        #expect(caller.devices == ["aa11": "/dev/x", "bb": "/dev/y"])
        let qualified = LibStorageCaller(
            instances: ["scaleio:fast=id1", "scaleio=id2"], devices: ["scaleio="], driver: "scaleio", service: "fast")
        #expect(qualified.instanceID == "id1")
        #expect(qualified.devices == [:])
        #expect(
            LibStorageCaller(instances: ["=", "x"], devices: ["y"], driver: "scaleio", service: "s").devices == nil)
    }

    @Test func base64Survives() {
        for length in 0..<20 {
            let bytes = (0..<length).map { UInt8($0 * 13 & 255) }
            #expect(decodeBase64(encodeBase64(bytes)) == bytes)
        }
        #expect(decodeBase64("a*b") == nil)
    }

    @Test func deviceContentsAreRecognised() {
        var prefix = [UInt8](repeating: 0, count: DeviceContents.prefixLength)
        #expect(DeviceContents(prefix: prefix) == .blank)
        prefix[0x438] = 0x53
        prefix[0x439] = 0xEF
        #expect(DeviceContents(prefix: prefix) == .filesystem(.ext4, needsCheck: false))
        prefix[0x43A] = 2
        #expect(DeviceContents(prefix: prefix) == .filesystem(.ext4, needsCheck: true))
        var other = [UInt8](repeating: 0, count: DeviceContents.prefixLength)
        other[DeviceContents.prefixLength - 1] = 1
        #expect(DeviceContents(prefix: other) == .foreign("data of an unknown kind"))
    }
}
