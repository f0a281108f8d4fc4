//! The time of a capture: what its packets say, made to go on.

/// Time stamps of several receive queues may step back this far, and nothing is done about it;
/// further back is a clock that was set.
const DISORDER_MAX_NS: u64 = 1_000_000_000;

/// The latest time that is believed, in the year 2262: behind it sums of times overflow.
const TIME_MAX_NS: u64 = i64::MAX as u64;

/// Capture time, ns since 1970.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureClock {
    now_ns: u64,
    /// Added to every time stamp since the clock was set back last.
    shift_ns: u64,
    /// How often that happened.
    pub steps_back: u64,
}

impl CaptureClock {
    /// The time of a packet that says `stamp_ns`, and the latest so far, which is at least that.
    pub fn advance(&mut self, stamp_ns: u64) -> (u64, u64) {
        let mut time_ns = stamp_ns.saturating_add(self.shift_ns).min(TIME_MAX_NS);
        if time_ns + DISORDER_MAX_NS < self.now_ns {
            // Time goes on from here: what is under way was not interrupted.
            self.shift_ns += self.now_ns - time_ns;
            self.steps_back += 1;
            time_ns = self.now_ns;
        }
        self.now_ns = self.now_ns.max(time_ns);
        (time_ns, self.now_ns)
    }

    /// The latest time so far, 0 before the first packet.
    pub fn now_ns(&self) -> u64 {
        self.now_ns
    }

    /// How far times are later than the time stamps, ns.
    pub fn shift_ns(&self) -> u64 {
        self.shift_ns
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000_000;

    #[test]
    fn a_little_disorder_keeps_its_times_and_turns_nothing_back() {
        let mut clock = CaptureClock::default();
        assert_eq!(clock.advance(100 * SECOND), (100 * SECOND, 100 * SECOND));
        assert_eq!(clock.advance(99 * SECOND), (99 * SECOND, 100 * SECOND));
        assert_eq!((clock.steps_back, clock.shift_ns()), (0, 0));
    }

    #[test]
    fn a_clock_that_was_set_back_goes_on() {
        let mut clock = CaptureClock::default();
        clock.advance(100 * SECOND);
        assert_eq!(clock.advance(40 * SECOND), (100 * SECOND, 100 * SECOND));
        assert_eq!(clock.advance(41 * SECOND), (101 * SECOND, 101 * SECOND));
        assert_eq!((clock.steps_back, clock.shift_ns()), (1, 60 * SECOND));
    }

    #[test]
    fn no_time_stamp_overflows() {
        let mut clock = CaptureClock::default();
        for stamp in [u64::MAX, 0, u64::MAX, 5] {
            assert_eq!(clock.advance(stamp).1, TIME_MAX_NS);
        }
    }
}
