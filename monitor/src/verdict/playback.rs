//! What the verdicts of its windows say of one playback.
//!
//! A place's verdict speaks about many, and any one of them may be slow for a reason of his own. A
//! playback is therefore said to be slowed by what its place's verdict names only where its own
//! client was worse than usual in that window, and *solely* by it only where nothing of it is left
//! to explain: one name in all of these windows, nobody's own limits, and, over all of them, an
//! excess of delay, losses and marks, and a lack of rate, such as other clients of its cell had. Where no other client
//! of the cell was bad there is nothing to compare with, and it is not said.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::degraded::{Comparison, Sign};
use super::finding::{Limit, Segment, Verdict};
use super::scene::Client;
use super::standing::Standing;
use super::{receiver_limited, sender_limited};
use crate::cell::CellKey;

/// What a playback has beyond the others of its cell is noise below this part of what does harm.
const SAME: f64 = 0.5;

/// Verdicts that a playback names.
const VERDICT_IDS_MAX: usize = 16;

/// What a window says of one client.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said {
    /// Not compared, or not settled.
    Nothing,
    /// As usual.
    Good,
    /// Worse than usual, by its own doing or ours.
    Limited(Limit),
    /// Worse than usual.
    Bad {
        /// Which of the window's verdicts is about its place; `None`: none is.
        verdict: Option<usize>,
        /// `None`: no other client of its cell is bad.
        beyond: Option<Beyond>,
    },
}

/// By how much a client's excess is more than that of the other bad clients of its cell (their
/// median), as parts of what does harm; `None` where it was not measured. Less than nothing where it
/// is less.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Beyond {
    rtt: Option<f64>,
    loss: Option<f64>,
    ce: Option<f64>,
    rate: Option<f64>,
}

/// A mean.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn push(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            // One window in which it was far better makes up for no other.
            self.sum += value.max(-SAME);
            self.count += 1;
        }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// What the windows of a playback said of it, together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Playback {
    /// Windows in which it did something.
    pub windows: u32,
    /// Of these, windows in which its client was compared and settled.
    pub judged: u32,
    /// Of these, windows in which it was worse than usual.
    pub degraded: u32,
    /// Of these, windows with another bad client and a verdict of one name.
    named: u32,
    /// What it had beyond the others, in those.
    rtt: Mean,
    loss: Mean,
    ce: Mean,
    rate: Mean,
    /// What the verdicts on its place left, all sets together.
    pub segments: BTreeSet<Segment>,
    /// Whose doing it was in the other windows.
    pub limits: BTreeSet<Limit>,
    /// The first verdicts on its place, by their ids.
    pub verdict_ids: Vec<String>,
}

impl Playback {
    /// Adds a window with these verdicts and their ids.
    pub fn add(&mut self, said: Said, verdicts: &[Verdict], ids: &[String]) {
        self.windows += 1;
        self.judged += u32::from(said != Said::Nothing);
        match said {
            Said::Nothing | Said::Good => {}
            Said::Limited(limit) => {
                self.degraded += 1;
                self.limits.insert(limit);
            }
            Said::Bad { verdict, beyond } => {
                self.degraded += 1;
                let Some(at) = verdict else {
                    return;
                };
                self.segments.extend(&verdicts[at].segments);
                if self.verdict_ids.len() < VERDICT_IDS_MAX {
                    self.verdict_ids.push(ids[at].clone());
                }
                if let Some(beyond) = beyond {
                    self.named += u32::from(verdicts[at].segments.len() == 1);
                    self.rtt.push(beyond.rtt);
                    self.loss.push(beyond.loss);
                    self.ce.push(beyond.ce);
                    self.rate.push(beyond.rate);
                }
            }
        }
    }

    /// Whether it was slowed in some window; `None`: nothing was compared.
    pub fn is_degraded(&self) -> Option<bool> {
        (self.judged > 0).then_some(self.degraded > 0)
    }

