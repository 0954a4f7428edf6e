import CBlockIO

/// CRC32C (Castagnoli) of `bytes`, continuing from `crc` (0 to begin), with the CPU's instruction where it has one.
public func crc32c(_ bytes: UnsafeRawBufferPointer, continuing crc: UInt32 = 0) -> UInt32 {
    guard let base = bytes.baseAddress else { return crc }
    return cbio_crc32c(crc, base, bytes.count)
}
