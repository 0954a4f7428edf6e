import Base
import FoundationEssentials

/// How `scli` writes sizes and rates.
enum ScliText {
    /// A size in the largest fitting unit with one decimal and, in parentheses, in the next smaller unit: `16.0 GB
    /// (16384 MB)`.
    static func size(kibibytes: Int64) -> String {
        let units = ["KB", "MB", "GB", "TB", "PB"]
        guard kibibytes > 0 else { return "0 Bytes" }
        var unit = 0
        var divisor: Int64 = 1
        while unit + 1 < units.count, kibibytes >= divisor * 1024 {
            unit += 1
            divisor *= 1024
        }
        guard unit > 0 else { return "\(kibibytes) KB (\(kibibytes * 1024) Bytes)" }
        let tenths = kibibytes / divisor * 10 + (kibibytes % divisor * 10 + divisor / 2) / divisor
        return "\(tenths / 10).\(tenths % 10) \(units[unit]) (\(kibibytes / (divisor / 1024)) \(units[unit - 1]))"
    }

    /// Milliseconds since 1970 as ISO 8601 in UTC.
    static func time(milliseconds: Int64) -> String {
        Date(timeIntervalSince1970: Double(milliseconds) / 1000).formatted(.iso8601)
    }

    /// Seconds with three decimals.
    static func seconds(_ seconds: Double) -> String {
        let thousandths = Int64(min(max(seconds, 0), 1e12) * 1000)
        let rest = String(thousandths % 1000)
        return "\(thousandths / 1000)." + String(repeating: "0", count: 3 - rest.count) + rest
    }

    /// `name` padded to column 51, as the property tables have it.
    static func property(_ name: String, _ value: String) -> String {
        "\t" + name + String(repeating: " ", count: max(1, 51 - name.utf8.count)) + value
    }
}

extension JSONValue {
    /// The member as text; numbers and truth values as they are written, null and missing as `missing`.
    func shown(_ key: String, missing: String = "N/A") -> String {
        switch self[key] {
        case nil, .null?: missing
        case .string(let text)?: text.isEmpty ? missing : text
        case .integer(let value)?: String(value)
        case .number(let value)?: String(value)
        case .bool(let value)?: value ? "true" : "false"
        case .array(let elements)?: elements.compactMap(\.string).joined(separator: ",")
        case .object?: missing
        }
    }

    func count(_ key: String) -> Int64 { self[key]?.integer ?? 0 }
}