    /// Whether one name explains every window in which it was slowed; `None`: it was in none.
    pub fn is_sole(&self) -> Option<bool> {
        let is_same = |mean: Mean| mean.value().is_none_or(|beyond| beyond <= SAME);
        let named = self.named == self.degraded && self.segments.len() == 1;
        // Marks and rates are not to be had everywhere; delay and losses must be, in each window.
        let measured = self.rtt.count == self.named && self.loss.count == self.named;
        let figures = [self.rtt, self.loss, self.ce, self.rate];
        let like_others = measured && figures.into_iter().all(is_same);
        (self.degraded > 0).then_some(named && like_others)
    }
}

/// What a window says of one cell, the same for all of its clients.
#[derive(Debug)]
pub struct CellSaid<'a> {
    clients: &'a [Client],
    /// The verdict on its place: the widest first, because what that explains is in no other one.
    verdict: Option<usize>,
    rtt: Excesses,
    loss: Excesses,
    ce: Excesses,
    rate: Excesses,
}

impl<'a> CellSaid<'a> {
    /// `clients` are the cell's, by their addresses.
    pub fn new(cell: &CellKey, clients: &'a [Client], verdicts: &[Verdict]) -> Self {
        Self {
            clients,
            verdict: verdicts.iter().position(|verdict| {
                verdict.degraded == Some(true)
                    && verdict.limits.is_empty()
                    && verdict.place.holds(cell)
            }),
            rtt: Excesses::of(clients, |it| it.rtt),
            loss: Excesses::of(clients, |it| it.loss),
            ce: Excesses::of(clients, |it| it.ce),
            rate: Excesses::of(clients, |it| it.rate),
        }
    }

    /// What it says of the client with this address.
    pub fn of(&self, address: IpAddr) -> Said {
        let found = self
            .clients
            .binary_search_by_key(&address, |client| client.address);
        let Ok(found) = found else {
            return Said::Nothing;
        };
        let client = &self.clients[found];
        match client.track.standing {
            Standing::Unsettled => return Said::Nothing,
            Standing::Good => return Said::Good,
            Standing::Bad => {}
        }
        let window_full = client.rwnd_limited_share >= receiver_limited::WINDOW_FULL_SHARE;
        let signs = &client.signs;
        if !(signs.queue || signs.loss || signs.ce) {
            // Only the rate is low.
            return Said::Limited(if window_full {
                receiver_limited::LIMIT
            } else {
                sender_limited::LIMIT
            });
        }
        let own = &client.comparison;
        let beyond = Beyond {
            rtt: self.rtt.beyond(own.rtt),
            loss: self.loss.beyond(own.loss),
            ce: self.ce.beyond(own.ce),
            rate: self.rate.beyond(own.rate),
        };
        Said::Bad {
            verdict: self.verdict,
            // Its own full window slows it as well. Every client that is judged has an RTT.
            beyond: (!window_full && beyond.rtt.is_some()).then_some(beyond),
        }
    }
}

/// One figure's excesses of the bad clients of a cell, sorted; less than nothing is nothing.
#[derive(Debug)]
struct Excesses(Vec<f64>);

impl Excesses {
    fn of(clients: &[Client], pick: fn(&Comparison) -> Option<Sign>) -> Self {
        let bad = clients.iter().filter(|client| client.is_bad());
        let mut all: Vec<f64> = bad
            .filter_map(|client| pick(&client.comparison))
            .map(|sign| sign.excess.max(0.0))
            .collect();
        all.sort_by(f64::total_cmp);
        Self(all)
    }

