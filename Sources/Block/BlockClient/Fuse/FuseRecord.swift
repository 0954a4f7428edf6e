/// What a successor has to know of a FUSE mount. Its text is what the keeper keeps: a line `next NUMBER`, which releases
/// without it pass over, and for each file a line of its node and its name.
public struct FuseRecord: Equatable, Sendable {
    public struct File: Equatable, Sendable {
        public var node: UInt64
        public var name: String

        public init(node: UInt64, name: String) {
            self.node = node
            self.name = name
        }
    }

    /// The files shown now.
    public var files: [File]
    /// Above every node that the mount ever had; 0 by releases that did not tell.
    public var nextNode: UInt64

    public init(files: [File], nextNode: UInt64) {
        self.files = files
        self.nextNode = nextNode
    }

    init(parsing text: some StringProtocol) {
        files = []
        nextNode = 0
        for line in text.split(separator: "\n") {
            let words = line.split(separator: " ")
            guard words.count == 2 else { continue }
            if words[0] == "next" {
                nextNode = UInt64(words[1]) ?? 0
            } else if let node = UInt64(words[0]), node < UInt64.max {
                files.append(File(node: node, name: String(words[1])))
            }
        }
    }

    var text: String { "next \(nextNode)\n" + files.map { "\($0.node) \($0.name)\n" }.joined() }
}
