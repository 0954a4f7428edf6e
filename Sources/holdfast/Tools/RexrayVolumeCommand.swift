import ArgumentParser
import Base
import VolumeService

struct RexrayVolumeCommand: AsyncParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "volume", abstract: "Lists, makes, attaches and mounts volumes.",
        subcommands: [List.self, Create.self, Remove.self, Attach.self, Detach.self, Mount.self, Unmount.self])

    /// The mount id of the command line: mounting twice by hand is one mount.
    static let holder = "rexray-cli"

    struct Output: ParsableArguments {
        @OptionGroup var global: RexrayGlobalOptions

        @Option(name: .shortAndLong, help: "tmpl (a table), json or jsonp.")
        var format = "tmpl"

        @Flag(name: .shortAndLong, help: "Prints only the first column.")
        var quiet = false

        @Flag(name: [.customShort("n"), .customLong("dryRun")], help: "Shows what would be done.")
        var isDryRun = false

        @Flag(name: [.customShort("i"), .customLong("idempotent")], help: "What is done already is no error.")
        var isIdempotent = false

        @Flag(name: .customLong("continueOnError"), help: "Goes on with the next volume after an error.")
        var continuesOnError = false

        func validate() throws {
            guard ["tmpl", "json", "jsonp"].contains(format) else {
                throw ValidationError("'--format \(format)' is not supported: use tmpl, json or jsonp")
            }
        }

        func show(_ volumes: [JSONValue], withPath: Bool = false) {
            let text: String =
                switch format {
                case "json": JSONValue.array(withPath ? volumes.map(RexrayOutput.withPath) : volumes).text + "\n"
                case "jsonp": JSONValue.array(withPath ? volumes.map(RexrayOutput.withPath) : volumes).prettyText + "\n"
                default: RexrayOutput.volumes(volumes, withPath: withPath, quiet: quiet)
                }
            RexrayGlobalOptions.show(text)
        }

        /// The volumes that `arguments` name, of those that `mask` lets through.
        static func select(
            _ arguments: [String], _ client: LibStorageClient, mask: Int, allowsPrefixes: Bool = true
        ) async throws -> [JSONValue] {
            let volumes = try await client.volumes(attachments: mask)
            guard let chosen = RexraySelection.select(arguments, from: volumes, allowsPrefixes: allowsPrefixes),
                arguments.isEmpty || !chosen.isEmpty
            else { throw RexrayFailure(message: "no volumes found") }
            return chosen
        }

        /// Does `action` to each volume; shows what was done even if one fails midway, and then the error.
        func forEach(
            _ volumes: [JSONValue], show: ([JSONValue]) -> Void, _ action: (JSONValue) async throws -> JSONValue
        ) async throws {
            var done: [JSONValue] = []
            var failure: (any Error)?
            for volume in volumes {
                do {
                    done.append(isDryRun ? volume : try await action(volume))
                } catch {
                    if failure == nil { failure = error }
                    if !continuesOnError { break }
                }
            }
            if !done.isEmpty { show(done) }
            if let failure { throw failure }
        }
    }

    struct List: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "ls", abstract: "Lists volumes.", aliases: ["l", "list", "get", "inspect"])

        @Argument(help: "Ids or names, or their beginnings.") var volumes: [String] = []
        @OptionGroup var output: Output
        @Flag(help: "Only volumes that are attached to this host.") var attached = false
        @Flag(help: "Only volumes that are attached to nobody.") var available = false
        @Flag(help: "Shows where volumes are mounted.") var path = false

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                let mask = attached ? 11 : available ? 17 : path ? 15 : 1
                // The status "attached" needs to know this host; the mask 1 asks for no more than there is.
                output.show(try await Output.select(volumes, client, mask: mask), withPath: path)
            }
        }
    }

    struct Create: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "create", abstract: "Creates volumes.", aliases: ["c", "n", "new"])

        @Argument(help: "Names.") var names: [String]
        @OptionGroup var output: Output
        @Option(help: "The size in GB.") var size: Int?
        @Option(name: .customLong("volumeType"), help: "For ScaleIO the storage pool.") var type: String?
        @Option(name: .customLong("iops"), help: "Operations per second.") var iops: Int?
        @Option(name: .customLong("availabilityZone"), help: "For ScaleIO the protection domain.") var zone: String?
        @Flag(help: "Attaches the volume to this host.") var attach = false
        @Flag(name: .customLong("amount"), help: "Attaches and mounts the volume on this host.") var mount = false
        @Option(name: .customLong("fsType"), help: "The filesystem to make: ext4 or xfs.") var filesystem: String?
        @Flag(name: .customLong("overwriteFS"), help: "Formats whatever the volume holds.") var overwrites = false

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                let requests = names.map { name -> JSONValue in
                    var request: JSONValue = ["name": .string(name)]
                    if let size { request["size"] = .integer(Int64(size)) }
                    if let type { request["type"] = .string(type) }
                    if let zone { request["availabilityZone"] = .string(zone) }
                    if let iops { request["iops"] = .integer(Int64(iops)) }
                    return request
                }
                try await output.forEach(requests) {
                    output.show($0)
                } _: { request in
                    let volume = try await client.create(request)
                    let name = volume["name"]?.string ?? ""
                    if mount {
                        _ = try await client.mount(
                            name: name, holder: RexrayVolumeCommand.holder, preempt: nil, filesystem: filesystem,
                            overwrite: overwrites)
                    } else if attach {
                        _ = try await client.attach(volume["id"]?.string ?? "", force: false)
                    }
                    return try await Output.select([name], client, mask: 1).first ?? volume
                }
            }
        }
    }

    struct Remove: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "rm", abstract: "Removes volumes and their data.", aliases: ["r", "remove", "delete", "del"])

        @Argument(help: "Ids or names.") var volumes: [String]
        @OptionGroup var output: Output
        @Flag(help: "Detaches volumes that are attached.") var force = false

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                let chosen = try await Output.select(volumes, client, mask: 0, allowsPrefixes: false)
                try await output.forEach(chosen) { removed in
                    RexrayGlobalOptions.show(removed.map { ($0["name"]?.string ?? "") + "\n" }.sorted().joined())
                } _: { volume in
                    try await client.remove(volume["id"]?.string ?? "", force: force)
                    return volume
                }
            }
        }
    }

    struct Attach: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "attach", abstract: "Attaches volumes to this host.", aliases: ["a"])

        @Argument(help: "Ids or names.") var volumes: [String]
        @OptionGroup var output: Output
        @Flag(help: "Takes the volume from the host that holds it.") var force = false

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                let mask = force ? 1 : output.isIdempotent ? 27 : 17
                let chosen = try await Output.select(volumes, client, mask: mask)
                try await output.forEach(chosen) {
                    output.show($0)
                } _: { volume in
                    if output.isIdempotent || force, volume["attachmentState"]?.integer == 2 { return volume }
                    return try await client.attach(volume["id"]?.string ?? "", force: force)["volume"] ?? volume
                }
            }
        }
    }

    struct Detach: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "detach", abstract: "Detaches volumes from this host.", aliases: ["d"])

        @Argument(help: "Ids or names.") var volumes: [String]
        @OptionGroup var output: Output
        @Flag(help: "Detaches the volume from whatever host holds it.") var force = false

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                let chosen = try await Output.select(volumes, client, mask: output.isIdempotent ? 27 : 9)
                try await output.forEach(chosen) {
                    output.show($0)
                } _: { volume in
                    if output.isIdempotent, volume["attachmentState"]?.integer == 3 { return volume }
                    _ = try await client.detach(volume["id"]?.string ?? "", force: force)
                    let id = volume["id"]?.string ?? ""
                    return try await Output.select([id], client, mask: 1).first ?? volume
                }
            }
        }
    }

    struct Mount: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "mount", abstract: "Mounts volumes on this host.", aliases: ["m"])

        @Argument(help: "Ids or names.") var volumes: [String]
        @OptionGroup var output: Output
        @Option(name: .customLong("fsType"), help: "The filesystem to make on a blank volume.") var filesystem: String?
        @Flag(name: .customLong("overwriteFS"), help: "Formats whatever the volume holds.") var overwrites = false

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                // With pre-emption a volume of another host can be mounted too.
                let chosen = try await Output.select(volumes, client, mask: 1)
                try await output.forEach(chosen) {
                    output.show($0, withPath: true)
                } _: { volume in
                    _ = try await client.mount(
                        name: volume["name"]?.string ?? "", holder: RexrayVolumeCommand.holder, preempt: nil,
                        filesystem: filesystem, overwrite: overwrites)
                    return try await Output.select([volume["id"]?.string ?? ""], client, mask: 15).first ?? volume
                }
            }
        }
    }

    struct Unmount: AsyncParsableCommand {
        static let configuration = CommandConfiguration(
            commandName: "unmount", abstract: "Unmounts volumes on this host.", aliases: ["u", "umount"])

        @Argument(help: "Ids or names.") var volumes: [String]
        @OptionGroup var output: Output

        func run() async throws {
            try await output.global.withClient { [self] client, _ in
                let chosen = try await Output.select(volumes, client, mask: output.isIdempotent ? 27 : 11)
                try await output.forEach(chosen) {
                    output.show($0)
                } _: { volume in
                    try await client.unmount(
                        name: volume["name"]?.string ?? "", holder: RexrayVolumeCommand.holder)
                    return try await Output.select([volume["id"]?.string ?? ""], client, mask: 1).first ?? volume
                }
            }
        }
    }
}

/// What the command line says before it ends with status 1.
struct RexrayFailure: CodedError {
    enum Code: Hashable {
        case failed
    }

    var code: Code { .failed }
    var message: String
    var cause: (any Error)? { nil }
}
