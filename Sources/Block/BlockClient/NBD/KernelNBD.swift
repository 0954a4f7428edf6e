import BlockIO

/// The netlink interface of the kernel's NBD client (linux/nbd-netlink.h).
enum KernelNBD {
    static let familyName = "nbd"
    private static let version: UInt8 = 1

    enum Command: UInt8 {
        case connect = 1
        case disconnect = 2
        case reconfigure = 3
        case linkDead = 4
        case status = 5
    }

    enum Attribute: UInt16 {
        case index = 1
        case sizeBytes = 2
        case blockSizeBytes = 3
        case timeout = 4
        case serverFlags = 5
        case clientFlags = 6
        case sockets = 7
        case deadConnectionTimeout = 8
        case deviceList = 9
        case backendIdentifier = 10
    }

    private static let socketItem: UInt16 = 1
    private static let socketDescriptor: UInt16 = 1
    private static let deviceItem: UInt16 = 1
    private static let deviceIndex: UInt16 = 1
    private static let deviceConnected: UInt16 = 2

    struct ClientFlags: OptionSet {
        let rawValue: UInt64
        /// The device node goes with its connection.
        static let destroyOnDisconnect = Self(rawValue: 1)
        /// The connection ends with the device's last user.
        static let disconnectOnClose = Self(rawValue: 2)
    }

    /// Everything that CONNECT tells the kernel.
    struct Connection: Equatable, Sendable {
        var size: UInt64
        var blockSize: UInt64
        /// Of `NBD.TransmissionFlags`.
        var serverFlags: UInt64
        /// Sent always: a device keeps the flags that its last user set.
        var clientFlags: UInt64 = 0
        /// 0: a request may take as long as we need. Anything else makes the kernel send a request again while the
        /// first one is still under way, and a late first write could then overwrite a later one.
        var requestTimeoutSeconds: UInt64 = 0
        /// How long requests wait for new sockets after all have been closed.
        var deadConnectionTimeoutSeconds: UInt64
        /// Our name for the device, which a successor finds again. From Linux 5.14 on; older kernels ignore it.
        var identifier: String
        /// The kernel's ends of socket pairs. One for each device: with several the kernel repeats requests after 30
        /// seconds on another socket whatever the time-out.
        var sockets: [Int32]
    }

    /// Asks for a device; the answer has its index.
    static func connect(_ connection: Connection, family: UInt16, sequence: UInt32) -> [UInt8] {
        var request = make(.connect, family, sequence)
        request.add(.sizeBytes, connection.size)
        request.add(.blockSizeBytes, connection.blockSize)
        request.add(.serverFlags, connection.serverFlags)
        request.add(.clientFlags, connection.clientFlags)
        request.add(.timeout, connection.requestTimeoutSeconds)
        request.add(.deadConnectionTimeout, connection.deadConnectionTimeoutSeconds)
        request.add(sockets: connection.sockets)
        request.add(Attribute.backendIdentifier.rawValue, text: connection.identifier)
        return request.bytes
    }

    /// Gives device `index`, whose sockets are dead, new ones, and the size of now.
    static func reconnect(_ index: UInt32, _ connection: Connection, family: UInt16, sequence: UInt32) -> [UInt8] {
        var request = make(.reconfigure, family, sequence)
        request.add(.index, index)
        request.add(.sizeBytes, connection.size)
        request.add(.timeout, connection.requestTimeoutSeconds)
        request.add(.deadConnectionTimeout, connection.deadConnectionTimeoutSeconds)
        request.add(.clientFlags, connection.clientFlags)
        request.add(sockets: connection.sockets)
        request.add(Attribute.backendIdentifier.rawValue, text: connection.identifier)
        return request.bytes
    }

    /// Changes the size of device `index`, which must be named as it was at CONNECT.
    static func resize(
        _ index: UInt32, to size: UInt64, identifier: String, family: UInt16, sequence: UInt32
    ) -> [UInt8] {
        var request = make(.reconfigure, family, sequence)
        request.add(.index, index)
        request.add(.sizeBytes, size)
        request.add(Attribute.backendIdentifier.rawValue, text: identifier)
        return request.bytes
    }

    static func disconnect(_ index: UInt32, family: UInt16, sequence: UInt32) -> [UInt8] {
        var request = make(.disconnect, family, sequence)
        request.add(.index, index)
        return request.bytes
    }

    /// Asks whether device `index` is connected; nil: all devices.
    static func status(_ index: UInt32?, family: UInt16, sequence: UInt32) -> [UInt8] {
        var request = make(.status, family, sequence)
        if let index { request.add(.index, index) }
        return request.bytes
    }

    private static func make(_ command: Command, _ family: UInt16, _ sequence: UInt32) -> NetlinkRequest {
        NetlinkRequest(family: family, command: command.rawValue, version: version, sequence: sequence)
    }

    // MARK: Answers

    /// The index in the answer to CONNECT.
    static func index(in reply: [NetlinkAttribute]) throws(BlockIOError) -> UInt32 {
        guard let attribute = reply.first(where: { $0.type == Attribute.index.rawValue }) else {
            throw BlockIOError(.malformed, "the kernel names no NBD device")
        }
        return try attribute.number()
    }

    struct DeviceStatus: Equatable {
        var index: UInt32
        var isConnected: Bool
    }

    /// The devices in the answer to STATUS.
    static func devices(in reply: [NetlinkAttribute]) throws(BlockIOError) -> [DeviceStatus] {
        guard let list = reply.first(where: { $0.type == Attribute.deviceList.rawValue }) else {
            throw BlockIOError(.malformed, "the kernel lists no NBD devices")
        }
        var devices: [DeviceStatus] = []
        for item in try NetlinkAttribute.list(list.payload) where item.type == deviceItem {
            let parts = try NetlinkAttribute.list(item.payload)
            guard let index = parts.first(where: { $0.type == deviceIndex }),
                let connected = parts.first(where: { $0.type == deviceConnected })
            else { throw BlockIOError(.malformed, "the kernel lists an NBD device by halves") }
            devices.append(
                DeviceStatus(index: try index.number(), isConnected: try connected.number(UInt8.self) != 0))
        }
        return devices
    }

    fileprivate static func addSockets(_ sockets: [Int32], to request: inout NetlinkRequest) {
        request.add(Attribute.sockets.rawValue) { list in
            for descriptor in sockets {
                list.add(socketItem) { $0.add(socketDescriptor, UInt32(bitPattern: descriptor)) }
            }
        }
    }
}

extension NetlinkRequest {
    fileprivate mutating func add<T: FixedWidthInteger & BitwiseCopyable>(_ attribute: KernelNBD.Attribute, _ value: T)
    {
        add(attribute.rawValue, value)
    }

    fileprivate mutating func add(sockets: [Int32]) { KernelNBD.addSockets(sockets, to: &self) }
}
