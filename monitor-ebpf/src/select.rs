//! Is a packet watched? By port first (a bitmap, a few ns), then by prefix (a trie, 20 ns and
//! more), then by a hash of the flow.

use crate::{
    counters::Reason,
    flow::{Address, FlowKey},
};

/// What the daemon may change while the programs run.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// A flow reports at most once in this time, ns.
    pub report_interval_ns: u64,
    /// Length of an RTT epoch, ns.
    pub epoch_ns: u64,
    /// Added to the monotonic clock before it is divided into epochs, so that they begin with
    /// the daemon's windows.
    pub epoch_offset_ns: u64,
    /// A flow is watched when its hash is at most this: `u32::MAX` for every flow.
    pub sample_threshold: u32,
    /// Bits of [`settings_flags`].
    pub flags: u32,
    /// Keys the hash that new flows are admitted by, so that nobody outside can choose who is.
    pub admission_key: u64,
    /// Of the flows that begin, one in two to this power is admitted: 0 for every one.
    pub halvings: u32,
    /// The same for flows that are first seen in their midst: the most halvings that may have
    /// been in force when they began.
    pub halvings_before: u32,
}

/// More halvings than these would leave nothing to measure.
pub const HALVINGS_MAX: u32 = 15;

impl Settings {
    /// The epoch that a monotonic time in ns falls into. Most fall into the same one as the `last`:
    /// a division costs as much as a map access.
    #[inline(always)]
    pub fn epoch(&self, now_ns: u64, last: u32) -> u32 {
        let time_ns = now_ns.wrapping_add(self.epoch_offset_ns);
        let since_ns = time_ns.wrapping_sub(u64::from(last).wrapping_mul(self.epoch_ns));
        if since_ns < self.epoch_ns {
            last
        } else {
            (time_ns / self.epoch_ns.max(1)) as u32
        }
    }
}

/// Bits of [`Settings::flags`].
pub mod settings_flags {
    /// Only packets with a watched port at either end.
    pub const PORTS: u32 = 1 << 0;
    /// Only packets with an address in a watched prefix at either end.
    pub const PREFIXES: u32 = 1 << 1;
    /// What clients say first is handed on; else no payload is read at all.
    pub const HELLOS: u32 = 1 << 2;
}

/// `u64` words in a bitmap of all ports.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Where the watched ports and prefixes are looked up.
pub trait Watch {
    fn settings(&self) -> Option<&Settings>;
    /// Word `port / 64` of the bitmap of watched ports.
    fn port_word(&self, index: u32) -> u64;
    fn prefix_watched(&self, address: &Address) -> bool;
}

/// Whether packets between these ports are watched.
#[inline(always)]
pub fn ports<W: Watch>(
    watch: &W,
    settings: &Settings,
    source: u16,
    destination: u16,
) -> Result<(), Reason> {
    if settings.flags & settings_flags::PORTS == 0
        || port(watch, source)
        || port(watch, destination)
    {
        Ok(())
    } else {
        Err(Reason::Port)
    }
}

#[inline(always)]
fn port<W: Watch>(watch: &W, port: u16) -> bool {
    watch.port_word(u32::from(port) / 64) >> (port % 64) & 1 == 1
}

/// Whether packets of this flow are watched, its ports apart.
#[inline(always)]
pub fn flow<W: Watch>(watch: &W, settings: &Settings, key: &FlowKey) -> Result<(), Reason> {
    if settings.sample_threshold != u32::MAX && hash(key) > settings.sample_threshold {
        return Err(Reason::Sample);
    }
    if settings.flags & settings_flags::PREFIXES != 0
        && !watch.prefix_watched(&key.low_address)
        && !watch.prefix_watched(&key.high_address)
    {
        return Err(Reason::Prefix);
    }
    Ok(())
}

/// By how many halvings a flow is admitted that has no state yet; `None`: it is not. It is decided
/// at a flow's first packet, once: whoever was not admitted then is not admitted in its midst.
#[inline(always)]
pub fn admitted(settings: &Settings, key: &FlowKey, begins: bool) -> Option<u32> {
    let halvings = if begins {
        settings.halvings
    } else {
        settings.halvings_before
    } & HALVINGS_MAX;
    if halvings == 0 || keyed_hash(key, settings.admission_key) <= u32::MAX >> halvings {
        Some(halvings)
    } else {
        None
    }
}

/// A hash of the 5-tuple, the same for both directions and on every host: a flow that is sampled
/// at the server is sampled on the path. Multiply-and-fold with the constants of splitmix64
/// (Steele, Lea, Flood, OOPSLA 2014).
#[inline(always)]
pub fn hash(key: &FlowKey) -> u32 {
    keyed_hash(key, 0)
}

/// The same with a key, for what nobody outside may foresee.
#[inline(always)]
pub(crate) fn keyed_hash(key: &FlowKey, secret: u64) -> u32 {
    let ports = u64::from(key.low_port) << 16 | u64::from(key.high_port);
    let mut word = ports ^ secret;
    for part in [
        key.low_address.0[0],
        key.low_address.0[1],
        key.high_address.0[0],
        key.high_address.0[1],
    ] {
        word = (word ^ part).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word ^= word >> 31;
    }
    word = word.wrapping_mul(0x94d0_49bb_1331_11eb);
    (word >> 32) as u32
}