    /// How far one of them is beyond the median of the others.
    fn beyond(&self, own: Option<Sign>) -> Option<f64> {
        let own = own?;
        let itself = self.0.partition_point(|other| *other < own.excess.max(0.0));
        // Half of the others may have troubles of their own: the lower one of two in the middle.
        let middle = self.0.len().checked_sub(2)? / 2;
        let mut others = self.0.iter().enumerate().filter(|(at, _)| *at != itself);
        let (_, median) = others.nth(middle)?;
        Some((own.excess - median) / own.threshold)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use super::super::degraded::Signs;
    use super::super::finding::Place;
    use super::super::standing::Track;
    use super::*;

    fn cell() -> CellKey {
        CellKey {
            interconnect: Arc::from("ic-a"),
            isp: Arc::from("isp-x"),
            origin_asn: 64_501,
            prefix: "10.0.0.0/24".parse().expect("a prefix"),
            direct: true,
        }
    }

    fn client(number: u8, track: Track, queue_us: f64, loss: f64) -> Client {
        let sign = |excess, threshold| {
            Some(Sign {
                excess,
                threshold,
                chance: 0.001,
            })
        };
        Client {
            address: IpAddr::V4(Ipv4Addr::new(10, 0, 0, number)),
            prefix: cell().prefix,
            track,
            signs: Signs {
                queue: true,
                ..Signs::default()
            },
            comparison: Comparison {
                rtt: sign(queue_us, 5_000.0),
                loss: sign(loss, 0.01),
                ..Comparison::default()
            },
            chunks: 10,
            observations: 1,
            arms: Default::default(),
            rwnd_limited_share: 0.0,
            idle_share: 0.5,
        }
    }

    fn bad(number: u8, queue_us: f64, loss: f64) -> Client {
        client(number, Track::bad_for(3), queue_us, loss)
    }

    fn verdict(place: Place, segments: &[Segment]) -> Verdict {
        Verdict {
            degraded: Some(true),
            segments: segments.iter().copied().collect::<BTreeSet<_>>(),
            ..Verdict::about(place)
        }
    }

    fn of_isp(isp: &str, segments: &[Segment]) -> Verdict {
        let place = Place::Isp {
            isp: Arc::from(isp),
            origin_asn: 64_501,
        };
        verdict(place, segments)
    }

    fn says(client: &Client, others: &[Client], verdicts: &[Verdict]) -> Said {
        let mut neighbours = vec![client.clone()];
        neighbours.extend_from_slice(others);
        neighbours.sort_by_key(|neighbour| neighbour.address);
        CellSaid::new(&cell(), &neighbours, verdicts).of(client.address)
    }

    /// What is said after windows like this one: which verdict, and whether it is the only cause.
    fn concludes(
        client: &Client,
        others: &[Client],
        verdicts: &[Verdict],
    ) -> (Option<usize>, Option<bool>) {
        let said = says(client, others, verdicts);
        let Said::Bad { verdict, .. } = said else {
            panic!("it is bad: {said:?}");
        };
        let ids: Vec<String> = (0..verdicts.len()).map(|at| at.to_string()).collect();
        let mut playback = Playback::default();
        playback.add(said, verdicts, &ids);
        playback.add(said, verdicts, &ids);
        (verdict, playback.is_sole())
    }

    const SOLELY: (Option<usize>, Option<bool>) = (Some(0), Some(true));
    const AND_MORE: (Option<usize>, Option<bool>) = (Some(0), Some(false));

    #[test]
    fn one_that_is_as_bad_as_the_others_is_so_solely_by_what_is_named() {
        let others = [bad(2, 30_000.0, 0.02)];
        let named = [of_isp("isp-x", &[Segment::Isp])];
        assert_eq!(concludes(&bad(1, 31_000.0, 0.02), &others, &named), SOLELY);
        assert_eq!(concludes(&bad(1, 20_000.0, 0.0), &others, &named), SOLELY);
    }

    #[test]
    fn what_it_has_beyond_the_others_is_its_own() {
        let others = [bad(2, 30_000.0, 0.0)];
        let named = [of_isp("isp-x", &[Segment::Isp])];
        assert_eq!(concludes(&bad(1, 50_000.0, 0.0), &others, &named), AND_MORE);
        assert_eq!(
            concludes(&bad(1, 30_000.0, 0.03), &others, &named),
            AND_MORE
        );
    }

    #[test]
    fn one_outlier_beside_it_hides_nothing() {
        let others = [6, 7, 8, 9].map(|number| bad(number, 6_000.0, 0.0));
        let mut others = Vec::from(others);
        others.push(bad(2, 70_000.0, 0.0));
        let named = [of_isp("isp-x", &[Segment::Isp])];
        assert_eq!(concludes(&bad(1, 60_000.0, 0.0), &others, &named), AND_MORE);
        assert_eq!(concludes(&bad(1, 7_000.0, 0.0), &others, &named), SOLELY);
    }

    #[test]
    fn one_window_in_which_it_was_better_makes_up_for_no_other() {
        let named = [of_isp("isp-x", &[Segment::Isp])];
        let ids = ["a-1".to_owned()];
        let mut playback = Playback::default();
        for (own, other) in [(10.0, 110.0), (45.0, 30.0), (45.0, 30.0), (45.0, 30.0)] {
            let other = bad(2, other * 1_000.0, 0.0);
            let said = says(&bad(1, own * 1_000.0, 0.0), &[other], &named);
            playback.add(said, &named, &ids);
        }
        assert_eq!(playback.is_sole(), Some(false), "{playback:?}");
    }

    #[test]
    fn what_was_measured_in_one_window_says_nothing_about_the_others() {
        let named = [of_isp("isp-x", &[Segment::Isp])];
        let ids = ["a-1".to_owned()];
        let others = [bad(2, 30_000.0, 0.0)];
        let whole = bad(1, 30_000.0, 0.0);
        let mut unmeasured = whole.clone();
        unmeasured.comparison.loss = None;
        let mut playback = Playback::default();
        playback.add(says(&whole, &others, &named), &named, &ids);
        assert_eq!(playback.is_sole(), Some(true));
        playback.add(says(&unmeasured, &others, &named), &named, &ids);
        assert_eq!(playback.is_sole(), Some(false));
    }

    #[test]
    fn a_full_receive_window_beside_a_queue_is_another_cause() {
        let mut one = bad(1, 30_000.0, 0.0);
        one.rwnd_limited_share = 0.95;
        let named = [of_isp("isp-x", &[Segment::Isp])];
        assert_eq!(concludes(&one, &[bad(2, 30_000.0, 0.0)], &named), AND_MORE);
        // A rate that is much lower than the others' has another cause too.
        let with_rate = |number, missing| {
            let mut client = bad(number, 30_000.0, 0.0);
            client.comparison.rate = Some(Sign {
                excess: missing,
                threshold: 0.5,
                chance: 0.001,
            });
            client
        };
        let others = [with_rate(2, 0.4)];
        assert_eq!(concludes(&with_rate(1, 0.5), &others, &named), SOLELY);
        assert_eq!(concludes(&with_rate(1, 0.9), &others, &named), AND_MORE);
    }

    #[test]
    fn what_is_noise_in_one_window_is_none_over_several() {
        let named = [of_isp("isp-x", &[Segment::Isp])];
        let ids = ["a-1".to_owned()];
        let mut playback = Playback::default();
        for (own, other) in [(0.030, 0.020), (0.020, 0.030), (0.022, 0.018)] {
            let said = says(&bad(1, 30_000.0, own), &[bad(2, 30_000.0, other)], &named);
            playback.add(said, &named, &ids);
        }
        assert_eq!(playback.is_sole(), Some(true), "{playback:?}");
        let much_more = says(&bad(1, 90_000.0, 0.02), &[bad(2, 30_000.0, 0.02)], &named);
        playback.add(much_more, &named, &ids);
        assert_eq!(playback.is_sole(), Some(false), "{playback:?}");
    }

    #[test]
    fn without_another_one_and_without_one_name_it_is_only_consistent() {
        let one = bad(1, 30_000.0, 0.0);
        let others = [bad(2, 30_000.0, 0.0)];
        let named = [of_isp("isp-x", &[Segment::Isp])];
        assert_eq!(concludes(&one, &[], &named), AND_MORE);
        let good = client(3, Track::settled(Standing::Good), 30_000.0, 0.0);
        assert_eq!(concludes(&one, &[good], &named), AND_MORE);
        let set = [of_isp("isp-x", &[Segment::Isp, Segment::Transit])];
        assert_eq!(concludes(&one, &others, &set), AND_MORE);
        let mut unmeasured = one.clone();
        unmeasured.comparison.loss = None;
        assert_eq!(concludes(&unmeasured, &others, &named), AND_MORE);
    }

    #[test]
    fn only_what_is_about_its_place_is_said_of_it() {
        let one = bad(1, 30_000.0, 0.0);
        let others = [bad(2, 30_000.0, 0.0)];
        let mut verdicts = vec![of_isp("isp-y", &[Segment::Isp])];
        let nothing = (None, Some(false));
        assert_eq!(concludes(&one, &others, &verdicts), nothing);
        verdicts.push(verdict(
            Place::Interconnect(Arc::from("ic-a")),
            &[Segment::Interconnect],
        ));
        let second = (Some(1), Some(true));
        assert_eq!(concludes(&one, &others, &verdicts), second);
        let well = Verdict {
            degraded: Some(false),
            ..Verdict::about(Place::Everything)
        };
        assert_eq!(concludes(&one, &others, &[well]), nothing);
    }

    #[test]
    fn one_that_holds_itself_back_is_slowed_by_nobody_else() {
        // Its rate alone is low, in this window.
        let mut one = bad(1, 0.0, 0.0);
        one.signs = Signs {
            rate: true,
            ..Signs::default()
        };
        one.rwnd_limited_share = 0.9;
        let verdicts = [of_isp("isp-x", &[Segment::Isp])];
        assert_eq!(
            says(&one, &[], &verdicts),
            Said::Limited(Limit::ReceiverLimited)
        );
    }

    #[test]
    fn a_playback_is_slowed_solely_where_all_its_bad_windows_say_so() {
        let verdicts = [
            of_isp("isp-x", &[Segment::Isp]),
            of_isp("isp-x", &[Segment::LastMile]),
        ];
        let ids = ["a-1".to_owned(), "a-2".to_owned()];
        let played = |windows: &[Said]| {
            let mut playback = Playback::default();
            for said in windows {
                playback.add(*said, &verdicts, &ids);
            }
            playback
        };
        let nothing = played(&[Said::Nothing, Said::Nothing]);
        assert_eq!((nothing.is_degraded(), nothing.is_sole()), (None, None));
        let good = played(&[Said::Good, Said::Nothing]);
        assert_eq!((good.is_degraded(), good.is_sole()), (Some(false), None));

        let by = |at| Said::Bad {
            verdict: Some(at),
            beyond: Some(Beyond {
                rtt: Some(0.0),
                loss: Some(-0.1),
                ..Beyond::default()
            }),
        };
        let sole = played(&[Said::Good, by(0), by(0), Said::Nothing]);
        assert_eq!((sole.windows, sole.judged, sole.degraded), (4, 3, 2));
        assert_eq!(
            (sole.is_degraded(), sole.is_sole()),
            (Some(true), Some(true))
        );
        assert_eq!(sole.segments, BTreeSet::from([Segment::Isp]));
        assert_eq!(sole.verdict_ids, ["a-1", "a-1"]);

        let alone = Said::Bad {
            verdict: Some(0),
            beyond: None,
        };
        for more in [alone, by(1), Said::Limited(Limit::ReceiverLimited)] {
            let both = played(&[by(0), more]);
            assert_eq!(both.is_sole(), Some(false), "{more:?}");
        }
    }

    #[test]
    fn what_is_not_settled_says_nothing() {
        let verdicts = [of_isp("isp-x", &[Segment::Isp])];
        let unsettled = client(1, Track::unsettled(7), 30_000.0, 0.0);
        assert_eq!(says(&unsettled, &[], &verdicts), Said::Nothing);
        let good = client(1, Track::settled(Standing::Good), 0.0, 0.0);
        assert_eq!(says(&good, &[], &verdicts), Said::Good);
    }
}
