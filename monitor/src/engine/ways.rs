//! Ways change: which prefixes moved, who is told, and which baseline is of which way.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::judge::Moves;
use crate::cell::Cells;
use crate::export::Record;
use crate::export::route::{Moved, RouteLog};
use crate::flow::Rerouted;
use crate::flow::baseline::Baseline;
use crate::path::followed::{Affected, Entry, Followed, News};
use crate::path::{Location, Route, Routes, UnitLengths};

/// Windows after the one of a change in which the prefix has no vote: whoever told of the change
/// may have told it late, so that the window before it is not clean, and two are needed to be
/// called bad.
const SET_ASIDE_WINDOWS: u64 = 1;
/// Ways of one cell with a baseline of their own. A prefix that moves between two ways has one
/// for each; with more it is nobody's witness anyway.
const MAX_MEMORIES: usize = 4;

/// The ways of the prefixes that are served.
#[derive(Debug)]
pub struct Ways {
    followed: Followed,
    /// The window in which a prefix moved last.
    moved: HashMap<IpNet, u64>,
    log: RouteLog,
    /// For whoever keeps the history; `None`: nobody does.
    history: Option<Vec<Entry>>,
}

impl Ways {
    pub fn new(lengths: UnitLengths) -> Self {
        Self {
            followed: Followed::new(lengths),
            moved: HashMap::new(),
            log: RouteLog::default(),
            history: None,
        }
    }

    pub fn followed(&self) -> &Followed {
        &self.followed
    }

    pub fn keep_history(&mut self) {
        self.history.get_or_insert_default();
    }

    pub fn take_history(&mut self) -> Vec<Entry> {
        self.history
            .as_mut()
            .map(std::mem::take)
            .unwrap_or_default()
    }

    /// Clients are counted in other units: those of before are not followed any more.
    pub fn set_lengths(&mut self, lengths: UnitLengths) {
        let former = std::mem::replace(&mut self.followed, Followed::new(lengths));
        if let Some(history) = &mut self.history {
            history.extend(former.all(0).map(|entry| Entry {
                news: News::Left,
                ..entry
            }));
        }
    }

    /// A flow of `client` began.
    pub fn seen(&mut self, client: IpAddr, way: Option<&Location>, time_us: u64, window: u64) {
        let news = self.followed.seen(client, way, time_us);
        self.note(news, window);
    }

    /// New routes were swapped in: what it means for the prefixes that are followed.
    pub fn look_again(&mut self, changed: &Affected, routes: &Routes, time_us: u64, window: u64) {
        let locate = |client| routes.locate(client);
        let news = self.followed.look_again(changed, locate, time_us);
        self.note(news, window);
    }

    /// Flows took another way: their record, where it does not go into a summary.
    pub fn reroute(
        &mut self,
        rerouted: &Rerouted,
        time_us: u64,
        window: u64,
        host: &str,
    ) -> Option<Record> {
        if let Some(before) = &rerouted.before {
            self.moved.insert(rerouted.unit, window);
            self.moved.insert(before.unit, window);
        }
        if rerouted.flows == 0 {
            return None;
        }
        let route = |location: &Option<Location>| {
            location
                .as_ref()
                .map(|location| Arc::clone(&location.route))
        };
        let moved = Moved {
            prefix: rerouted.unit,
            flows: rerouted.flows,
            before: route(&rerouted.before),
            after: route(&rerouted.after),
        };
        self.log.record(&moved, time_us, host)
    }

    /// Marks the cells of prefixes that moved in this window or shortly before, and notes who was
    /// served.
    pub fn end_of_window(
        &mut self,
        cells: &mut Cells,
        end_us: u64,
        window: u64,
        locate: impl Fn(IpAddr) -> Option<Location>,
        has_flows: impl Fn(&IpNet) -> bool,
    ) {
        for (key, cell) in &mut cells.cells {
            cell.rerouted |= self.moved_lately(&key.prefix, window);
            let client = cell.clients.keys().next();
            if let Some(client) = client
                && !self.followed.is_served(&key.prefix, end_us)
            {
                let news = self
                    .followed
                    .seen(*client, locate(*client).as_ref(), end_us);
                self.keep(news);
            }
        }
        let left = self.followed.forget(end_us, has_flows);
        self.keep(left);
    }

