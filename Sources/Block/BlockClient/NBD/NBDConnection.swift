import Base
import BlockIO
import Logging

/// Whose device a connection serves.
protocol NBDConnectionOwner: AnyObject {
    var device: any BlockDeviceBackend { get }
    var exportName: String { get }
    var logger: Logger { get }
    /// The connection is closed.
    func ended(_ connection: NBDConnection)
}

/// One NBD client: negotiation, then requests, answered in the order in which they complete.
final class NBDConnection: ByteSocketHandler, BlockRequestOwner {
    /// Requests and payload bytes that one connection may have under way; beyond them we stop reading from it.
    static let inFlightMax = 128
    static let inFlightBytesMax = 64 << 20

    private enum State {
        case clientFlags
        case options
        case transmission
    }

    unowned let server: any NBDConnectionOwner
    private(set) var socket: ByteSocket?
    private var state = State.clientFlags
    private var noZeroes = false
    private(set) var isStructured = false
    /// The client has chosen to ask for block status.
    var hasAllocationContext = false
    private var inFlight = 0
    private var inFlightBytes = 0
    private var pendingWrite: NBD.Request?
    /// The head of the chunk that was sent last: its memory serves the next one.
    private var chunkBytes: [UInt8] = []
    /// Under way, with the bytes that each counts for.
    private var requests = SlotTable<(request: NBD.Request, bytes: Int)>()

    /// Whether the client has asked for anything.
    private(set) var hasServed = false

    init(_ server: any NBDConnectionOwner) { self.server = server }

    func begin(_ socket: ByteSocket) {
        self.socket = socket
        var greeting: [UInt8] = []
        greeting.append(bigEndian: NBD.initMagic)
        greeting.append(bigEndian: NBD.optionMagic)
        greeting.append(bigEndian: NBD.fixedNewstyle | NBD.noZeroes)
        socket.send(greeting)
    }

    /// Serves a client that knows everything by other means and begins with a request: the kernel's, told by netlink.
    func serveNegotiated(_ socket: ByteSocket) {
        self.socket = socket
        state = .transmission
    }

    func close(reason: String) { socket?.close(reason: reason) }

    func closed(_ socket: ByteSocket, reason: String) {
        self.socket = nil
        server.logger.debug(
            "NBD connection closed", metadata: ["reason": "\(reason)", "export": "\(server.exportName)"])
        server.ended(self)
    }

    /// The peer broke the protocol: say so in the log and hang up.
    private func violation(_ what: String) {
        server.logger.warning(
            "NBD client broke the protocol", metadata: ["violation": "\(what)", "export": "\(server.exportName)"])
        socket?.close(reason: what)
    }

    func bytesArrived(on socket: ByteSocket) {
        switch state {
        case .clientFlags: takeClientFlags(socket)
        case .options: takeOption(socket)
        case .transmission: takeRequest(socket)
        }
    }

    // MARK: Negotiation

    private func takeClientFlags(_ socket: ByteSocket) {
        guard socket.available.count >= 4 else { return }
        let flags: UInt32 = socket.available.bigEndian(0)
        socket.consume(4)
        guard flags & ~3 == 0, flags & 1 != 0 else { return violation("unknown client flags \(flags)") }
        noZeroes = flags & 2 != 0
        state = .options
    }

    private func takeOption(_ socket: ByteSocket) {
        let bytes = socket.available
        guard bytes.count >= 16 else { return }
        guard bytes.bigEndian(0, as: UInt64.self) == NBD.optionMagic else { return violation("wrong option magic") }
        let number: UInt32 = bytes.bigEndian(8)
        let length = Int(bytes.bigEndian(12, as: UInt32.self))
        guard length <= NBD.optionLengthMax else { return violation("an option of \(length) bytes") }
        guard bytes.count >= 16 + length else { return }
        let data = [UInt8](bytes[16..<16 + length])
        socket.consume(16 + length)
        guard let option = NBD.Option(rawValue: number) else { return reply(number, .unsupported) }
        switch option {
        case .exportName:
            guard isOurs(data) else { return violation("an unknown export name") }
            sendExport()
        case .abort:
            reply(number, .acknowledge)
            socket.closeAfterSending(reason: "aborted by the client")
        case .list: list(number, data)
        case .info, .go: describe(option, data)
        case .structuredReply:
            guard data.isEmpty else { return reply(number, .invalid) }
            isStructured = true
            reply(number, .acknowledge)
        case .listMetaContext, .setMetaContext: chooseContexts(option, data)
        }
    }

    func isOurs(_ name: some Collection<UInt8>) -> Bool {
        name.isEmpty || Array(name) == Array(server.exportName.utf8)
    }

