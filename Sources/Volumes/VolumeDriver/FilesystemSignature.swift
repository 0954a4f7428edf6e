/// What the beginning of a block device says about its contents.
public enum DeviceContents: Hashable, Sendable {
    /// Nothing but zeros where any filesystem, partition table or volume manager would have left its mark.
    case blank
    case filesystem(FilesystemKind, needsCheck: Bool)
    /// Something else is there; what, as far as it is known.
    case foreign(String)
}

/// The filesystems that volumes may carry.
public enum FilesystemKind: String, Hashable, Sendable, CaseIterable {
    case ext4, xfs, btrfs

    /// True when there is a tool to make it; the others are only mounted when they are found.
    public var canBeMade: Bool {
        switch self {
        case .ext4, .xfs: true
        case .btrfs: false
        }
    }
}

extension DeviceContents {
    /// Neither blank nor anything that has a signature.
    public static let unknownData = DeviceContents.foreign("data of an unknown kind")
    /// What mkfs had begun when it was killed, or its machine died: nothing mounts it, and nobody's data can be there.
    public static let unfinishedFilesystem = DeviceContents.foreign("a filesystem whose making has not ended")

    /// Whether making a filesystem may have left it so: whoever knows that one was begun there may begin anew.
    public var mayBeUnfinished: Bool { self == .unknownData || self == .unfinishedFilesystem }

    /// How many bytes from the start of a device decide.
    public static let prefixLength = 1 << 20

    /// Judges the first `prefixLength` bytes of a device (fewer when the device is smaller).
    ///
    /// Anything that is neither zero throughout nor a filesystem we mount counts as somebody's data.
    public init(prefix: [UInt8]) {
        func matches(_ magic: [UInt8], at offset: Int) -> Bool {
            offset + magic.count <= prefix.count && prefix[offset..<offset + magic.count].elementsEqual(magic)
        }
        func matches(_ magic: String, at offset: Int) -> Bool { matches(Array(magic.utf8), at: offset) }

        if matches([0x53, 0xEF], at: 0x438) {
            // The superblock is at 1024; s_state is its 16-bit word at 0x3A, of which bit 1 says that errors were
            // detected.
            self = .filesystem(.ext4, needsCheck: prefix[0x400 + 0x3A] & 2 != 0)
        } else if matches("XFSB", at: 0) {
            // mkfs.xfs sets sb_inprogress, the byte at 126, first and clears it last.
            let isUnfinished = prefix.count > 126 && prefix[126] != 0
            self = isUnfinished ? .unfinishedFilesystem : .filesystem(.xfs, needsCheck: false)
        } else if matches("_BHRfS_M", at: 0x10040) {
            self = .filesystem(.btrfs, needsCheck: false)
        } else if matches("LUKS", at: 0) {
            self = .foreign("an encrypted volume (LUKS)")
        } else if matches("LABELONE", at: 512) {
            self = .foreign("a physical volume of LVM")
        } else if matches("SWAPSPACE2", at: 4086) {
            self = .foreign("swap space")
        } else if matches("EFI PART", at: 512) || matches([0x55, 0xAA], at: 510) {
            self = .foreign("a partition table or boot sector")
        } else if prefix.allSatisfy({ $0 == 0 }) {
            self = .blank
        } else {
            self = .unknownData
        }
    }
}
