//! The two clocks: windows are cut by UTC, flow states are stamped with monotonic time.

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// µs since 1970 UTC.
    pub unix_us: u64,
    /// CLOCK_MONOTONIC, which `bpf_ktime_get_ns` reads, ns.
    pub monotonic_ns: u64,
}

impl Now {
    /// Reads both clocks, one right after the other.
    pub fn read() -> Self {
        let unix_ns = read(libc::CLOCK_REALTIME);
        let monotonic_ns = read(libc::CLOCK_MONOTONIC);
        Self {
            unix_us: unix_ns / 1_000,
            monotonic_ns,
        }
    }

    /// What makes UTC of monotonic time, ns.
    pub fn offset_ns(&self) -> u64 {
        (self.unix_us * 1_000).wrapping_sub(self.monotonic_ns)
    }
}

fn read(clock: libc::clockid_t) -> u64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` is valid for writing; both clocks exist on every Linux, so that the call
    // cannot fail.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// The first multiple of `length_us` after `unix_us`.
pub fn next_boundary(unix_us: u64, length_us: u64) -> u64 {
    (unix_us / length_us + 1) * length_us
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_ends_at_the_next_multiple_of_its_length_even_when_one_ends_now() {
        assert_eq!(next_boundary(59_999_999, 60_000_000), 60_000_000);
        assert_eq!(next_boundary(60_000_000, 60_000_000), 120_000_000);
    }
}
