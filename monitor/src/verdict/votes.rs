//! The votes of a window, found by the places that their traffic crosses.
//!
//! Every hypothesis asks about one interconnect, one ISP or one pair of them, and a window may have
//! hundreds of thousands of votes: they are counted once, by pair, and looked up from then on.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::finding::Place;
use super::scene::{Client, Tally, Vote};

/// Where each vote of a window is.
#[derive(Debug)]
pub struct Index<'a> {
    votes: &'a [Vote],
    counted: Vec<Counted>,
    /// Those with clients that are bad, in their order.
    bad: Vec<u32>,
    /// By interconnect and ISP, in order.
    pairs: Vec<Pair<'a>>,
    /// By name, in order.
    interconnects: Vec<Side<'a>>,
    isps: Vec<Side<'a>>,
}

/// One vote, counted.
#[derive(Clone, Copy, Debug)]
struct Counted {
    pair: u32,
    bad: f64,
    good: f64,
    settled: Settled,
}

#[derive(Debug)]
struct Pair<'a> {
    interconnect: &'a Arc<str>,
    isp: &'a Arc<str>,
    /// Their numbers among the sides.
    sides: [u32; 2],
    /// In their order.
    votes: Vec<u32>,
}

/// An interconnect, or an ISP.
#[derive(Debug)]
struct Side<'a> {
    name: &'a Arc<str>,
    /// In their order.
    votes: Vec<u32>,
    pairs: Vec<u32>,
}

/// Clients that are not unsettled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    pub bad: u64,
    pub good: u64,
}

impl Settled {
    pub fn of(vote: &Vote) -> Self {
        let count = |holds: fn(&Client) -> bool| {
            vote.clients.iter().filter(|client| holds(client)).count() as u64
        };
        Self {
            bad: count(Client::is_bad),
            good: count(Client::is_good),
        }
    }

    pub fn add(&mut self, other: Self) {
        self.bad += other.bad;
        self.good += other.good;
    }

    pub fn remove(&mut self, other: Self) {
        self.bad -= other.bad;
        self.good -= other.good;
    }

    /// Part of them that is bad.
    pub fn share(self) -> f64 {
        self.bad as f64 / (self.bad + self.good).max(1) as f64
    }
}

impl<'a> Index<'a> {
    pub fn new(votes: &'a [Vote]) -> Self {
        // Votes of a pair mostly follow each other, so that few names are compared.
        let mut by_pair: BTreeMap<(&'a Arc<str>, &'a Arc<str>), Vec<u32>> = BTreeMap::new();
        let mut rest = votes;
        while let Some(first) = rest.first() {
            let key = (&first.cell.interconnect, &first.cell.isp);
            let is_other = |vote: &Vote| (&vote.cell.interconnect, &vote.cell.isp) != key;
            let len = rest.iter().position(is_other).unwrap_or(rest.len());
            let start = (votes.len() - rest.len()) as u32;
            let run = start..start + len as u32;
            by_pair.entry(key).or_default().extend(run);
            rest = &rest[len..];
        }
        let mut counted: Vec<Counted> = votes
            .iter()
            .map(|vote| Counted {
                pair: 0,
                bad: vote.bad(),
                good: vote.good(),
                settled: Settled::of(vote),
            })
            .collect();
        let mut pairs: Vec<Pair<'a>> = Vec::with_capacity(by_pair.len());
        for (number, ((interconnect, isp), votes)) in by_pair.into_iter().enumerate() {
            for at in &votes {
                counted[*at as usize].pair = number as u32;
            }
            pairs.push(Pair {
                interconnect,
                isp,
                sides: [0; 2],
                votes,
            });
        }
        let interconnects = sides(&mut pairs, 0, |pair| pair.interconnect);
        let isps = sides(&mut pairs, 1, |pair| pair.isp);
        let bad = counted.iter().enumerate();
        let bad = bad.filter(|(_, vote)| vote.settled.bad > 0);
        Self {
            votes,
            bad: bad.map(|(at, _)| at as u32).collect(),
            counted,
            pairs,
            interconnects,
            isps,
        }
    }

    fn pair(&self, interconnect: &str, isp: &str) -> Option<u32> {
        let key = (interconnect, isp);
        let of = |pair: &Pair<'_>| (&**pair.interconnect, &**pair.isp).cmp(&key);
        let found = self.pairs.binary_search_by(of);
        found.ok().map(|number| number as u32)
    }

    fn tally(&self, votes: &[u32]) -> Tally {
        let mut tally = Tally::default();
        for at in votes {
            let vote = &self.counted[*at as usize];
            tally.push(vote.bad, vote.good);
        }
        tally
    }
}

