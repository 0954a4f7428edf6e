import Base
import Glibc
public import Logging

/// Writes log events to a file descriptor, one line each: for people when it is a terminal, JSON otherwise.
public struct LineLogHandler: LogHandler {
    public enum Format: Hashable, Sendable { case plain, json }

    public var logLevel: Logger.Level
    public var metadata: Logger.Metadata = [:]
    public var metadataProvider: Logger.MetadataProvider?
    private let label: String
    private let format: Format
    private let write: @Sendable ([UInt8]) -> Void

    /// - Parameter write: gets one whole line with its line end.
    public init(label: String, level: Logger.Level, format: Format, write: @escaping @Sendable ([UInt8]) -> Void) {
        self.label = label
        logLevel = level
        self.format = format
        self.write = write
    }

    /// To standard error; the level comes from `HOLDFAST_LOG` (trace, debug, info, notice, warning, error, critical;
    /// default info).
    public static func standardError(label: String) -> LineLogHandler {
        let level = getenv("HOLDFAST_LOG").flatMap { Logger.Level(rawValue: String(cString: $0).lowercased()) }
        return LineLogHandler(label: label, level: level ?? .info, format: isatty(2) == 1 ? .plain : .json) { line in
            writeWhole(line, to: 2)
        }
    }

    public subscript(metadataKey key: String) -> Logger.Metadata.Value? {
        get { metadata[key] }
        set { metadata[key] = newValue }
    }

    public func log(event: LogEvent) {
        var all = metadata
        if let provided = metadataProvider?.get() { all.merge(provided) { _, later in later } }
        if let own = event.metadata { all.merge(own) { _, later in later } }
        if let error = event.error { all["error"] = .string(errorChain(error)) }
        let fields = all.sorted { $0.key < $1.key }
        let time = WallTime.now()
        switch format {
        case .json: write(jsonLine(event, fields, time))
        case .plain: write(plainLine(event, fields, time))
        }
    }

    private func jsonLine(
        _ event: LogEvent, _ fields: [(key: String, value: Logger.Metadata.Value)], _ time: WallTime
    ) -> [UInt8] {
        var line: JSONValue = [
            "time": .string(time.iso8601), "level": .string(event.level.rawValue), "logger": .string(label),
            "message": .string(event.message.description),
        ]
        for (key, value) in fields { line[key] = json(value) }
        var bytes = line.bytes
        bytes.append(UInt8(ascii: "\n"))
        return bytes
    }

    private func json(_ value: Logger.Metadata.Value) -> JSONValue {
        switch value {
        case .string(let text): .string(text)
        case .stringConvertible(let value): .string(value.description)
        case .array(let values): .array(values.map(json))
        case .dictionary(let members):
            .object(members: members.sorted { $0.key < $1.key }.map { ($0.key, json($0.value)) })
        }
    }

    private func plainLine(
        _ event: LogEvent, _ fields: [(key: String, value: Logger.Metadata.Value)], _ time: WallTime
    ) -> [UInt8] {
        let level = event.level.rawValue.uppercased()
        let padding = String(repeating: " ", count: max(0, 8 - level.count))
        var line = "\(time.iso8601.dropFirst(11)) \(level)\(padding) \(label): \(event.message)"
        for (key, value) in fields { line += " \(key)=\(value)" }
        line += "\n"
        return Array(line.utf8)
    }
}

/// Writes all of `bytes`; gives up at the first error, since there is nowhere to report it.
private func writeWhole(_ bytes: [UInt8], to descriptor: Int32) {
    bytes.withUnsafeBytes { buffer in
        var rest = UnsafeRawBufferPointer(buffer)
        while !rest.isEmpty {
            let count = Glibc.write(descriptor, rest.baseAddress, rest.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
    }
}
