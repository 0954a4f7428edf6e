import ArgumentParser
import Yams

/// All that is wrong with a node file, each fault with its place.
struct NodeFileFaults: Error, CustomStringConvertible {
    var faults: [String]
    var description: String { faults.joined(separator: "\n") }
}

/// A node file, understood as a whole: every role's flags are parsed before any role starts.
struct NodeFile {
    struct Section {
        var name: String
        var command: any Role
        var arguments: [String]
        /// Runs as a process of its own beside the node's.
        var isSeparate = false
    }

    static let roles: [(name: String, type: any Role.Type)] = [
        ("mdm", MdmCommand.self), ("sds", SdsCommand.self), ("sdc", SdcCommand.self), ("master", MasterCommand.self),
        ("volumes", VolumesCommand.self), ("agent", AgentCommand.self), ("marathon", MarathonCommand.self),
    ]

    /// In the order of `roles`: what others depend on starts first and ends last.
    private(set) var sections: [Section] = []

    /// - Parameter path: for messages.
    /// - Throws: `NodeFileFaults` with every fault.
    init(text: String, path: String) throws {
        var reader = Reader(path: path)
        let root: Node?
        do {
            root = try compose(yaml: text)
        } catch {
            throw NodeFileFaults(faults: ["\(path): \(error)"])
        }
        let found = reader.sections(root ?? Node.mapping([:]))
        for name in reader.separate.keys.sorted() where !found.contains(where: { $0.name == name }) {
            reader.fault(at: reader.separate[name], "\"\(name)\" is to be separate and is no role of this node")
        }
        guard reader.faults.isEmpty else { throw NodeFileFaults(faults: reader.faults) }
        sections = NodeFile.roles.compactMap { role in
            guard var section = found.first(where: { $0.name == role.name }) else { return nil }
            // Block devices shall outlive a restart of everything else.
            section.isSeparate = section.command is SdcCommand || reader.separate[role.name] != nil
            return section
        }
    }

    private struct Reader {
        let path: String
        var faults: [String] = []
        /// The names listed under "separate", with their places.
        var separate: [String: Node] = [:]

        mutating func fault(at node: Node?, _ message: String) {
            faults.append("\(path)\(node?.mark.map { ":\($0.line)" } ?? ""): \(message)")
        }

        mutating func sections(_ root: Node) -> [Section] {
            guard let mapping = root.mapping else {
                fault(at: root, "a node file is a mapping with the key \"roles\"")
                return []
            }
            var result: [Section] = []
            for (key, value) in mapping {
                if key.string == "separate" {
                    readSeparate(value)
                    continue
                }
                guard key.string == "roles" else {
                    let hint = suggestion(for: key.string, of: ["roles", "separate"])
                    fault(at: key, "unknown key \"\(key.string ?? "")\"\(hint)")
                    continue
                }
                if let roles = value.mapping {
                    for (name, flags) in roles { if let section = section(name, flags) { result.append(section) } }
                } else if value.null == nil {
                    fault(at: value, "\"roles\" is a mapping of roles to their flags")
                }
            }
            if mapping["roles"] == nil { fault(at: nil, "\"roles\" is missing") }
            return result
        }

        private mutating func readSeparate(_ list: Node) {
            guard let names = list.sequence else { return fault(at: list, "\"separate\" is a list of roles") }
            for name in names {
                guard let text = name.string else { return fault(at: name, "\"separate\" is a list of roles") }
                separate[text] = name
            }
        }

        private mutating func section(_ nameNode: Node, _ flags: Node) -> Section? {
            let name = nameNode.string ?? ""
            guard let type = NodeFile.roles.first(where: { $0.name == name })?.type else {
                fault(at: nameNode, "unknown role \"\(name)\"\(suggestion(for: name, of: NodeFile.roles.map(\.name)))")
                return nil
            }
            guard let arguments = arguments(flags, of: type, name) else { return nil }
            do {
                guard let command = try type.parseAsRoot(arguments.map(\.text)) as? any Role else { return nil }
                return Section(name: name, command: command, arguments: arguments.map(\.text))
            } catch {
                let message = type.message(for: error)
                let place = arguments.first { message.contains("'\($0.flag)") || message.contains("'\($0.text)") }
                fault(at: place?.node ?? nameNode, "\(name): \(message)")
                return nil
            }
        }

