import Glibc

/// The wall clock, in whole seconds since 1970.
func secondsSince1970() -> Int64 { Int64(time(nil)) }
