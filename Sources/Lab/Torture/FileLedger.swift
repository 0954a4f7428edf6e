/// What a load on a filesystem has said, and what its files may be because of it after a power loss.
///
/// Each file is a run of numbered records of one generation. A load's log has a line for each event: `b` (the load begins
/// to look at what is there), `f NAME GENERATION COUNT` (it found this many whole records), `z` (it has seen all),
/// `s NAME GENERATION COUNT` (so many records are on stable media), `n NAME GENERATION COUNT` (the file is about to be
/// replaced or made, with so many stable records), `d NAME GENERATION COUNT` (that is stable), `u NAME` (about to be
/// removed), `x NAME` (that is stable), `+ COUNT` (operations done, for the report), `! TEXT` (what the load itself found
/// wrong).
struct FileLedger {
    private struct Content: Equatable {
        var generation: UInt64
        var count: UInt64
    }

    private struct File {
        /// Nil: it does not exist.
        var stable: Content?
        var replacements: [Content] = []
        var mayBeGone = false
    }

    private var files: [String: File] = [:]
    private var found: [String: Content] = [:]
    private(set) var operations = 0
    /// Files whose state after a restart was as it must be.
    private(set) var verified = 0

    /// - Throws: when the line tells of something that must not be.
    mutating func take(_ line: Substring) throws(ScenarioFailure) {
        let words = line.split(separator: " ")
        let numbers = words.dropFirst(2).compactMap { UInt64($0) }
        let name = words.count > 1 ? String(words[1]) : ""
        switch (words.first, words.count, numbers.count) {
        case ("b", 1, 0): found = [:]
        case ("f", 4, 2): found[name] = Content(generation: numbers[0], count: numbers[1])
        case ("z", 1, 0): try judge()
        case ("s", 4, 2):
            let content = Content(generation: numbers[0], count: numbers[1])
            guard files[name]?.stable?.generation == content.generation else {
                throw ScenarioFailure("\(name) was made stable in a generation that it is not in")
            }
            files[name]?.stable = content
        case ("n", 4, 2):
            files[name, default: File()].replacements.append(Content(generation: numbers[0], count: numbers[1]))
        case ("d", 4, 2): files[name] = File(stable: Content(generation: numbers[0], count: numbers[1]))
        case ("u", 2, 0): files[name]?.mayBeGone = true
        case ("x", 2, 0): files[name] = nil
        case ("+", 2, 0): operations += Int(name) ?? 0
        default: throw ScenarioFailure("the load says: \(line)")
        }
    }

    private mutating func judge() throws(ScenarioFailure) {
        for name in Set(files.keys).union(found.keys).sorted() {
            let file = files[name] ?? File()
            guard let content = found[name] else {
                guard file.stable == nil || file.mayBeGone else {
                    throw ScenarioFailure("\(name) is gone, with \(file.stable?.count ?? 0) records that were stable")
                }
                files[name] = nil
                continue
            }
            let allowed = ([file.stable].compactMap { $0 } + file.replacements)
            guard allowed.contains(where: { $0.generation == content.generation && $0.count <= content.count }) else {
                throw ScenarioFailure(
                    "\(name) holds \(content.count) records of generation \(content.generation); it may be one of \(allowed)"
                )
            }
            files[name] = File(stable: content)
            verified += 1
        }
    }
}