/// Groups pairs by the name of one of their sides.
fn sides<'a>(
    pairs: &mut [Pair<'a>],
    which: usize,
    name: impl Fn(&Pair<'a>) -> &'a Arc<str>,
) -> Vec<Side<'a>> {
    let mut by_name: BTreeMap<&'a Arc<str>, Vec<u32>> = BTreeMap::new();
    for (number, pair) in pairs.iter().enumerate() {
        by_name.entry(name(pair)).or_default().push(number as u32);
    }
    let mut sides = Vec::with_capacity(by_name.len());
    for (name, numbers) in by_name {
        let mut votes = Vec::new();
        for number in &numbers {
            let pair = &mut pairs[*number as usize];
            pair.sides[which] = sides.len() as u32;
            votes.extend_from_slice(&pair.votes);
        }
        votes.sort_unstable();
        sides.push(Side {
            name,
            votes,
            pairs: numbers,
        });
    }
    sides
}

fn find<'s, 'a>(sides: &'s [Side<'a>], name: &str) -> Option<&'s Side<'a>> {
    let found = sides.binary_search_by(|side| (**side.name).cmp(name));
    found.ok().map(|at| &sides[at])
}

/// Those votes of a window that are still there.
#[derive(Clone, Debug)]
pub struct Votes<'a> {
    index: &'a Index<'a>,
    here: Vec<bool>,
    len: usize,
    /// By the number of the pair.
    pairs: Vec<Sums>,
    /// By the number of the side.
    interconnects: Vec<Settled>,
    isps: Vec<Settled>,
    settled: Settled,
}

/// The votes of a pair that are still there.
#[derive(Clone, Copy, Debug, Default)]
struct Sums {
    tally: Tally,
    settled: Settled,
}

impl<'a> Votes<'a> {
    /// All of them.
    pub fn all(index: &'a Index<'a>) -> Self {
        let mut votes = Self {
            index,
            here: vec![true; index.votes.len()],
            len: index.votes.len(),
            pairs: vec![Sums::default(); index.pairs.len()],
            interconnects: vec![Settled::default(); index.interconnects.len()],
            isps: vec![Settled::default(); index.isps.len()],
            settled: Settled::default(),
        };
        (0..index.pairs.len()).for_each(|number| votes.count(number));
        votes
    }

    fn count(&mut self, number: usize) {
        let pair = &self.index.pairs[number];
        let mut sums = Sums::default();
        for at in &pair.votes {
            if self.here[*at as usize] {
                let vote = &self.index.counted[*at as usize];
                sums.tally.push(vote.bad, vote.good);
                sums.settled.add(vote.settled);
            }
        }
        let before = std::mem::replace(&mut self.pairs[number], sums).settled;
        let [interconnect, isp] = pair.sides.map(|side| side as usize);
        for sum in [
            &mut self.interconnects[interconnect],
            &mut self.isps[isp],
            &mut self.settled,
        ] {
            sum.add(sums.settled);
            sum.remove(before);
        }
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// Takes away every vote of `place`.
    pub fn remove(&mut self, place: &Place) {
        let gone: Vec<u32> = self.numbers(place).collect();
        let mut pairs: Vec<u32> = Vec::new();
        for at in gone {
            self.here[at as usize] = false;
            self.len -= 1;
            pairs.push(self.index.counted[at as usize].pair);
        }
        pairs.sort_unstable();
        pairs.dedup();
        for number in pairs {
            self.count(number as usize);
        }
    }

    /// Those of `place`, in their order.
    pub fn at<'s>(&'s self, place: &'s Place) -> impl Iterator<Item = &'a Vote> + 's {
        let votes = self.index.votes;
        self.numbers(place).map(move |at| &votes[at as usize])
    }

    /// Those of `isp` through `interconnect`, in their order; none, where there is no interconnect.
    pub fn of_pair(
        &self,
        interconnect: Option<&Arc<str>>,
        isp: &str,
    ) -> impl Iterator<Item = &'a Vote> + '_ {
        let pair = interconnect.and_then(|name| self.index.pair(name, isp));
        let listed = pair.map(|number| &self.index.pairs[number as usize].votes);
        let votes = self.index.votes;
        let numbers = listed.into_iter().flatten().map(|at| *at as usize);
        let here = numbers.filter(move |at| self.here[*at]);
        here.map(move |at| &votes[at])
    }

    /// Those with clients that are bad, in their order.
    pub fn bad(&self) -> impl Iterator<Item = &'a Vote> + '_ {
        let (index, here) = (self.index, &self.here);
        let bad = index.bad.iter().map(|at| *at as usize);
        bad.filter(move |at| here[*at])
            .map(move |at| &index.votes[at])
    }

