import Base
import MarathonCore

/// The selector of `GET /v2/apps?label=`: `k`, `k==v`, `k!=v`, `k in (a,b)`, `k notin (a,b)`, joined by commas (AND).
struct LabelSelector {
    private enum Term {
        case exists
        case isIn([String])
        case isNotIn([String])
    }

    private var terms: [(key: String, term: Term)] = []

    init(_ text: String) throws(CommandError) {
        var scanner = Scanner(text: Array(text))
        repeat {
            scanner.skipSpace()
            guard let key = scanner.token() else { throw LabelSelector.failure(text) }
            scanner.skipSpace()
            if scanner.take("==") || scanner.take("=") {
                terms.append((key, .isIn([try LabelSelector.value(&scanner, text)])))
            } else if scanner.take("!=") {
                terms.append((key, .isNotIn([try LabelSelector.value(&scanner, text)])))
            } else if scanner.take("notin") {
                terms.append((key, .isNotIn(try LabelSelector.list(&scanner, text))))
            } else if scanner.take("in") {
                terms.append((key, .isIn(try LabelSelector.list(&scanner, text))))
            } else {
                terms.append((key, .exists))
            }
            scanner.skipSpace()
        } while scanner.take(",")
        guard scanner.isAtEnd else { throw LabelSelector.failure(text) }
    }

    /// Inequalities hold only for labels that exist.
    func matches(_ labels: [String: String]) -> Bool {
        terms.allSatisfy { key, term in
            guard let value = labels[key] else { return false }
            switch term {
            case .exists: return true
            case .isIn(let values): return values.contains(value)
            case .isNotIn(let values): return !values.contains(value)
            }
        }
    }

    private static func failure(_ text: String) -> CommandError {
        .spec(.invalid("/label", "Can not parse label selector '\(text)'"))
    }

    private static func value(_ scanner: inout Scanner, _ text: String) throws(CommandError) -> String {
        scanner.skipSpace()
        guard let value = scanner.token() else { throw failure(text) }
        return value
    }

    private static func list(_ scanner: inout Scanner, _ text: String) throws(CommandError) -> [String] {
        scanner.skipSpace()
        guard scanner.take("(") else { throw failure(text) }
        var values: [String] = []
        repeat { values.append(try value(&scanner, text)) } while scanner.takeAfterSpace(",")
        guard scanner.takeAfterSpace(")") else { throw failure(text) }
        return values
    }

    private struct Scanner {
        let text: [Character]
        var position = 0

        var isAtEnd: Bool { position == text.count }

        mutating func skipSpace() { while position < text.count, text[position] == " " { position += 1 } }

        mutating func take(_ word: String) -> Bool {
            guard text[position...].starts(with: word) else { return false }
            position += word.count
            return true
        }

        mutating func takeAfterSpace(_ word: String) -> Bool {
            skipSpace()
            return take(word)
        }

        /// Letters, digits, ".", "_", "-"; anything else after a backslash.
        mutating func token() -> String? {
            var result = ""
            while position < text.count {
                let character = text[position]
                if character == "\\", position + 1 < text.count {
                    result.append(text[position + 1])
                    position += 2
                } else if character.isLetter || character.isNumber || "._-".contains(character) {
                    result.append(character)
                    position += 1
                } else {
                    break
                }
            }
            return result.isEmpty ? nil : result
        }
    }
}