    /// The summaries of the window's changes that have no record of their own.
    pub fn summaries(&mut self, end_us: u64, host: &str) -> Vec<Record> {
        self.log.end_of_window(end_us, host)
    }

    /// Forgets what moved before `span` windows.
    pub fn forget_moves(&mut self, window: u64, span: u64) {
        self.moved
            .retain(|_, moved| window.saturating_sub(*moved) <= span);
    }

    fn note(&mut self, news: impl IntoIterator<Item = Entry>, window: u64) {
        let news: Vec<Entry> = news.into_iter().collect();
        for entry in &news {
            // Whoever becomes known has not moved.
            if !matches!(entry.news, News::Seen(_) | News::Moved { before: None, .. }) {
                self.moved.insert(entry.unit, window);
            }
        }
        self.keep(news);
    }

    fn keep(&mut self, news: impl IntoIterator<Item = Entry>) {
        if let Some(history) = &mut self.history {
            history.extend(news);
        }
    }
}

impl Moves for Ways {
    fn moved_lately(&self, prefix: &IpNet, window: u64) -> bool {
        self.moved
            .get(prefix)
            .is_some_and(|moved| window <= moved + SET_ASIDE_WINDOWS)
    }

    fn has_moved(&self, prefix: &IpNet) -> bool {
        self.moved.contains_key(prefix)
    }
}

/// A cell's baselines, one for each way that its traffic took.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Memories {
    /// The one of use last at the end.
    of_ways: Vec<Memory>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Memory {
    route: Arc<Route>,
    baseline: Baseline,
    window: u64,
}

#[cfg(test)]
impl Memories {
    /// Of one way, of use in `window`.
    pub fn example(window: u64) -> Self {
        use crate::flow::baseline::Figures;
        use crate::flow::own::Lesson;
        let mut memories = Self::default();
        let figures = Figures {
            rtt_p10_us: Some(20_123.4),
            log_rate: Some(15.25),
            ..Figures::default()
        };
        let lesson = Lesson::unjudged([192, 0, 2, 1].into(), figures);
        memories.of(&Arc::new(Route::example()), window).note(
            window,
            &[lesson],
            true,
            &crate::config::Baseline::default(),
        );
        memories
    }
}

impl Memories {
    /// The baseline of this way.
    pub fn on(&self, route: &Arc<Route>) -> Option<&Baseline> {
        self.of_ways
            .iter()
            .find(|memory| memory.route.same_way(route))
            .map(|memory| &memory.baseline)
    }

    /// The baseline of this way, a new one where it is new; it is of use in `window`.
    pub fn of(&mut self, route: &Arc<Route>, window: u64) -> &mut Baseline {
        let known = self
            .of_ways
            .iter()
            .position(|memory| memory.route.same_way(route));
        let memory = match known {
            Some(at) => self.of_ways.remove(at),
            None => Memory {
                route: Arc::clone(route),
                baseline: Baseline::default(),
                window,
            },
        };
        if self.of_ways.len() == MAX_MEMORIES {
            self.of_ways.remove(0);
        }
        self.of_ways.push(Memory { window, ..memory });
        let last = self.of_ways.len() - 1;
        &mut self.of_ways[last].baseline
    }

    /// The last window in which any of them was of use.
    pub fn last_window(&self) -> u64 {
        let windows = self.of_ways.iter().map(|memory| memory.window);
        windows.max().unwrap_or(0)
    }

    /// Drops what was of no use for `span` windows; whether anything is left.
    pub fn forget(&mut self, window: u64, span: u64) -> bool {
        self.of_ways
            .retain(|memory| window.saturating_sub(memory.window) <= span);
        !self.of_ways.is_empty()
    }
}