    private func list(_ number: UInt32, _ data: [UInt8]) {
        guard data.isEmpty else { return reply(number, .invalid) }
        var entry: [UInt8] = []
        entry.append(bigEndian: UInt32(server.exportName.utf8.count))
        entry.append(contentsOf: server.exportName.utf8)
        reply(number, .server, entry)
        reply(number, .acknowledge)
    }

    /// INFO and GO: name length, name, number of information requests, requests (we send all we have whatever is
    /// asked).
    private func describe(_ option: NBD.Option, _ data: [UInt8]) {
        let valid = data.withUnsafeBytes { bytes -> Bool? in
            guard bytes.count >= 6 else { return nil }
            let nameLength = Int(bytes.bigEndian(0, as: UInt32.self))
            guard nameLength <= bytes.count - 6 else { return nil }
            let requests = Int(bytes.bigEndian(4 + nameLength, as: UInt16.self))
            guard bytes.count == 6 + nameLength + 2 * requests else { return nil }
            return isOurs(bytes[4..<4 + nameLength])
        }
        guard let isKnown = valid else { return reply(option.rawValue, .invalid) }
        guard isKnown else { return reply(option.rawValue, .unknownExport) }
        var export: [UInt8] = []
        export.append(bigEndian: UInt16(0))
        export.append(bigEndian: server.device.size)
        export.append(bigEndian: transmissionFlags.rawValue)
        reply(option.rawValue, .info, export)
        var sizes: [UInt8] = []
        sizes.append(bigEndian: UInt16(3))
        sizes.append(bigEndian: UInt32(server.device.blockSize))
        sizes.append(bigEndian: UInt32(max(4096, server.device.blockSize)))
        sizes.append(bigEndian: UInt32(NBD.transferMax))
        reply(option.rawValue, .info, sizes)
        reply(option.rawValue, .acknowledge)
        if option == .go { state = .transmission }
    }

    private func sendExport() {
        var answer: [UInt8] = []
        answer.append(bigEndian: server.device.size)
        answer.append(bigEndian: transmissionFlags.rawValue)
        if !noZeroes { answer.append(contentsOf: [UInt8](repeating: 0, count: 124)) }
        socket?.send(answer)
        state = .transmission
    }

    var transmissionFlags: NBD.TransmissionFlags {
        var flags: NBD.TransmissionFlags = [.hasFlags, .flush, .forceUnitAccess, .trim, .writeZeroes]
        if isStructured { flags.insert(.dontFragment) }
        if server.device.isReadOnly { flags.insert(.readOnly) }
        // True because every connection goes through the same device and an acknowledged write is stable and visible to
        // all.
        if server.device.acknowledgesDurably { flags.insert(.multipleConnections) }
        return flags
    }

    func reply(_ option: UInt32, _ type: NBD.OptionReply, _ data: [UInt8] = []) {
        var bytes: [UInt8] = []
        bytes.append(bigEndian: NBD.optionReplyMagic)
        bytes.append(bigEndian: option)
        bytes.append(bigEndian: type.rawValue)
        bytes.append(bigEndian: UInt32(data.count))
        bytes.append(contentsOf: data)
        socket?.send(bytes)
    }

    // MARK: Transmission

    private func takeRequest(_ socket: ByteSocket) {
        guard socket.available.count >= NBD.requestLength else { return }
        guard let request = NBD.Request(socket.available) else { return violation("wrong request magic") }
        socket.consume(NBD.requestLength)
        hasServed = true
        guard let command = NBD.Command(rawValue: request.type) else {
            return finish(request, failure: .invalid)
        }
        if command != .write, !request.flags.isSubset(of: command.flags) { return finish(request, failure: .invalid) }
        if command == .disconnect { return socket.close(reason: "disconnected by the client") }
        if command == .write {
            // The payload follows whether we like the request or not.
            guard request.length <= NBD.transferMax else { return violation("a write of \(request.length) bytes") }
            guard request.length > 0 else { return finish(request, failure: .invalid) }
            pendingWrite = request
            return socket.fill(socket.reactor.buffers.take(Int(request.length)))
        }
        begin(command, request)
    }

    func filled(_ buffer: IOBuffer, on socket: ByteSocket) {
        guard let request = pendingWrite else { preconditionFailure("a payload without its request") }
        pendingWrite = nil
        if !request.flags.isSubset(of: NBD.Command.write.flags) { return finish(request, failure: .invalid) }
        if let failure = refusal(request, isChange: true) { return finish(request, failure: failure) }
        start(request, .write(IOSlice(buffer)), bytes: buffer.count)
    }