    fn numbers<'s>(&'s self, place: &'s Place) -> impl Iterator<Item = u32> + 's {
        let index = self.index;
        let (listed, everything): (&'s [u32], u32) = match (place.interconnect(), place.isp()) {
            (None, None) => (&[], index.votes.len() as u32),
            (Some(name), None) => (votes_of(&index.interconnects, name), 0),
            (None, Some(name)) => (votes_of(&index.isps, name), 0),
            (Some(interconnect), Some(isp)) => match index.pair(interconnect, isp) {
                Some(number) => (index.pairs[number as usize].votes.as_slice(), 0),
                None => (&[], 0),
            },
        };
        let prefix = place.prefix();
        let inside = move |at: &u32| {
            let at = *at as usize;
            self.here[at] && prefix.is_none_or(|prefix| index.votes[at].cell.prefix == prefix)
        };
        listed.iter().copied().chain(0..everything).filter(inside)
    }

    /// The numbers of the pairs that cross `place`, whatever is left of them.
    fn pairs_at(&self, place: &Place) -> Vec<u32> {
        let index = self.index;
        match (place.interconnect(), place.isp()) {
            (None, None) => (0..index.pairs.len() as u32).collect(),
            (Some(name), None) => pairs_of(&index.interconnects, name).to_vec(),
            (None, Some(name)) => pairs_of(&index.isps, name).to_vec(),
            (Some(interconnect), Some(isp)) => index.pair(interconnect, isp).into_iter().collect(),
        }
    }

    /// Votes behind `interconnect`, by ISP.
    pub fn by_isp(&self, interconnect: &str) -> BTreeMap<Arc<str>, Tally> {
        let pairs = pairs_of(&self.index.interconnects, interconnect);
        self.tallies(pairs, |pair| pair.isp)
    }

    /// Votes of `isp`, by interconnect.
    pub fn by_interconnect(&self, isp: &str) -> BTreeMap<Arc<str>, Tally> {
        let pairs = pairs_of(&self.index.isps, isp);
        self.tallies(pairs, |pair| pair.interconnect)
    }

