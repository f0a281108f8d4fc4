//! What a client's last windows make of its present one.
//!
//! Faults do not begin and end with windows, and they do not reach every client in the same one.
//! A client therefore counts as bad only when it was so in two windows in a row, and as good
//! again only after two good ones; in between it is unsettled and speaks for nobody. Whoever was
//! bad together with many others is not blamed for being the last one to recover.
//!
//! Benjamini-Hochberg bounds the false discoveries of one window, and there are 1,440 of them in a
//! day. Over time a client must therefore also pass a sequential test: the chances of its windows,
//! made e-values (Vovk and Wang, "E-values: calibration, combination and applications", Annals of
//! Statistics 49, 2021), are multiplied as long as they speak against it (the e-CUSUM of Shin, Ramdas
//! and Rinaldo, "E-detectors", 2024). Whatever happens by chance reaches a product of 1,000 only once
//! in at least as many windows on the average.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use foldhash::fast::RandomState;
use serde::{Deserialize, Serialize};

use super::degraded::Raw;
use crate::cell::CellKey;

/// Windows in a row that settle a client.
pub const SETTLED_AFTER: u32 = 2;
/// Windows of one client, at least, between two false alarms on the average.
const FALSE_ALARM_WINDOWS: f64 = 1_000.0;
/// Exponent of the calibrator that makes e-values of chances, k * p^(k - 1): any from 0 to 1 is valid.
const CALIBRATOR: f64 = 0.5;
const LEAST_CHANCE: f64 = 1e-12;
/// Windows without a judgement after which a client's past says nothing more.
const FORGOTTEN_AFTER: u64 = 4;
/// Windows of its own for which having been bad with many others counts: while a client is silent it
/// does not become clear whether it goes on alone.
const SHARED_FOR: u32 = 4;
/// Windows within which clients became bad at the same time: what has one cause shows at different
/// homes as soon as each of them fetches something.
pub const AT_ONCE_WINDOWS: u64 = 2;
/// One member of a bundle of 16, the usual limit of a LAG's hardware tables, carries twice this
/// share of the clients.
pub const MEMBER_SHARE: f64 = 0.03;

/// What a client stands for in a vote.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Standing {
    Good,
    Unsettled,
    Bad,
}

/// A client's standing, and where it comes from.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Track {
    pub standing: Standing,
    /// Windows in a row in which it was bad, this one included.
    pub bad_windows: u32,
    /// First window of the badness from which it has not recovered yet.
    bad_since: Option<u64>,
    /// In each of these only the rate was low.
    pub rate_only: bool,
    /// Was good here before: what it is now is a change, and not how its line has always been.
    was_good: bool,
    good_windows: u32,
    /// Was bad for two windows in a row, and not yet good for two.
    not_recovered: bool,
    /// Last window that was judged.
    window: u64,
    /// Windows of its own since it was bad together with many others.
    shared: Option<u32>,
    /// Others behind the same interconnect became bad when it did, as many as a member of a bundle
    /// has clients. They may be silent by now.
    #[serde(default)]
    at_once: bool,
    /// Natural logarithm of the product of its e-values since they began to speak against it.
    #[serde(default)]
    against: f64,
}

impl Track {
    fn new(window: u64) -> Self {
        Self {
            standing: Standing::Unsettled,
            bad_windows: 0,
            bad_since: None,
            rate_only: true,
            was_good: false,
            good_windows: 0,
            not_recovered: false,
            window,
            shared: None,
            at_once: false,
            against: 0.0,
        }
    }

