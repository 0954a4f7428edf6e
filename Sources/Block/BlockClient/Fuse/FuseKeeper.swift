import BlockIO
import CBlockIO
import Glibc
import LinuxOS
import Logging

/// The way to the keeper: a tiny process that holds our /dev/fuse descriptor, so that the mount and the devices over it
/// outlive the death of this process. Its successor gets the descriptor and the list of files back.
///
/// It holds the loop devices open as well. One that nobody has open would go with this process, and its number could be
/// another volume's a moment later, while somebody who has looked the device up is about to open it.
final class FuseKeeper: ReadyHandler, @unchecked Sendable {
    // SAFETY: `connection` and `isStopped` are used on the reactor's thread only once `watch` was called, before by its
    // creator.

    private static let messageMax = 128 << 10

    private let path: String
    private let logger: Logger
    private let worker = WorkerPool(name: "sdc-keeper", threads: 1)
    private var connection: Int32
    private var reactor: Reactor?
    private var isStopped = false
    /// Asked when a new keeper has to be told everything.
    var restart: () -> Void = {}

    private init(path: String, connection: Int32, logger: Logger) {
        self.path = path
        self.connection = connection
        self.logger = logger
    }

    deinit { if connection >= 0 { close(connection) } }

    /// What a predecessor left.
    struct Inheritance {
        var descriptor: Int32
        var record: FuseRecord
    }

    /// Finds the keeper of a predecessor or starts one, after the end of one that has nothing to give. Blocks for at most some
    /// seconds.
    static func open(_ path: String, logger: Logger) throws(BlockIOError) -> (FuseKeeper, Inheritance?) {
        let existing = cbio_connect_keeper(path)
        if existing >= 0 {
            let keeper = FuseKeeper(path: path, connection: existing, logger: logger)
            if let inheritance = keeper.takeOver() { return (keeper, inheritance) }
            keeper.end()
        }
        return (FuseKeeper(path: path, connection: try start(path), logger: logger), nil)
    }

    /// A connection to a new keeper, whose socket takes the place of any other.
    static func start(_ path: String) throws(BlockIOError) -> Int32 {
        guard cbio_start_keeper(path, orphanSeconds) == 0 else { throw .system(errno, "start the keeper") }
        let connection = cbio_connect_keeper(path)
        guard connection >= 0 else { throw .system(errno, "connect to the keeper") }
        return connection
    }

    /// Ends the keeper and waits, for at most some seconds, until it is gone. Before `watch`.
    func end() {
        setPatience()
        guard send(connection, "Q", 1, Int32(MSG_NOSIGNAL)) == 1 else { return }
        // Late answers come first.
        var byte: UInt8 = 0
        while recv(connection, &byte, 1, 0) > 0 {}
    }

    private func setPatience() {
        var patience = timeval(tv_sec: 5, tv_usec: 0)
        setsockopt(connection, SOL_SOCKET, SO_RCVTIMEO, &patience, socklen_t(MemoryLayout<timeval>.size))
    }

    private func takeOver() -> Inheritance? {
        setPatience()
        guard send(connection, "G", 1, Int32(MSG_NOSIGNAL)) == 1 else { return nil }
        let message = IOBuffer(count: FuseKeeper.messageMax)
        var descriptors = [Int32](repeating: -1, count: 16)
        var count: Int32 = 0
        let length = cbio_receive_descriptors(connection, &descriptors, 16, &count, message.base, message.count)
        for extra in descriptors.dropFirst().prefix(max(0, Int(count) - 1)) { close(extra) }
        guard length >= 1, count >= 1, let descriptor = descriptors.first else { return nil }
        message.count = length
        let record = FuseRecord(parsing: String(decoding: message.bytes.dropFirst(), as: UTF8.self))
        return Inheritance(descriptor: descriptor, record: record)
    }

    /// Tells the keeper what to keep. On the reactor's thread.
    func keep(_ descriptor: Int32, _ record: FuseRecord) {
        guard connection >= 0 else { return }
        let message = Array(("P" + record.text).utf8)
        var kept = descriptor
        let sent = cbio_send_descriptors(connection, &kept, 1, message, message.count)
        if sent < 0 { logger.error("the keeper was not told", metadata: ["errno": "\(errno)"]) }
    }

    /// Has the keeper hold a loop device open. On the reactor's thread.
    func hold(_ loop: LoopDevice) {
        var descriptor = loop.descriptor.raw
        tell("H", of: loop.number, &descriptor, 1)
    }

    /// Has the keeper close a loop device. On the reactor's thread.
    func release(_ number: Int32) {
        var none: Int32 = -1
        tell("R", of: number, &none, 0)
    }

    private func tell(_ letter: Character, of number: Int32, _ descriptor: inout Int32, _ count: Int32) {
        // One that was ended closes everything.
        guard connection >= 0, !isStopped, let letter = letter.asciiValue else { return }
        let message = [letter] + withUnsafeBytes(of: UInt32(bitPattern: number)) { Array($0) }
        let sent = cbio_send_descriptors(connection, &descriptor, count, message, message.count)
        if sent < 0 { logger.error("the keeper was not told of a device", metadata: ["errno": "\(errno)"]) }
    }

    /// Notices from now on when the keeper ends, and starts another.
    func watch(on reactor: Reactor) {
        self.reactor = reactor
        do throws(BlockIOError) {
            try reactor.watch(connection, EPOLLRDHUP.rawValue, self)
        } catch {
            logger.error("the keeper is not watched", metadata: ["error": "\(error)"])
        }
    }

    func ready(_ events: UInt32) {
        guard let reactor else { return }
        reactor.unwatch(connection)
        close(connection)
        connection = -1
        guard !isStopped else { return }
        logger.warning("the keeper ended; another is started")
        worker.submit { [self] in
            let result = Result { () throws(BlockIOError) in try FuseKeeper.start(path) }
            reactor.perform { [self] in
                switch result {
                case .success(let new):
                    connection = new
                    watch(on: reactor)
                    restart()
                case .failure(let error):
                    logger.error("no keeper: the devices die with this process", metadata: ["error": "\(error)"])
                }
            }
        }
    }

    /// Ends the keeper: the mount is given up on purpose.
    func stop() {
        isStopped = true
        if connection >= 0 { _ = send(connection, "Q", 1, Int32(MSG_NOSIGNAL)) }
        worker.stop()
    }
}