    fn tallies(
        &self,
        pairs: &[u32],
        name: impl Fn(&Pair<'a>) -> &'a Arc<str>,
    ) -> BTreeMap<Arc<str>, Tally> {
        let tallies = pairs.iter().map(|number| {
            let number = *number as usize;
            let tally = self.pairs[number].tally;
            (Arc::clone(name(&self.index.pairs[number])), tally)
        });
        tallies.filter(|(_, tally)| tally.prefixes > 0).collect()
    }

    /// Of how many ISPs behind `interconnect` it holds.
    pub fn count_isps(&self, interconnect: &str, holds: impl Fn(&Tally) -> bool) -> usize {
        self.count_pairs(pairs_of(&self.index.interconnects, interconnect), holds)
    }

    /// Of how many interconnects toward `isp` it holds.
    pub fn count_interconnects(&self, isp: &str, holds: impl Fn(&Tally) -> bool) -> usize {
        self.count_pairs(pairs_of(&self.index.isps, isp), holds)
    }

    fn count_pairs(&self, pairs: &[u32], holds: impl Fn(&Tally) -> bool) -> usize {
        let tallies = pairs
            .iter()
            .map(|number| &self.pairs[*number as usize].tally);
        let there = tallies.filter(|tally| tally.prefixes > 0);
        there.filter(|tally| holds(tally)).count()
    }

    /// The settled clients behind `interconnect` by ISP, and those behind all others.
    pub fn settled(&self, interconnect: &str) -> (Vec<Settled>, Settled) {
        let pairs = pairs_of(&self.index.interconnects, interconnect);
        let behind = pairs
            .iter()
            .map(|number| self.pairs[*number as usize].settled);
        let behind: Vec<Settled> = behind.collect();
        let mut elsewhere = self.settled;
        behind.iter().for_each(|isp| elsewhere.remove(*isp));
        (behind, elsewhere)
    }

    /// Interconnects through which the bad clients of `place` are reached, in order.
    pub fn bad_interconnects(&self, place: &Place) -> Vec<Arc<str>> {
        if *place == Place::Everything {
            return bad_sides(&self.index.interconnects, &self.interconnects);
        }
        self.bad_names(place, |pair| pair.interconnect)
    }

    /// ISPs of the bad clients of `place`, in order.
    pub fn bad_isps(&self, place: &Place) -> Vec<Arc<str>> {
        if *place == Place::Everything {
            return bad_sides(&self.index.isps, &self.isps);
        }
        self.bad_names(place, |pair| pair.isp)
    }

    fn bad_names(&self, place: &Place, name: impl Fn(&Pair<'a>) -> &'a Arc<str>) -> Vec<Arc<str>> {
        let mut names: Vec<&Arc<str>> = Vec::new();
        for number in self.pairs_at(place) {
            let number = number as usize;
            let is_bad = match place.prefix() {
                None => self.pairs[number].settled.bad > 0,
                Some(_) => self.at(place).any(Vote::has_bad),
            };
            if is_bad {
                names.push(name(&self.index.pairs[number]));
            }
        }
        names.sort_unstable();
        names.dedup();
        names.into_iter().cloned().collect()
    }

    /// The sum of what agrees with trouble at `place` and nowhere else: what is bad inside (of one
    /// prefix also what is good), and what is good outside.
    pub fn agreeing(&self, place: &Place) -> f64 {
        let one_prefix = place.prefix().is_some();
        let is = |wanted: Option<&Arc<str>>, name: &Arc<str>| wanted.is_none_or(|it| it == name);
        let mut sum = 0.0;
        for (pair, sums) in self.index.pairs.iter().zip(&self.pairs) {
            let inside = is(place.interconnect(), pair.interconnect) && is(place.isp(), pair.isp);
            if !inside {
                sum += sums.tally.good_sum();
            } else if !one_prefix {
                sum += sums.tally.bad_sum();
            } else {
                let votes = pair.votes.iter().map(|at| *at as usize);
                for at in votes.filter(|at| self.here[*at]) {
                    let vote = &self.index.counted[at];
                    sum += match place.contains(&self.index.votes[at].cell) {
                        true => vote.bad + vote.good,
                        false => vote.good,
                    };
                }
            }
        }
        sum
    }

    /// All of them, in their order.
    #[cfg(test)]
    fn everything(&self) -> Vec<&'a Vote> {
        let votes = self.index.votes;
        let numbers = self.numbers(&Place::Everything);
        numbers.map(|at| &votes[at as usize]).collect()
    }
}

fn votes_of<'s>(sides: &'s [Side<'_>], name: &str) -> &'s [u32] {
    find(sides, name).map_or(&[], |side| side.votes.as_slice())
}

fn pairs_of<'s>(sides: &'s [Side<'_>], name: &str) -> &'s [u32] {
    find(sides, name).map_or(&[], |side| side.pairs.as_slice())
}

fn bad_sides(sides: &[Side<'_>], settled: &[Settled]) -> Vec<Arc<str>> {
    let sides = sides.iter().zip(settled);
    let bad = sides.filter(|(_, settled)| settled.bad > 0);
    bad.map(|(side, _)| Arc::clone(side.name)).collect()
}

/// What never changes while a window is judged: all votes, counted in every way.
#[derive(Debug)]
pub struct Totals {
    pub all: Tally,
    pub interconnects: BTreeMap<Arc<str>, Tally>,
    pub isps: BTreeMap<Arc<str>, Tally>,
}

impl Totals {
    pub fn of(index: &Index<'_>) -> Self {
        let tallies = |sides: &[Side<'_>]| {
            let sides = sides.iter();
            sides
                .map(|side| (Arc::clone(side.name), index.tally(&side.votes)))
                .collect()
        };
        Self {
            all: Tally::of(index.votes),
            interconnects: tallies(&index.interconnects),
            isps: tallies(&index.isps),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::CellKey;
    use crate::verdict::degraded::{Comparison, Signs};
    use crate::verdict::scene::tallies;
    use crate::verdict::standing::{Standing, Track};
    use proptest::prelude::*;

    fn vote((interconnect, isp, third, standings): (u8, u8, u8, Vec<u8>)) -> Vote {
        let client = |standing: u8| Client {
            address: [10, 0, 0, 1].into(),
            prefix: ipnet::IpNet::default(),
            track: Track::settled(match standing {
                0 => Standing::Good,
                1 => Standing::Unsettled,
                _ => Standing::Bad,
            }),
            signs: Signs::default(),
            comparison: Comparison::default(),
            chunks: 10,
            observations: 1,
            arms: Default::default(),
            rwnd_limited_share: 0.0,
            idle_share: 0.0,
        };
        Vote {
            cell: CellKey {
                interconnect: format!("ic-{interconnect}").into(),
                isp: format!("isp-{isp}").into(),
                origin_asn: 64_500,
                prefix: format!("10.0.{third}.0/24").parse().expect("a prefix"),
                direct: true,
            },
            pooled: false,
            clients: standings.into_iter().map(client).collect(),
        }
    }

    fn votes() -> impl Strategy<Value = Vec<Vote>> {
        let standings = prop::collection::vec(0..3_u8, 1..4);
        let one = (0..4_u8, 0..4_u8, 0..6_u8, standings).prop_map(vote);
        prop::collection::vec(one, 0..40)
    }

    fn places() -> impl Strategy<Value = Place> {
        (0..5, 0..5_u8, 0..5_u8, 0..6_u8).prop_map(|(kind, interconnect, isp, third)| {
            let interconnect: Arc<str> = format!("ic-{interconnect}").into();
            let isp: Arc<str> = format!("isp-{isp}").into();
            let origin_asn = 64_500;
            match kind {
                0 => Place::Everything,
                1 => Place::Interconnect(interconnect),
                2 => Place::Isp { isp, origin_asn },
                3 => Place::Pair {
                    interconnect,
                    isp,
                    origin_asn,
                },
                _ => Place::Prefix {
                    interconnect,
                    isp,
                    origin_asn,
                    prefix: format!("10.0.{third}.0/24").parse().expect("a prefix"),
                },
            }
        })
    }

    proptest! {
        /// Whatever was taken away: the index finds what a search through all votes finds.
        #[test]
        fn the_index_finds_what_a_search_finds(
            votes in votes(),
            gone in prop::collection::vec(places(), 0..4),
            place in places(),
        ) {
            let index = Index::new(&votes);
            let mut indexed = Votes::all(&index);
            let mut plain: Vec<&Vote> = votes.iter().collect();
            for gone in gone.iter().filter(|gone| **gone != Place::Everything) {
                indexed.remove(gone);
                plain.retain(|vote| !gone.contains(&vote.cell));
            }
            prop_assert_eq!(indexed.len(), plain.len());
            prop_assert!(indexed.everything().into_iter().map(std::ptr::from_ref).eq(
                plain.iter().copied().map(std::ptr::from_ref)
            ));
            let inside: Vec<&Vote> = plain
                .iter()
                .copied()
                .filter(|vote| place.contains(&vote.cell))
                .collect();
            prop_assert!(indexed.at(&place).map(std::ptr::from_ref).eq(
                inside.iter().copied().map(std::ptr::from_ref)
            ));
            let bad = plain.iter().copied().filter(|vote| vote.has_bad());
            prop_assert!(indexed.bad().map(std::ptr::from_ref).eq(bad.map(std::ptr::from_ref)));
            let inside_bad = inside.iter().copied().filter(|vote| vote.has_bad());
            let names: std::collections::BTreeSet<Arc<str>> = inside_bad
                .clone()
                .map(|vote| Arc::clone(&vote.cell.interconnect))
                .collect();
            prop_assert_eq!(indexed.bad_interconnects(&place), Vec::from_iter(names));
            let names: std::collections::BTreeSet<Arc<str>> =
                inside_bad.map(|vote| Arc::clone(&vote.cell.isp)).collect();
            prop_assert_eq!(indexed.bad_isps(&place), Vec::from_iter(names));
            let behind = plain.iter().copied().filter(|vote| &*vote.cell.interconnect == "ic-1");
            prop_assert_eq!(indexed.by_isp("ic-1"), tallies(behind, |cell| &cell.isp));
            let of_isp = plain.iter().copied().filter(|vote| &*vote.cell.isp == "isp-1");
            prop_assert_eq!(
                indexed.by_interconnect("isp-1"),
                tallies(of_isp, |cell| &cell.interconnect)
            );
            let one_prefix = place.prefix().is_some();
            let agreeing: f64 = plain
                .iter()
                .map(|vote| match place.contains(&vote.cell) {
                    true if one_prefix => vote.bad() + vote.good(),
                    true => vote.bad(),
                    false => vote.good(),
                })
                .sum();
            prop_assert!((indexed.agreeing(&place) - agreeing).abs() < 1e-9);
            let totals = Totals::of(&index);
            prop_assert_eq!(totals.isps, tallies(&votes, |cell| &cell.isp));
            prop_assert_eq!(totals.interconnects, tallies(&votes, |cell| &cell.interconnect));
            let (behind, elsewhere) = indexed.settled("ic-1");
            let mut sum = elsewhere;
            behind.iter().for_each(|isp| sum.add(*isp));
            let all = plain.iter().flat_map(|vote| vote.clients.iter()).filter(|client| client.is_bad());
            prop_assert_eq!(sum.bad, all.count() as u64);
        }
    }
}