    /// Notes what `window` looked like, and by what chance it would have by itself.
    fn advance(&mut self, raw: Raw, chance: f64, window: u64) {
        let in_a_row = window == self.window + 1;
        self.against = self.against.max(0.0) + ln_e_value(chance);
        let had_begun = self.bad_windows > 0;
        match raw {
            Raw::Bad | Raw::RateOnly => {
                if !in_a_row || self.bad_windows == 0 {
                    self.bad_windows = 0;
                    self.rate_only = true;
                }
                self.bad_windows += 1;
                self.rate_only &= raw == Raw::RateOnly;
                self.good_windows = 0;
                self.not_recovered |=
                    self.bad_windows >= SETTLED_AFTER && self.against >= FALSE_ALARM_WINDOWS.ln();
                if self.bad_windows == 1 && !self.not_recovered {
                    self.bad_since = Some(window);
                    self.at_once = false;
                }
                self.standing = if self.not_recovered {
                    Standing::Bad
                } else {
                    Standing::Unsettled
                };
            }
            Raw::Good => {
                self.bad_windows = 0;
                self.good_windows = if in_a_row { self.good_windows + 1 } else { 1 };
                if self.not_recovered && self.good_windows >= SETTLED_AFTER {
                    self.not_recovered = false;
                    self.against = 0.0;
                }
                self.standing = if self.not_recovered || had_begun {
                    Standing::Unsettled
                } else {
                    self.was_good = true;
                    Standing::Good
                };
            }
            // What was bad and has become a little better is what it was: a fault whose size is about
            // that of a threshold would come and go otherwise.
            Raw::Leaning if in_a_row && self.standing == Standing::Bad && !self.rate_only => {}
            Raw::Leaning | Raw::Grey => {
                self.bad_windows = 0;
                self.good_windows = 0;
                self.standing = Standing::Unsettled;
            }
        }
        self.window = window;
        self.shared = self.shared.map(|windows| windows.saturating_add(1));
    }

    /// One that speaks for nobody, whatever it looks like.
    pub fn unsettled(window: u64) -> Self {
        Self::new(window)
    }

    /// The same client as one that speaks for nobody in this window.
    pub fn set_aside(&self) -> Self {
        Self::unsettled(self.window)
    }

    /// A client of which nothing but its standing is known.
    #[cfg(test)]
    pub(super) fn settled(standing: Standing) -> Self {
        Self {
            standing,
            ..Self::new(0)
        }
    }

    /// One that has been bad, not only slow, for so many windows.
    #[cfg(test)]
    pub(super) fn bad_for(windows: u32) -> Self {
        Self {
            bad_windows: windows,
            bad_since: Some(0),
            window: u64::from(windows).saturating_sub(1),
            rate_only: false,
            was_good: true,
            ..Self::settled(Standing::Bad)
        }
    }

    /// The same, had it been bad with many others just now.
    #[cfg(test)]
    pub(super) fn with_others(self) -> Self {
        Self {
            shared: Some(0),
            ..self
        }
    }

    /// Windows since it became bad, this one included; good and grey ones in between, from which
    /// it did not recover, count.
    pub fn lasting(&self) -> u64 {
        match self.bad_since {
            Some(since) if self.standing == Standing::Bad => self.window - since + 1,
            _ => 0,
        }
    }

    /// The same, had it never been good.
    #[cfg(test)]
    pub(super) fn always_bad(self) -> Self {
        Self {
            was_good: false,
            ..self
        }
    }

    /// The window in which it became bad, if it has not recovered.
    pub fn onset(&self) -> Option<u64> {
        self.bad_since
            .filter(|_| self.bad_windows > 0 || self.not_recovered)
    }

    /// Whether it was ever good, as far as is remembered.
    pub fn was_good(&self) -> bool {
        self.was_good
    }

    /// Whether others behind the same interconnect became bad when it did.
    pub fn began_with_others(&self) -> bool {
        self.at_once && self.onset().is_some()
    }

    /// Whether it was bad together with many others, lately.
    pub fn is_shared(&self) -> bool {
        self.shared.is_some_and(|windows| windows <= SHARED_FOR)
    }
}

/// Natural logarithm of what a chance is worth as evidence against nothing being wrong.
fn ln_e_value(chance: f64) -> f64 {
    // Less is not computed any more, and one window shall not outweigh all that come after it.
    let chance = chance.clamp(LEAST_CHANCE, 1.0);
    CALIBRATOR.ln() + (CALIBRATOR - 1.0) * chance.ln()
}

/// The past of every client that was judged lately.
#[derive(Clone, Debug, Default)]
pub struct Standings {
    /// Of each cell by its clients' addresses, in order.
    tracks: BTreeMap<CellKey, Vec<(IpAddr, Track)>>,
}

/// One client's window, as it comes in.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    pub cell: &'a CellKey,
    pub address: IpAddr,
    pub raw: Raw,
    /// By which it would be as bad were nothing wrong ([`super::degraded::Comparison::chance`]).
    pub chance: f64,
}

