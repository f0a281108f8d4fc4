//! The chunks of one flow, each counted once however often it is told of.

use std::collections::VecDeque;

use super::figures::Judged;
use super::model::Model;
use super::{Chunk, Figures, Ladder};

/// Chunks that one record lists: 32 of 2 s are a window of a minute.
pub const LISTED_MAX: usize = 32;

/// A request that carries the last ACK of the chunk before is no earlier than that; two readings of
/// the clocks may differ by a little.
const TOGETHER_US: u64 = 1_000;

/// Numbers that are this far ahead are behind: they wrap.
const AHEAD_MAX: u32 = 1 << 31;

/// What is known of one flow's chunks.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// The last one that is over, by its number, and when it ended.
    taken: u32,
    ended_us: Option<u64>,
    /// The last one that is in a window's figures.
    in_window: u32,
    rtt_min_us: Option<u32>,
    model: Model,
    life: Figures,
    window: Figures,
    session: Figures,
    recent: VecDeque<Judged>,
    unlisted: u64,
}

impl Ledger {
    /// Takes a chunk that is over.
    pub fn take(&mut self, chunk: &Chunk, ladder: &Ladder) {
        let Some((judged, model)) = self.judge(chunk) else {
            return;
        };
        let missing = u64::from(judged.chunk.number.wrapping_sub(self.taken) - 1);
        self.life.lost += missing;
        self.session.lost += missing;
        self.model = model;
        self.taken = judged.chunk.number;
        self.ended_us = judged.chunk.end_us;
        self.life.count(&judged, ladder);
        self.session.count(&judged, ladder);
        if is_ahead(self.in_window, judged.chunk.number) {
            self.window.lost += missing;
            self.window.count(&judged, ladder);
            self.in_window = judged.chunk.number;
        }
        if self.recent.len() == LISTED_MAX {
            self.recent.pop_front();
            self.unlisted += 1;
        }
        self.recent.push_back(judged);
    }

    /// Counts the chunk under way in the window that ends, by what it has done.
    pub fn count_in_window(&mut self, under_way: &Chunk, ladder: &Ladder) {
        if !is_ahead(self.in_window, under_way.number) {
            return;
        }
        if let Some((judged, _)) = self.judge(under_way) {
            self.window.count(&judged, ladder);
            self.in_window = judged.chunk.number;
        }
    }

    /// The window's figures, which begin anew.
    pub fn take_window(&mut self) -> Figures {
        std::mem::take(&mut self.window)
    }

    /// What is new since the last call.
    pub fn take_for_session(&mut self) -> Figures {
        std::mem::take(&mut self.session)
    }

    /// The whole life, of chunks that are over.
    pub fn life(&self) -> &Figures {
        &self.life
    }

    /// Chunks that ended since [`Ledger::forget_recent`], the latest [`LISTED_MAX`] of them.
    pub fn recent(&self) -> impl Iterator<Item = &Judged> {
        self.recent.iter()
    }

    /// How many more there were.
    pub fn unlisted(&self) -> u64 {
        self.unlisted
    }

    /// They are in a record now.
    pub fn forget_recent(&mut self) {
        self.recent.clear();
        self.unlisted = 0;
    }

    /// What the chunk shows, and the connection's window after it. `None`: it was taken before.
    fn judge(&mut self, chunk: &Chunk) -> Option<(Judged, Model)> {
        if !is_ahead(self.taken, chunk.number) {
            return None;
        }
        let mut chunk = *chunk;
        self.rtt_min_us = self.rtt_min_us.into_iter().chain(chunk.rtt_min_us).min();
        chunk.rtt_min_us = self.rtt_min_us;
        if chunk.number == self.taken.wrapping_add(1) {
            let (asked_us, ended_us) = (chunk.start_us(), self.ended_us);
            chunk.idle_us = ended_us.map(|ended_us| asked_us.saturating_sub(ended_us));
            chunk.queued = ended_us.is_some_and(|ended_us| asked_us + TOGETHER_US < ended_us);
        }
        let mut model = self.model;
        let test = model.next(&chunk, self.rtt_min_us);
        Some((Judged { chunk, test }, model))
    }
}

fn is_ahead(of: u32, number: u32) -> bool {
    let ahead = number.wrapping_sub(of);
    ahead != 0 && ahead < AHEAD_MAX
}
