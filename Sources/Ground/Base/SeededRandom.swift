/// A small, fast, reproducible random number generator (xoshiro256**), seeded from one 64-bit number.
///
/// Not for secrets. The same seed gives the same sequence on every machine and in every version.
public struct SeededRandom: RandomNumberGenerator, Sendable {
    private var state: (UInt64, UInt64, UInt64, UInt64)

    public init(seed: UInt64) {
        var feed = seed
        func next() -> UInt64 {
            feed &+= 0x9E37_79B9_7F4A_7C15
            return mix64(feed)
        }
        state = (next(), next(), next(), next())
    }

    public mutating func next() -> UInt64 {
        let product = state.1 &* 5
        let result = ((product << 7) | (product >> 57)) &* 9
        let shifted = state.1 << 17
        state.2 ^= state.0
        state.3 ^= state.1
        state.1 ^= state.2
        state.0 ^= state.3
        state.2 ^= shifted
        state.3 = (state.3 << 45) | (state.3 >> 19)
        return result
    }
}

/// A bijective mixing function on 64 bits (the finaliser of SplitMix64): close inputs give unrelated outputs.
public func mix64(_ value: UInt64) -> UInt64 {
    var mixed = value
    mixed = (mixed ^ (mixed >> 30)) &* 0xBF58_476D_1CE4_E5B9
    mixed = (mixed ^ (mixed >> 27)) &* 0x94D0_49BB_1331_11EB
    return mixed ^ (mixed >> 31)
}

/// A random (version 4) UUID in its usual lower-case form, `xxxxxxxx-xxxx-4xxx-yxxx-xxxxxxxxxxxx`.
public func randomUUID(using generator: inout some RandomNumberGenerator) -> String {
    let high = ((generator.next() as UInt64) & ~0xF000) | 0x4000
    let low = ((generator.next() as UInt64) & 0x3FFF_FFFF_FFFF_FFFF) | 0x8000_0000_0000_0000
    let digits = Array((high.hex + low.hex).utf8)
    var text: [UInt8] = []
    text.reserveCapacity(36)
    for (index, digit) in digits.enumerated() {
        if index == 8 || index == 12 || index == 16 || index == 20 { text.append(UInt8(ascii: "-")) }
        text.append(digit)
    }
    return String(decoding: text, as: UTF8.self)
}

extension UInt64 {
    /// Sixteen lower-case hexadecimal digits, as ids of the block store are written.
    public var hex: String {
        let digits = String(self, radix: 16)
        return String(repeating: "0", count: 16 - digits.count) + digits
    }
}
