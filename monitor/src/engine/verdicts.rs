//! From the cells of a window to its verdicts and incidents, and to their records: the same for
//! the daemon, for a capture and for the logs of several hosts.

use super::judge::{self, Judge, Judgement, Moves};
use super::{Missed, WindowSpan};
use crate::cell::{CellKey, Cells};
use crate::config::Config;
use crate::export::Record;
use crate::export::record::InputsRecord;
use crate::export::render::Context;
use crate::path::ports::InterconnectPorts;
use crate::verdict::coverage::Coverage;
use crate::verdict::incident::{Incident, Incidents, News};
use crate::verdict::playback::CellSaid;
use crate::verdict::{self, LocalCounters, Verdict, Window};

/// What is known of a window beside its cells.
#[derive(Clone, Copy, Debug)]
pub struct Beside<'a> {
    pub missed: &'a Missed,
    /// What our own devices counted; `None`: not read.
    pub local: Option<&'a LocalCounters>,
    /// What our ports counted; `None`: not read.
    pub ports: Option<&'a InterconnectPorts>,
    /// How much of the video TCP carried.
    pub coverage: &'a Coverage,
}

impl Beside<'_> {
    /// As it is logged.
    pub fn record(&self) -> InputsRecord {
        InputsRecord {
            reports_received: self.missed.reports_received,
            devices: self.local.map(|local| local.devices.clone()),
            ports: self.ports.cloned(),
        }
    }
}

/// What is remembered from window to window: what is usual, and what is under way.
#[derive(Debug, Default)]
pub struct Engine {
    pub judge: Judge,
    incidents: Incidents,
    /// The first window that was judged: it tells the incidents of one process from another's.
    first_window: Option<WindowSpan>,
}

/// What one window came to.
pub struct Conclusions {
    pub judgement: Judgement,
    /// At least one.
    pub verdicts: Vec<Verdict>,
    news: Vec<(News, Incident)>,
    first_window: WindowSpan,
}

impl Engine {
    /// Judges a window. Windows come in order.
    pub fn window(
        &mut self,
        cells: &Cells,
        window: &WindowSpan,
        beside: &Beside<'_>,
        moves: &impl Moves,
        config: &Config,
    ) -> Conclusions {
        let judgement = self
            .judge
            .window(cells, window, beside.missed, moves, config);
        self.conclude(judgement, Vec::new(), window, beside, config)
    }

    /// The second half of [`Self::window`]: from what the judge said. `apart` is known already, and
    /// is about clients that do not vote any more.
    pub fn conclude(
        &mut self,
        judgement: Judgement,
        apart: Vec<Verdict>,
        window: &WindowSpan,
        beside: &Beside<'_>,
        config: &Config,
    ) -> Conclusions {
        let at = &config.verdict;
        let mut verdicts: Vec<_> =
            verdict::decide(&judgement.window, beside.local, beside.ports, at)
                .into_iter()
                .map(|verdict| beside.coverage.limit(verdict, at))
                .collect();
        let span = judge::span(&config.baseline);
        let news = self
            .incidents
            .window(&verdicts, &judgement.window.votes, window.number, span);
        if !apart.is_empty() {
            // Not everything is well.
            verdicts.retain(|verdict| verdict.degraded != Some(false));
            verdicts.extend(apart);
        }
        Conclusions {
            judgement,
            verdicts,
            news,
            first_window: *self.first_window.get_or_insert(*window),
        }
    }

    /// The incidents that are under way, as they are at the end.
    pub fn open_incidents(&self, context: &Context<'_>) -> Vec<Record> {
        let Some(first_window) = &self.first_window else {
            return Vec::new();
        };
        let open = self.incidents.open();
        open.map(|incident| context.incident(News::Changed, incident, first_window))
            .collect()
    }
}

/// The records of a window's verdicts.
pub fn render<'a>(
    verdicts: &'a [Verdict],
    judged: &'a Window,
    context: &'a Context<'_>,
    window: &'a WindowSpan,
    beside: &'a Beside<'_>,
) -> impl Iterator<Item = Record> + 'a {
    let numbered = verdicts.iter().enumerate();
    numbered.map(move |(number, verdict)| context.verdict(number, verdict, judged, window, beside))
}

impl Conclusions {
    /// What was said of a cell's clients.
    pub fn said(&self, cell: &CellKey) -> CellSaid<'_> {
        let clients = self.judgement.clients.get(cell);
        let clients = clients.map_or(&[][..], |clients| &**clients);
        CellSaid::new(cell, clients, &self.verdicts)
    }

    /// The verdicts, and then what became of the incidents.
    pub fn records<'a>(
        &'a self,
        context: &'a Context<'_>,
        window: &'a WindowSpan,
        beside: &'a Beside<'_>,
    ) -> impl Iterator<Item = Record> + 'a {
        let judged = &self.judgement.window;
        let verdicts = render(&self.verdicts, judged, context, window, beside);
        let incidents = self
            .news
            .iter()
            .map(|(news, incident)| context.incident(*news, incident, &self.first_window));
        verdicts.chain(incidents)
    }
}