    private func begin(_ command: NBD.Command, _ request: NBD.Request) {
        switch command {
        case .read:
            guard request.length <= NBD.transferMax else { return finish(request, failure: .overflow) }
            if let failure = refusal(request, isChange: false) { return finish(request, failure: failure) }
            start(request, .read(count: Int(request.length)), bytes: Int(request.length))
        case .flush:
            // What it carries as its offset means nothing, and devices are promised offsets that they have.
            var request = request
            request.offset = 0
            start(request, .flush, bytes: 0)
        case .trim:
            if let failure = refusal(request, isChange: true) { return finish(request, failure: failure) }
            start(request, .trim(count: UInt64(request.length)), bytes: 0)
        case .writeZeroes:
            if let failure = refusal(request, isChange: true) { return finish(request, failure: failure) }
            start(request, .zeroes(count: UInt64(request.length)), bytes: 0)
        case .blockStatus:
            guard hasAllocationContext else { return finish(request, failure: .invalid) }
            if let failure = refusal(request, isChange: false) { return finish(request, failure: failure) }
            startStatus(request)
        case .write, .disconnect: preconditionFailure("handled where the request was read")
        }
    }

    private func refusal(_ request: NBD.Request, isChange: Bool) -> NBD.Failure? {
        let device = server.device
        let length = UInt64(request.length)
        let block = UInt64(device.blockSize)
        if isChange && device.isReadOnly { return .permission }
        if length == 0 || request.offset % block != 0 || length % block != 0 { return .invalid }
        let (end, overflow) = request.offset.addingReportingOverflow(length)
        if overflow || end > device.size { return isChange ? .noSpace : .invalid }
        return nil
    }

    private func start(_ request: NBD.Request, _ operation: BlockOperation, bytes: Int) {
        began(bytes)
        server.device.submit(operation, at: request.offset, tag: requests.insert((request, bytes)), for: self)
    }

    func ended(_ tag: UInt64, error: Int32, bytes: IOSlice?) {
        guard let (request, count) = requests.remove(tag) else { preconditionFailure("a request ended twice") }
        if error != 0 {
            finish(request, failure: NBD.failure(errno: error))
        } else if let bytes {
            finishRead(request, bytes)
        } else {
            simpleReply(request.cookie, 0)
        }
        ended(count)
    }

    func began(_ bytes: Int) {
        inFlight += 1
        inFlightBytes += bytes
        if inFlight >= NBDConnection.inFlightMax || inFlightBytes >= NBDConnection.inFlightBytesMax {
            socket?.pauseReading()
        }
    }

    func ended(_ bytes: Int) {
        inFlight -= 1
        inFlightBytes -= bytes
        if inFlight < NBDConnection.inFlightMax / 2 && inFlightBytes < NBDConnection.inFlightBytesMax / 2 {
            socket?.resumeReading()
        }
    }

    private func finishRead(_ request: NBD.Request, _ slice: IOSlice) {
        if isStructured {
            chunk(request.cookie, .data, payload: slice.count + 8) { $0.append(bigEndian: request.offset) }
        } else {
            simpleReply(request.cookie, 0)
        }
        socket?.send(slice.buffer, slice.start..<slice.start + slice.count)
    }

    func finish(_ request: NBD.Request, failure: NBD.Failure) {
        let wantsChunk =
            request.type == NBD.Command.read.rawValue || request.type == NBD.Command.blockStatus.rawValue
        if isStructured && wantsChunk {
            chunk(request.cookie, .error, payload: 6) {
                $0.append(bigEndian: failure.rawValue)
                $0.append(bigEndian: UInt16(0))
            }
        } else {
            simpleReply(request.cookie, failure.rawValue)
        }
    }

    private func simpleReply(_ cookie: UInt64, _ error: UInt32) {
        var reply = (NBD.simpleReplyMagic.bigEndian, error.bigEndian, cookie.bigEndian)
        withUnsafeBytes(of: &reply) { socket?.send($0) }
    }

    /// The only chunk of a structured reply (flag DONE).
    func chunk(_ cookie: UInt64, _ type: NBD.Chunk, payload: Int, _ fill: (inout [UInt8]) -> Void) {
        chunkBytes.removeAll(keepingCapacity: true)
        chunkBytes.append(bigEndian: NBD.structuredReplyMagic)
        chunkBytes.append(bigEndian: UInt16(1))
        chunkBytes.append(bigEndian: type.rawValue)
        chunkBytes.append(bigEndian: cookie)
        chunkBytes.append(bigEndian: UInt32(payload))
        fill(&chunkBytes)
        socket?.send(chunkBytes)
    }
}
