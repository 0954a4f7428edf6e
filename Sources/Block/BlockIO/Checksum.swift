public import BlockCore
import CBlockIO

/// CRC32C (Castagnoli) of `bytes`, continuing from `crc` (0 to begin), with the CPU's instruction where it has one.
public func crc32c(_ bytes: UnsafeRawBufferPointer, continuing crc: UInt32 = 0) -> UInt32 {
    guard let base = bytes.baseAddress else { return crc }
    return cbio_crc32c(crc, base, bytes.count)
}

extension BlockChecksums {
    /// Of whole 4 KiB blocks. Allocates only for more than one.
    public init(of blocks: UnsafeRawBufferPointer) {
        precondition(blocks.count > 0 && blocks.count % 4096 == 0, "whole blocks")
        if blocks.count == 4096 {
            self.init(crc32c(blocks))
        } else {
            let count = blocks.count / 4096
            self.init(
                [UInt32](unsafeUninitializedCapacity: count) { checksums, initialized in
                    cbio_crc32c_blocks(blocks.baseAddress, count, checksums.baseAddress)
                    initialized = count
                })
        }
    }
}