        private mutating func arguments(_ flags: Node, of type: any Role.Type, _ role: String)
            -> [(flag: String, text: String, node: Node)]?
        {
            if flags.null != nil { return [] }
            guard let mapping = flags.mapping else {
                fault(at: flags, "the flags of \(role) are a mapping")
                return nil
            }
            let known = NodeFile.flags(of: type)
            // A role that takes its command line as a whole checks it itself when it starts.
            let checksItself = known.isSubset(of: ["help", "version"])
            var result: [(flag: String, text: String, node: Node)] = []
            let faultsBefore = faults.count
            for (key, value) in mapping {
                let name = key.string ?? ""
                let spellings = [name, name.replacing("_", with: "-"), name.replacing("-", with: "_")]
                if checksItself {
                    result += (value.sequence.map(Array.init) ?? [value]).compactMap(\.scalar?.string).map {
                        ("--\(name)", "--\(name)=\($0)", key)
                    }
                    continue
                }
                guard let flag = spellings.first(where: known.contains) else {
                    fault(at: key, "unknown flag \"\(name)\" of \(role)\(suggestion(for: name, of: known.sorted()))")
                    continue
                }
                for text in texts(value, flag: flag, of: type) { result.append(("--\(flag)", text, key)) }
            }
            return faults.count == faultsBefore ? result : nil
        }

        /// What a value becomes on the command line: lists repeat the flag, true is a bare flag where it takes no
        /// value.
        private mutating func texts(_ value: Node, flag: String, of type: any Role.Type) -> [String] {
            if let values = value.sequence { return values.flatMap { texts($0, flag: flag, of: type) } }
            guard let text = value.scalar?.string else {
                fault(at: value, "the value of \"\(flag)\" is a scalar or a list of scalars")
                return []
            }
            if NodeFile.takesNoValue(flag, of: type) {
                switch value.bool {
                case true?: return ["--\(flag)"]
                case false?: return []
                case nil:
                    fault(at: value, "the value of \"\(flag)\" is true or false")
                    return []
                }
            }
            return ["--\(flag)=\(text)"]
        }
    }
}

extension NodeFile {
    /// The long names of a role's flags, taken from its help, which is complete by construction.
    static func flags(of type: any Role.Type) -> Set<String> { Set(helpEntries(of: type).map(\.flag)) }

    /// Help shows the value's name in angle brackets behind every flag that takes one.
    static func takesNoValue(_ flag: String, of type: any Role.Type) -> Bool {
        !helpEntries(of: type).contains { $0.flag == flag && $0.takesValue }
    }

    private static func helpEntries(of type: any Role.Type) -> [(flag: String, takesValue: Bool)] {
        var entries: [(flag: String, takesValue: Bool)] = []
        for line in type.helpMessage(includeHidden: true, columns: 200).split(separator: "\n") {
            guard line.hasPrefix("  -") else { continue }
            // "  -p, --port, --old-port <port>   The port": names end where a gap of two spaces begins.
            let names = line.dropFirst(2).split(separator: "  ", maxSplits: 1).first ?? ""
            let takesValue = names.contains("<")
            for word in names.split(whereSeparator: { ", /".contains($0) }) where word.hasPrefix("--") {
                entries.append((String(word.dropFirst(2)), takesValue))
            }
        }
        return entries
    }
}

/// `; did you mean "x"?` with the nearest of the candidates, or nothing when none is near.
func suggestion(for word: String?, of candidates: [String]) -> String {
    guard let word else { return "" }
    let nearest = candidates.map { (name: $0, distance: editDistance(word, $0)) }.min { $0.distance < $1.distance }
    guard let nearest, nearest.distance <= max(1, word.count / 3) else { return "" }
    return "; did you mean \"\(nearest.name)\"?"
}

/// How many characters must be inserted, removed or replaced to turn one word into the other.
private func editDistance(_ left: String, _ right: String) -> Int {
    let right = Array(right)
    var row = Array(0...right.count)
    for (leftIndex, character) in left.enumerated() {
        var diagonal = row[0]
        row[0] = leftIndex + 1
        for rightIndex in right.indices {
            let above = row[rightIndex + 1]
            let replaced = diagonal + (right[rightIndex] == character ? 0 : 1)
            row[rightIndex + 1] = min(replaced, above + 1, row[rightIndex] + 1)
            diagonal = above
        }
    }
    return row[right.count]
}
