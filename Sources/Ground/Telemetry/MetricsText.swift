public import Base

extension MetricsRegistry {
    /// The text format of Prometheus, version 0.0.4.
    public func prometheusText() -> String {
        let (families, gauges) = read()
        var text = ""
        for (label, family) in families {
            let name = prometheusName(label)
            switch family.kind {
            case .counter: text += "# TYPE \(name) counter\n"
            case .gauge: text += "# TYPE \(name) gauge\n"
            case .summary, .timer: text += "# TYPE \(name) summary\n"
            }
            for series in family.series.values.sorted(by: { $0.key.values.lexicographicallyPrecedes($1.key.values) }) {
                let value = series.value
                switch family.kind {
                case .counter, .gauge: text += "\(name)\(labels(series.key)) \(number(value.total))\n"
                case .summary, .timer:
                    let sorted = value.window.sorted()
                    for (quantile, amount) in quantiles(sorted) {
                        text += "\(name)\(labels(series.key, ("quantile", "\(quantile)"))) \(number(amount))\n"
                    }
                    text += "\(name)_sum\(labels(series.key)) \(number(value.total))\n"
                    text += "\(name)_count\(labels(series.key)) \(value.count)\n"
                }
            }
        }
        for (label, value) in gauges {
            let name = prometheusName(label)
            text += "# TYPE \(name) gauge\n\(name) \(number(value))\n"
        }
        return text
    }

    /// One flat object of numbers, as Mesos' `/metrics/snapshot`. Dimensions become parts of the name; a distribution
    /// gives its latest window under Mesos' suffixes ("/count", "/max", "/p99", ...).
    public func snapshot() -> JSONValue {
        let (families, gauges) = read()
        var members: [(String, JSONValue)] = []
        for (label, family) in families {
            for series in family.series.values {
                let name = ([label] + series.key.values).joined(separator: "/")
                let value = series.value
                switch family.kind {
                case .counter, .gauge: members.append((name, .number(value.total)))
                case .summary, .timer:
                    let sorted = value.window.sorted()
                    if let last = value.window.last { members.append((name, .number(last))) }
                    members.append(("\(name)/count", .number(Double(sorted.count))))
                    if let least = sorted.first { members.append(("\(name)/min", .number(least))) }
                    if let most = sorted.last { members.append(("\(name)/max", .number(most))) }
                    for (quantile, amount) in quantiles(sorted) {
                        members.append(("\(name)/p\(percentile(quantile))", .number(amount)))
                    }
                }
            }
        }
        for (label, value) in gauges { members.append((label, .number(value))) }
        members.sort { $0.0 < $1.0 }
        return .object(members: members)
    }
}

/// Mesos' quantiles.
private func quantiles(_ sorted: [Double]) -> [(Double, Double)] {
    guard !sorted.isEmpty else { return [] }
    return [0.5, 0.9, 0.95, 0.99, 0.999, 0.9999].map { quantile in
        (quantile, sorted[min(sorted.count - 1, Int(quantile * Double(sorted.count)))])
    }
}

/// 0.5 -> "50", 0.999 -> "999", as Mesos writes them.
private func percentile(_ quantile: Double) -> String {
    let digits = "\(quantile)".dropFirst(2)
    return digits.count == 1 ? digits + "0" : String(digits)
}

/// What Prometheus allows in a name: letters, digits, "_" and ":", not starting with a digit.
private func prometheusName(_ label: String) -> String {
    var name = ""
    for scalar in label.unicodeScalars {
        let isAllowed = scalar.isASCII && (scalar.properties.isAlphabetic || scalar.properties.numericType != nil)
        name.unicodeScalars.append(isAllowed || scalar == ":" ? scalar : "_")
    }
    if let first = name.first, first.isNumber { name = "_" + name }
    return name
}

private func labels(_ key: SeriesKey, _ extra: (String, String)? = nil) -> String {
    var pairs = zip(key.names, key.values).map { "\(prometheusName($0))=\"\(escaped($1))\"" }
    if let extra { pairs.append("\(extra.0)=\"\(extra.1)\"") }
    return pairs.isEmpty ? "" : "{\(pairs.joined(separator: ","))}"
}

private func escaped(_ value: String) -> String {
    var text = ""
    for character in value.unicodeScalars {
        switch character {
        case "\\": text += "\\\\"
        case "\"": text += "\\\""
        case "\n": text += "\\n"
        default: text.unicodeScalars.append(character)
        }
    }
    return text
}

private func number(_ value: Double) -> String {
    if value.isNaN { return "NaN" }
    if value.isInfinite { return value > 0 ? "+Inf" : "-Inf" }
    return Int64(exactly: value).map(String.init) ?? "\(value)"
}
