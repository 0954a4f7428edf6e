import BlockIO

/// Block status: the meta context `base:allocation`, which tells data from holes.
extension NBDConnection {
    /// Queries of one request that we read.
    private static let queriesMax = 32

    /// LIST and SET of meta contexts: name length, name, number of queries, queries with their lengths. A query names a
    /// context, or in a list also a namespace ("base:"); a list without queries means all.
    func chooseContexts(_ option: NBD.Option, _ data: [UInt8]) {
        guard isStructured else { return reply(option.rawValue, .invalid) }
        guard let (name, queries) = NBDConnection.contextQueries(data) else { return reply(option.rawValue, .invalid) }
        guard queries.count <= NBDConnection.queriesMax else { return reply(option.rawValue, .tooBig) }
        guard isOurs(name) else { return reply(option.rawValue, .unknownExport) }
        let context = Array(NBD.allocationContext.utf8)
        let isList = option == .listMetaContext
        var isMeant = isList && queries.isEmpty
        for query in queries {
            if query == context || (isList && query == Array("base:".utf8)) { isMeant = true }
        }
        if !isList { hasAllocationContext = isMeant }
        if isMeant {
            var answer: [UInt8] = []
            answer.append(bigEndian: isList ? 0 : NBD.allocationContextID)
            reply(option.rawValue, .metaContext, answer + context)
        }
        reply(option.rawValue, .acknowledge)
    }

    /// Nil when the lengths do not fit.
    private static func contextQueries(_ data: [UInt8]) -> (name: [UInt8], queries: [[UInt8]])? {
        var rest = data[...]
        func number() -> Int? {
            guard rest.count >= 4 else { return nil }
            defer { rest = rest.dropFirst(4) }
            return rest.prefix(4).reduce(0) { $0 << 8 | Int($1) }
        }
        func text() -> [UInt8]? {
            guard let length = number(), length <= rest.count else { return nil }
            defer { rest = rest.dropFirst(length) }
            return Array(rest.prefix(length))
        }
        guard let name = text(), let count = number(), count <= data.count / 4 else { return nil }
        var queries: [[UInt8]] = []
        for _ in 0..<count {
            guard let query = text() else { return nil }
            queries.append(query)
        }
        return rest.isEmpty ? (name, queries) : nil
    }

    /// Answers with what the device tells at once, which may be less than was asked for: clients ask on.
    func startStatus(_ request: NBD.Request) {
        began(0)
        server.device.extents(at: request.offset, count: UInt64(request.length)) { [self] error, extents in
            defer { ended(0) }
            guard error == 0, let first = extents.first else {
                return finish(request, failure: error == 0 ? .io : NBD.failure(errno: error))
            }
            let told = request.flags.contains(.requestOne) ? [first] : extents
            chunk(request.cookie, .blockStatus, payload: 4 + 8 * told.count) { bytes in
                bytes.append(bigEndian: NBD.allocationContextID)
                for extent in told {
                    bytes.append(bigEndian: UInt32(clamping: extent.count))
                    bytes.append(bigEndian: extent.isHole ? NBD.statusHole | NBD.statusZero : 0)
                }
            }
        }
    }
}

extension NBD.Command {
    /// The flags that a request of this kind may carry.
    var flags: NBD.CommandFlags {
        switch self {
        case .read: [.forceUnitAccess, .dontFragment]
        case .write, .trim, .flush, .disconnect: .forceUnitAccess
        case .writeZeroes: [.forceUnitAccess, .noHole]
        case .blockStatus: [.forceUnitAccess, .requestOne]
        }
    }
}