impl Standings {
    /// Notes the clients of `window`, in the order of their cells; returns their tracks in the same
    /// order.
    pub fn advance(&mut self, clients: &[Judged<'_>], window: u64) -> Vec<Track> {
        let cells = || clients.chunk_by(|one, next| one.cell == next.cell);
        let mut crowds = Crowds::default();
        for cell in cells() {
            crowds.count(cell);
        }
        let mut tracks = Vec::with_capacity(clients.len());
        let fresh = Track::new(window.saturating_sub(2));
        // Both are in the order of the cells: looking each one up would take longer than the rest.
        let mut known = self.tracks.iter_mut().peekable();
        let mut new = Vec::new();
        for clients in cells() {
            let cell = clients[0].cell;
            let is_crowded = crowds.is_crowded(cell);
            while known.next_if(|(other, _)| *other < cell).is_some() {}
            let mut unknown = Vec::new();
            let past = known.next_if(|(other, _)| *other == cell);
            let is_new = past.is_none();
            let past = past.map_or(&mut unknown, |(_, past)| past);
            if is_new {
                past.reserve_exact(clients.len());
            }
            for client in clients {
                let at = past
                    .binary_search_by_key(&client.address, |(address, _)| *address)
                    .unwrap_or_else(|at| {
                        past.insert(at, (client.address, fresh));
                        at
                    });
                let track = &mut past[at].1;
                if window.saturating_sub(track.window) > FORGOTTEN_AFTER {
                    *track = fresh;
                }
                track.advance(client.raw, client.chance, window);
                if is_bad(client.raw) && is_crowded {
                    track.shared = Some(0);
                }
                tracks.push(*track);
            }
            if is_new {
                new.push((cell.clone(), unknown));
            }
        }
        self.tracks.extend(new);
        self.note_companions(clients, &mut tracks);
        self.tracks.retain(|_, past| {
            past.retain(|(_, track)| window.saturating_sub(track.window) <= FORGOTTEN_AFTER);
            !past.is_empty()
        });
        tracks
    }
}

impl Standings {
    /// Notes which of the clients, whose tracks these are, became bad together with others.
    fn note_companions(&mut self, clients: &[Judged<'_>], tracks: &mut [Track]) {
        let mut onsets: HashMap<&str, BTreeMap<u64, u64>, RandomState> = HashMap::default();
        for (cell, past) in &self.tracks {
            for onset in past.iter().filter_map(|(_, track)| track.onset()) {
                let of = onsets.entry(&*cell.interconnect).or_default();
                *of.entry(onset).or_default() += 1;
            }
        }
        let mut behind: HashMap<&str, u64, RandomState> = HashMap::default();
        for client in clients {
            *behind.entry(&*client.cell.interconnect).or_default() += 1;
        }
        let mut began = Vec::new();
        for (at, (client, track)) in clients.iter().zip(tracks.iter_mut()).enumerate() {
            let Some(onset) = track.onset().filter(|_| !track.at_once) else {
                continue;
            };
            let interconnect = &*client.cell.interconnect;
            let near = onset.saturating_sub(AT_ONCE_WINDOWS)..=onset + AT_ONCE_WINDOWS;
            let together = onsets.get(interconnect).map_or(0, |onsets| {
                onsets.range(near).map(|(_, count)| count).sum::<u64>()
            });
            let others = together.saturating_sub(1) as f64;
            if others > 0.0 && others >= MEMBER_SHARE * behind[interconnect] as f64 {
                track.at_once = true;
                began.push(at);
            }
        }
        for at in began {
            let Judged { cell, address, .. } = &clients[at];
            if let Some(past) = self.tracks.get_mut(*cell)
                && let Ok(found) = past.binary_search_by_key(address, |(address, _)| *address)
            {
                past[found].1.at_once = true;
            }
        }
    }

    /// Forgets the clients of the cells for which `holds`: what they were is no measure of what
    /// they are.
    pub fn forget(&mut self, holds: impl Fn(&CellKey) -> bool) {
        self.tracks.retain(|cell, _| !holds(cell));
    }
}

fn is_bad(raw: Raw) -> bool {
    matches!(raw, Raw::Bad | Raw::RateOnly)
}

/// Bad clients that make a crowd ...
const CROWD_CLIENTS: u64 = 3;
/// ... when they are this part of those with the same interconnect and ISP: what one member of a
/// bundle of 16, the usual limit of a LAG's hardware tables, carries. Every wider fault reaches
/// more of them; a narrower one does not reach beyond them.
const CROWD_SHARE: f64 = 0.06;

/// How many are bad together, by interconnect and ISP. Bad here means in this window alone.
#[derive(Default)]
struct Crowds<'a> {
    /// `(bad, all)`.
    groups: HashMap<(&'a str, &'a str), (u64, u64), RandomState>,
}

impl<'a> Crowds<'a> {
    /// Counts the clients of one cell.
    fn count(&mut self, clients: &[Judged<'a>]) {
        let Some(Judged { cell, .. }) = clients.first() else {
            return;
        };
        let group = (&*cell.interconnect, &*cell.isp);
        let (bad, all) = self.groups.entry(group).or_default();
        *bad += clients.iter().filter(|client| is_bad(client.raw)).count() as u64;
        *all += clients.len() as u64;
    }

    fn is_crowded(&self, cell: &CellKey) -> bool {
        self.groups
            .get(&(&*cell.interconnect, &*cell.isp))
            .is_some_and(|&(bad, all)| {
                bad >= CROWD_CLIENTS && bad as f64 >= CROWD_SHARE * all as f64
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(interconnect: &str, isp: &str, third: u8) -> CellKey {
        CellKey {
            interconnect: interconnect.into(),
            isp: isp.into(),
            origin_asn: 64500,
            prefix: format!("10.0.{third}.0/24").parse().expect("a prefix"),
            direct: true,
        }
    }

    /// The standing of one client after each window.
    fn history(raws: &[Option<Raw>]) -> Vec<Option<Standing>> {
        let mut standings = Standings::default();
        let cell = cell("a", "x", 0);
        let address = [10, 0, 0, 1].into();
        raws.iter()
            .enumerate()
            .map(|(window, raw)| {
                let clients: Vec<Judged<'_>> = raw
                    .iter()
                    .map(|&raw| Judged {
                        cell: &cell,
                        address,
                        raw,
                        chance: chance_of(raw),
                    })
                    .collect();
                let tracks = standings.advance(&clients, 100 + window as u64);
                tracks.first().map(|track| track.standing)
            })
            .collect()
    }

    fn chance_of(raw: Raw) -> f64 {
        match raw {
            Raw::Bad | Raw::RateOnly => 1e-6,
            _ => 0.5,
        }
    }

    #[test]
    fn what_is_hardly_beyond_chance_takes_longer() {
        let mut track = Track::new(98);
        let mut after = |chance, window| {
            track.advance(Raw::Bad, chance, window);
            track.standing
        };
        assert_eq!(after(0.005, 100), Standing::Unsettled);
        assert_eq!(after(0.005, 101), Standing::Unsettled);
        assert_eq!(after(0.005, 102), Standing::Unsettled);
        assert_eq!(after(0.005, 103), Standing::Bad);
    }

    #[test]
    fn false_alarms_come_no_more_often_than_is_said() {
        use proptest::prelude::Rng as _;
        use proptest::test_runner::{RngAlgorithm, TestRng};

        let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let mut track = Track::new(0);
        let (mut alarms, windows) = (0, 1_000_000);
        for _ in 0..windows {
            let chance = (random.next_u64() >> 11) as f64 / (1_u64 << 53) as f64;
            track.against = track.against.max(0.0) + ln_e_value(chance);
            if track.against >= FALSE_ALARM_WINDOWS.ln() {
                alarms += 1;
                track.against = 0.0;
            }
        }
        assert!(
            f64::from(alarms) * FALSE_ALARM_WINDOWS <= f64::from(windows),
            "{alarms} in {windows} windows"
        );
        assert!(alarms > 0);
    }

    const G: Option<Raw> = Some(Raw::Good);
    const B: Option<Raw> = Some(Raw::Bad);
    const N: Option<Raw> = Some(Raw::Grey);
    const GOOD: Option<Standing> = Some(Standing::Good);
    const BAD: Option<Standing> = Some(Standing::Bad);
    const OPEN: Option<Standing> = Some(Standing::Unsettled);

    #[test]
    fn bad_needs_two_windows_in_a_row() {
        assert_eq!(history(&[G, B, B, B]), [GOOD, OPEN, BAD, BAD]);
        assert_eq!(history(&[G, B, G, G]), [GOOD, OPEN, OPEN, GOOD]);
        assert_eq!(history(&[G, B, N, B]), [GOOD, OPEN, OPEN, OPEN]);
        assert_eq!(history(&[G, B, None, B]), [GOOD, OPEN, None, OPEN]);
    }

    #[test]
    fn good_again_needs_two_windows_in_a_row() {
        assert_eq!(history(&[B, B, G, G]), [OPEN, BAD, OPEN, GOOD]);
        assert_eq!(history(&[B, B, G, B]), [OPEN, BAD, OPEN, BAD]);
        assert_eq!(history(&[B, B, N, G, G]), [OPEN, BAD, OPEN, OPEN, GOOD]);
    }

    #[test]
    fn the_past_is_forgotten_after_a_silence() {
        assert_eq!(
            history(&[B, B, None, None, None, None, G]),
            [OPEN, BAD, None, None, None, None, GOOD]
        );
    }

    #[test]
    fn how_long_it_lasts_is_counted_from_its_beginning() {
        let mut track = Track::new(98);
        let mut lasting = |raw, window| {
            track.advance(raw, chance_of(raw), window);
            track.lasting()
        };
        assert_eq!(lasting(Raw::Bad, 100), 0);
        assert_eq!(lasting(Raw::Bad, 101), 2);
        assert_eq!(lasting(Raw::Grey, 102), 0);
        assert_eq!(lasting(Raw::Bad, 103), 4);
        assert_eq!(lasting(Raw::Good, 104), 0);
        assert_eq!(lasting(Raw::Good, 105), 0);
        assert_eq!(lasting(Raw::Bad, 106), 0);
        assert_eq!(lasting(Raw::Bad, 107), 2);
    }

    #[test]
    fn who_became_bad_with_another_did_so_while_that_one_is_silent() {
        let homes: Vec<CellKey> = (0..20).map(|third| cell("a", "x", third)).collect();
        let mut standings = Standings::default();
        let mut window = |number: u64, bad: &[usize], silent: &[usize]| {
            let there = (0..homes.len()).filter(|at| !silent.contains(at));
            let clients: Vec<Judged<'_>> = there
                .map(|at| Judged {
                    cell: &homes[at],
                    address: [10, 0, at as u8, 1].into(),
                    raw: if bad.contains(&at) {
                        Raw::Bad
                    } else {
                        Raw::Good
                    },
                    chance: if bad.contains(&at) { 1e-6 } else { 0.5 },
                })
                .collect();
            standings.advance(&clients, number)[0]
        };
        window(10, &[], &[]);
        assert!(!window(11, &[0], &[]).began_with_others());
        assert!(window(12, &[0, 7], &[]).began_with_others());
        assert!(window(13, &[0, 7], &[7]).began_with_others());
        assert!(window(14, &[0], &[7]).began_with_others());
        for number in 15..20 {
            window(number, &[], &[]);
        }
        // Another day it is alone.
        window(20, &[0], &[]);
        assert!(!window(21, &[0], &[]).began_with_others());
    }

    #[test]
    fn the_last_one_to_recover_was_bad_with_others() {
        let cells: Vec<CellKey> = (0..8).map(|third| cell("a", "x", third)).collect();
        let mut standings = Standings::default();
        let mut window = |bad: usize, number: u64| {
            let clients: Vec<Judged<'_>> = cells
                .iter()
                .enumerate()
                .map(|(at, cell)| Judged {
                    cell,
                    address: [10, 0, at as u8, 1].into(),
                    raw: if at < bad { Raw::Bad } else { Raw::Good },
                    chance: if at < bad { 1e-6 } else { 0.5 },
                })
                .collect();
            standings.advance(&clients, number)[0]
        };
        assert!(!window(1, 10).is_shared());
        assert!(window(8, 11).is_shared());
        for number in [12, 13, 15, 18] {
            // It was silent in between.
            assert!(window(1, number).is_shared(), "{number}");
        }
        assert!(!window(1, 19).is_shared());
    }
}
