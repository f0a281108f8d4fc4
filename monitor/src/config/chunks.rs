//! `[chunks]`: the rates that chunks are tested for.

use serde::{Deserialize, Serialize};

use crate::flow::chunk::Ladder;

/// The least rate of HD (Schlinker et al., IMC 2019, 3.2).
pub const DEFAULT_HD_KBIT_S: u32 = 2_500;

/// A record names each rate.
pub(super) const LADDER_MAX: usize = 16;

/// Which rates.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Chunks {
    /// The rate of HDratio, kbit/s.
    pub hd_kbit_s: u32,
    /// Further rates that are tested, kbit/s: those of the operator's ladder.
    pub ladder_kbit_s: Vec<u32>,
}

impl Default for Chunks {
    fn default() -> Self {
        Self {
            hd_kbit_s: DEFAULT_HD_KBIT_S,
            ladder_kbit_s: Vec::new(),
        }
    }
}

impl Chunks {
    /// All rates in bit/s, that of HD first.
    pub fn ladder(&self) -> Ladder {
        std::iter::once(&self.hd_kbit_s)
            .chain(&self.ladder_kbit_s)
            .map(|&kbit_s| u64::from(kbit_s) * 1_000)
            .collect()
    }
}
