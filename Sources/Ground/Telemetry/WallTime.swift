import Glibc

/// A point on the calendar's clock, in UTC.
public struct WallTime: Hashable, Comparable, Sendable, CustomStringConvertible {
    /// Since 1970-01-01T00:00:00Z.
    public var milliseconds: Int64

    public init(milliseconds: Int64) { self.milliseconds = milliseconds }

    public static func now() -> WallTime {
        var time = timespec()
        clock_gettime(CLOCK_REALTIME, &time)
        return WallTime(milliseconds: Int64(time.tv_sec) * 1000 + Int64(time.tv_nsec) / 1_000_000)
    }

    /// Seconds since 1970, as Mesos writes times.
    public var seconds: Double { Double(milliseconds) / 1000 }

    public static func < (left: WallTime, right: WallTime) -> Bool { left.milliseconds < right.milliseconds }

    /// "2026-11-23T16:05:33.120Z": what Marathon and our logs write.
    public var iso8601: String {
        let (days, time) = milliseconds.quotientAndRemainderFloored(by: 86_400_000)
        // The calendar of days, counted in eras of 400 years from 1 March of year 0.
        let shifted = days + 719_468
        let (era, dayOfEra) = shifted.quotientAndRemainderFloored(by: 146_097)
        let yearOfEra = (dayOfEra - dayOfEra / 1460 + dayOfEra / 36524 - dayOfEra / 146_096) / 365
        let dayOfYear = dayOfEra - (365 * yearOfEra + yearOfEra / 4 - yearOfEra / 100)
        let month = (5 * dayOfYear + 2) / 153
        let day = dayOfYear - (153 * month + 2) / 5 + 1
        let calendarMonth = month < 10 ? month + 3 : month - 9
        let year = yearOfEra + era * 400 + (calendarMonth <= 2 ? 1 : 0)
        let date = "\(padded(year, 4))-\(padded(calendarMonth, 2))-\(padded(day, 2))"
        let hours = padded(time / 3_600_000, 2)
        let minutes = padded(time / 60_000 % 60, 2)
        let seconds = padded(time / 1000 % 60, 2)
        return "\(date)T\(hours):\(minutes):\(seconds).\(padded(time % 1000, 3))Z"
    }

    public var description: String { iso8601 }
}

private func padded(_ number: Int64, _ width: Int) -> String {
    let digits = String(number)
    return String(repeating: "0", count: max(0, width - digits.count)) + digits
}

extension Int64 {
    /// Division that rounds down, so that the remainder is never negative.
    fileprivate func quotientAndRemainderFloored(by divisor: Int64) -> (Int64, Int64) {
        let (quotient, remainder) = quotientAndRemainder(dividingBy: divisor)
        return remainder < 0 ? (quotient - 1, remainder + divisor) : (quotient, remainder)
    }
}
