public import Base
import OrderedCollections

/// What the command line prints.
public enum RexrayOutput {
    /// A table: columns padded with spaces and two more between them; no header when `quiet`, and then only the first
    /// column.
    public static func table(header: [String], rows: [[String]], quiet: Bool) -> String {
        if quiet { return rows.map { ($0.first ?? "") + "\n" }.joined() }
        let lines = [header] + rows
        let widths = header.indices.map { column in lines.map { $0[column].count }.max() ?? 0 }
        return lines.map { line in
            var text = ""
            for (column, cell) in line.enumerated() {
                text += cell
                if column < line.count - 1 { text += String(repeating: " ", count: widths[column] - cell.count + 2) }
            }
            return text + "\n"
        }.joined()
    }

    /// The table of volume objects, as `rexray volume ls` prints it.
    public static func volumes(_ volumes: [JSONValue], withPath: Bool, quiet: Bool) -> String {
        let isAnyEncrypted = volumes.contains { $0["encrypted"]?.bool == true }
        let header =
            ["ID", "Name", "Status", "Size"] + (isAnyEncrypted ? ["Encrypted"] : []) + (withPath ? ["Path"] : [])
        let rows = volumes.map { volume -> [String] in
            [
                volume["id"]?.string ?? "", volume["name"]?.string ?? "", status(volume),
                String(volume["size"]?.integer ?? 0),
            ] + (isAnyEncrypted ? [String(volume["encrypted"]?.bool ?? false)] : [])
                + (withPath ? [path(volume)] : [])
        }
        return table(header: header, rows: rows, quiet: quiet)
    }

    /// The object with its mount path as the member `Path`, as scripts expect it.
    public static func withPath(_ volume: JSONValue) -> JSONValue {
        var volume = volume
        volume["Path"] = .string(path(volume))
        return volume
    }

    private static func path(_ volume: JSONValue) -> String {
        (volume["attachments"]?.array ?? []).lazy.compactMap { $0["mountPoint"]?.string }.first ?? ""
    }

    private static func status(_ volume: JSONValue) -> String {
        switch volume["attachmentState"]?.integer {
        case 2?: "attached"
        case 3?: "available"
        case 4?: "unavailable"
        default: "unknown"
        }
    }
}

/// Which volumes the arguments of a command name.
public enum RexraySelection {
    /// Each argument is matched by id, id ignoring case, unique id prefix, the same ignoring case; then the same four
    /// by name.
    ///
    /// - Parameter allowsPrefixes: false for commands that destroy.
    /// - Returns: the volumes in their own order; nil when an argument names none or several.
    public static func select(_ arguments: [String], from volumes: [JSONValue], allowsPrefixes: Bool) -> [JSONValue]? {
        if arguments.isEmpty { return volumes }
        var chosen = Set<String>()
        for argument in arguments {
            guard let id = match(argument, volumes, allowsPrefixes) else { return nil }
            chosen.insert(id)
        }
        return volumes.filter { chosen.contains($0["id"]?.string ?? "") }
    }

    private static func match(_ argument: String, _ volumes: [JSONValue], _ allowsPrefixes: Bool) -> String? {
        let lowered = argument.lowercased()
        for member in ["id", "name"] {
            func hits(_ test: (String) -> Bool) -> [String] {
                volumes.filter { test($0[member]?.string ?? "") }.compactMap { $0["id"]?.string }
            }
            var attempts = [hits { $0 == argument }, hits { $0.lowercased() == lowered }]
            if allowsPrefixes {
                attempts += [hits { $0.hasPrefix(argument) }, hits { $0.lowercased().hasPrefix(lowered) }]
            }
            for found in attempts where found.count == 1 { return found[0] }
        }
        return nil
    }
}
