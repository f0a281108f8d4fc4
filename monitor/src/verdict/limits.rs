//! Hypothesis 2: clients that hold themselves back, or that we hold back.
//!
//! Only clients whose RTT, losses and marks are as usual may be set aside; if they are nearly all
//! of the bad ones, that is the verdict.

use std::borrow::Cow;
use std::collections::BTreeSet;

use super::conclude::{laplace, symptoms};
use super::finding::{Alternative, Evidence, Limit, Place, Segment, Verdict, log_name};
use super::forward;
use super::scene::{Client, Vote};
use super::{receiver_limited, sender_limited};

/// Part of the bad clients that limits must explain to be the answer.
const EXPLAIN: f64 = 0.8;

/// The clients of a window that limit themselves.
pub struct Limited<'a> {
    clients: Vec<(Limit, &'a Client)>,
    /// Those that a middlebox explains.
    proxied: usize,
    /// How many clients are bad at all.
    bad: usize,
}

impl<'a> Limited<'a> {
    /// The votes, in which clients that limit themselves are unsettled, and these clients. `is_proxied`: whether a
    /// middlebox of that ISP is why its clients' windows are full.
    pub fn set_aside(
        votes: &'a [Vote],
        bad: usize,
        is_proxied: impl Fn(&str) -> bool,
    ) -> (Cow<'a, [Vote]>, Self) {
        let mut limited = Vec::new();
        let limits =
            |client: &Client| receiver_limited::holds(client) || sender_limited::holds(client);
        if !votes
            .iter()
            .flat_map(|vote| vote.clients.iter())
            .any(limits)
        {
            return (
                Cow::Borrowed(votes),
                Self {
                    clients: limited,
                    proxied: 0,
                    bad,
                },
            );
        }
        let mut kept = Vec::new();
        let mut proxied = 0;
        for vote in votes {
            let mut clients = Vec::new();
            for client in vote.clients.iter() {
                let limit = if receiver_limited::holds(client) {
                    receiver_limited::LIMIT
                } else if sender_limited::holds(client) {
                    sender_limited::LIMIT
                } else {
                    clients.push(client.clone());
                    continue;
                };
                match limit {
                    receiver_limited::LIMIT if is_proxied(&vote.cell.isp) => proxied += 1,
                    limit => limited.push((limit, client)),
                }
                // It is there, though it speaks for nobody: whoever else is bad is not all there is.
                clients.push(Client {
                    track: client.track.set_aside(),
                    ..client.clone()
                });
            }
            kept.push(Vote {
                clients: clients.into(),
                ..vote.clone()
            });
        }
        (
            Cow::Owned(kept),
            Self {
                clients: limited,
                proxied,
                bad,
            },
        )
    }

    /// Whether nearly everybody who is slow holds himself back, or is held back by us.
    fn explain_enough(&self) -> bool {
        let unexplained = self.bad - self.proxied;
        !self.clients.is_empty() && self.clients.len() as f64 >= EXPLAIN * unexplained as f64
    }

    /// Their verdict, if they are the answer.
    pub fn verdict(&self) -> Option<Verdict> {
        if !self.explain_enough() {
            return None;
        }
        let clients: Vec<&Client> = self.clients.iter().map(|(_, client)| *client).collect();
        // What is too little to be seen in one of them may be plain in all.
        if forward::losses(clients.iter().copied(), "none").is_some() {
            return None;
        }
        let limits: BTreeSet<Limit> = self.clients.iter().map(|(limit, _)| *limit).collect();
        let mut evidence = symptoms(&clients);
        evidence.extend(limits.iter().flat_map(|&limit| self.evidence(limit)));
        let rejected = Segment::ALL.into_iter().map(|segment| Alternative {
            segment: Some(segment),
            limit: None,
            why: "RTT, losses and marks are as usual".to_owned(),
        });
        Some(Verdict {
            degraded: Some(true),
            rejected: rejected.collect(),
            limits,
            confidence: laplace(self.clients.len() as f64, self.bad - self.proxied),
            evidence,
            observations: clients.iter().map(|client| client.observations).sum(),
            ..Verdict::about(Place::Everything)
        })
    }

    fn evidence(&self, limit: Limit) -> [Evidence; 2] {
        let count = self.count(limit);
        let mean = |pick: fn(&Client) -> f64| {
            let of_limit = self.clients.iter().filter(|(other, _)| *other == limit);
            Some(of_limit.map(|(_, client)| pick(client)).sum::<f64>() / count.max(1) as f64)
        };
        let item = |kind: &str, value, threshold| Evidence {
            kind: kind.to_owned(),
            about: None,
            supports: log_name(limit),
            value,
            threshold,
            samples: count as u64,
        };
        [
            item("idle_share", mean(|client| client.idle_share), None),
            item(
                "receive_window_full_share",
                mean(|client| client.rwnd_limited_share),
                Some(receiver_limited::WINDOW_FULL_SHARE),
            ),
        ]
    }

    /// Why no limit is the answer for the clients that are left.
    pub fn rejected(&self) -> impl Iterator<Item = Alternative> {
        [sender_limited::LIMIT, receiver_limited::LIMIT]
            .into_iter()
            .map(|limit| {
                let (count, bad) = (self.count(limit), self.bad);
                Alternative {
                    segment: None,
                    limit: Some(limit),
                    why: if count > 0 && self.explain_enough() {
                        format!("{count} of {bad} bad clients, judged apart")
                    } else {
                        format!(
                            "explains {count} of {bad} bad clients; the others' RTT, losses or marks are not as usual"
                        )
                    },
                }
            })
    }

    fn count(&self, limit: Limit) -> usize {
        self.clients
            .iter()
            .filter(|(other, _)| *other == limit)
            .count()
    }
}
