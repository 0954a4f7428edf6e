/// The command line of `scli`: one command among options, all of them written with two dashes, in any order.
struct ScliArguments: Equatable {
    var command: String
    /// Option name without dashes to its value; nil for a switch.
    var options: [String: String?]

    struct Malformed: Error, Equatable {
        var message: String
    }

    /// Options that may stand before the command.
    private static let global: Set<String> = [
        "mdm_ip", "use_nonsecure_communication", "approve_certificate", "approve_certificate_once",
    ]

    init(_ arguments: [String]) throws(Malformed) {
        var command: String?
        options = [:]
        var index = 0
        while index < arguments.count {
            let argument = arguments[index]
            index += 1
            guard argument.hasPrefix("--"), argument.utf8.count > 2 else {
                throw Malformed(message: "Unexpected argument '\(argument)'")
            }
            var name = argument.dropFirst(2)
            var value: String?
            if let equals = name.firstIndex(of: "=") {
                value = String(name[name.index(after: equals)...])
                name = name[..<equals]
            } else if index < arguments.count, !arguments[index].hasPrefix("--") {
                value = arguments[index]
                index += 1
            }
            let key = String(name)
            if command == nil, !Self.global.contains(key), value == nil {
                command = key
            } else if options.updateValue(value, forKey: key) != nil {
                throw Malformed(message: "Option --\(key) is given twice")
            }
        }
        guard let command else { throw Malformed(message: "No command was given") }
        self.command = command
    }

    func has(_ name: String) -> Bool { options[name] != nil }

    func value(_ name: String) -> String? { options[name] ?? nil }

    func required(_ name: String) throws(Malformed) -> String {
        guard let value = value(name) else { throw Malformed(message: "Missing parameter --\(name)") }
        return value
    }
}
