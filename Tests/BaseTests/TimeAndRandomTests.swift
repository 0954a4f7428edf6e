import Base
import Testing

@Suite struct InstantTests {
    @Test func arithmeticSaturates() {
        let now = Instant(nanoseconds: 5)
        #expect(now + .nanoseconds(3) == Instant(nanoseconds: 8))
        #expect(now - .nanoseconds(9) == .zero)
        #expect(Instant.distantFuture + .seconds(1) == .distantFuture)
        #expect(now - Instant(nanoseconds: 8) == .nanoseconds(-3))
        #expect(Duration.seconds(Int64.max).wholeNanoseconds == .max)
        #expect(Duration.milliseconds(1500).inSeconds == 1.5)
    }
}

@Suite struct SeededRandomTests {
    @Test func theSameSeedGivesTheSameSequence() {
        var first = SeededRandom(seed: 42)
        var second = SeededRandom(seed: 42)
        var other = SeededRandom(seed: 43)
        let values = (0..<100).map { _ in first.next() }
        #expect(values == (0..<100).map { _ in second.next() })
        #expect(values != (0..<100).map { _ in other.next() })
        #expect(Set(values).count == 100)
    }

    @Test func uuidsHaveVersionFourAndTheirUsualForm() {
        var random = SeededRandom(seed: 1)
        for _ in 0..<100 {
            let parts = randomUUID(using: &random).split(separator: "-")
            #expect(parts.map(\.count) == [8, 4, 4, 4, 12])
            #expect(parts[2].first == "4")
            #expect(parts[3].first.map { "89ab".contains($0) } == true)
        }
        #expect(UInt64(255).hex == "00000000000000ff")
    }
}

@Suite struct ByteSizeTests {
    @Test func countsAndShowsUnits() {
        #expect(ByteSize.gibibytes(16).wholeKibibytes == 16_777_216)
        #expect(ByteSize.gibibytes(8).description == "8 GiB")
        #expect(ByteSize(bytes: 1536).description == "1.5 KiB")
        #expect(ByteSize.zero.description == "0 B")
    }
}
