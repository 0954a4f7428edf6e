import Base
import HTTPKit
import NIOCore
import NIOPosix

/// `drv_cfg`, the client host's configuration tool: asks the SDC of this host over its control socket.
public struct DrvCfg: Sendable {
    public static let controlSocketDefault = "/run/holdfast/sdc.sock"
    public static let help = """
        Usage: drv_cfg COMMAND
          --query_guid   the GUID of this host's storage client
          --query_mdms   the managers that it knows
          --query_vols   the volumes that are mapped to it
          --rescan       ask the manager again for mapped volumes

        """

    private let socket: String

    public init(socket: String) { self.socket = socket }

    /// Runs one command line. Exit codes: 0 done, 1 wrong usage or no answer.
    public func run(_ arguments: [String]) async -> ToolResult {
        guard arguments.count == 1, let argument = arguments.first else {
            return ToolResult(exitCode: 1, errors: "Error: one command is needed\n" + Self.help)
        }
        do {
            switch argument {
            case "--help", "-h": return ToolResult(output: Self.help)
            case "--query_guid":
                let answer = try await ask("query_guid")
                guard let guid = answer["guid"]?.string else { throw Failure(message: "The SDC knows no GUID") }
                return ToolResult(output: guid + "\n")
            case "--query_mdm", "--query_mdms": return ToolResult(output: managers(try await ask("query_mdms")))
            case "--query_vols": return ToolResult(output: volumes(try await ask("query_vols")))
            case "--rescan":
                _ = try await ask("rescan")
                return ToolResult(output: "Calling kernel module to refresh MDM configuration information\n")
            default:
                return ToolResult(exitCode: 1, errors: "Error: unknown command \(argument)\n" + Self.help)
            }
        } catch {
            return ToolResult(exitCode: 1, errors: "Error: \(error)\n")
        }
    }

    struct Failure: Error, CustomStringConvertible {
        var message: String
        var description: String { message }
    }

    private func managers(_ answer: JSONValue) -> String {
        let managers = answer["mdms"]?.array ?? []
        var text = "Retrieved \(managers.count) mdm(s)\n"
        for manager in managers {
            let addresses = (manager["ips"]?.array ?? []).compactMap(\.string)
            let listed = addresses.enumerated().map { "[\($0.offset)]-\($0.element)" }.joined(separator: " ")
            text +=
                "MDM-ID \(manager.shown("mdmId", missing: "0000000000000000"))"
                + " SDC ID \(manager.shown("sdcId", missing: "0000000000000000"))"
                + " INSTALLATION ID \(manager.shown("installationId", missing: "0000000000000000")) IPs \(listed)\n"
        }
        return text
    }

    private func volumes(_ answer: JSONValue) -> String {
        let volumes = answer["volumes"]?.array ?? []
        return "Retrieved \(volumes.count) volume(s)\n"
            + volumes.map { "VOL-ID \($0.shown("volumeId")) MDM-ID \($0.shown("mdmId"))\n" }.joined()
    }

    /// One request line, one answer line.
    private func ask(_ command: String) async throws -> JSONValue {
        let line: String
        do {
            line = try await withDeadline(.seconds(10)) { try await exchange(command) }
        } catch is DeadlineExceeded {
            throw Failure(message: "The SDC at \(socket) did not answer in time")
        }
        let answer: JSONValue
        do {
            answer = try JSONValue(parsing: line)
        } catch {
            throw Failure(message: "The SDC's answer is not understood: \(error)")
        }
        if let refusal = answer["error"]?.string { throw Failure(message: refusal) }
        return answer
    }

    private func exchange(_ command: String) async throws -> String {
        let channel: NIOAsyncChannel<ByteBuffer, ByteBuffer>
        do {
            channel = try await ClientBootstrap(group: .singletonMultiThreadedEventLoopGroup)
                .connectTimeout(.seconds(5))
                .connect(unixDomainSocketPath: socket) { channel in
                    channel.eventLoop.makeCompletedFuture {
                        try NIOAsyncChannel(wrappingChannelSynchronously: channel)
                    }
                }
        } catch {
            throw Failure(message: "The SDC is not reachable at \(socket): \(error)")
        }
        return try await channel.executeThenClose { inbound, outbound in
            let request: JSONValue = ["command": .string(command)]
            try await outbound.write(ByteBuffer(string: request.text + "\n"))
            var received = ByteBuffer()
            for try await var part in inbound {
                received.writeBuffer(&part)
                if let end = received.readableBytesView.firstIndex(of: UInt8(ascii: "\n")) {
                    return String(decoding: received.readableBytesView[..<end], as: UTF8.self)
                }
                guard received.readableBytes < 4 << 20 else {
                    throw Failure(message: "The SDC's answer is too long")
                }
            }
            throw Failure(message: "The SDC closed the connection without an answer")
        }
    }
}
