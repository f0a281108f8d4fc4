//! Where routes come from, while the daemon runs: files that are replaced, routers that send BMP,
//! this host's own routes.
//!
//! All of it is on a thread with an event loop of its own, so that a router's full table does not
//! hold up a report about a flow. What changes is swapped in whole ([`ArcSwap`]); the daemon is
//! woken and told which prefixes it may concern. Nothing that fails here takes a route away: the
//! last good table stays, and is marked stale.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::bmp_sessions::Sessions;
use super::bmp_station::{Arrival, Door, QUEUE, Station};
use super::clock::Now;
use super::fib_feed::FibFeed;
use super::files::Files;
use crate::config::PathSources;
use crate::path::KernelRoutes;
use crate::path::experiment::OtherWay;
use crate::path::followed::Affected;
use crate::path::history::FeedState;
use crate::path::mrt::{self, MrtError};
use crate::path::rib::Change;
use crate::path::{FileError, Publisher, Routes, Source, SourceTable};

/// How often files are looked at and sessions are timed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After a batch could not be published because the table before the last is still read, or was
/// not all that changed.
const PUBLISH_AGAIN_AFTER: Duration = Duration::from_millis(5);

/// The sources, as the daemon sees them.
#[derive(Debug)]
pub struct Feeds {
    shared: Arc<Shared>,
    commands: mpsc::UnboundedSender<PathSources>,
    bmp_address: Option<SocketAddr>,
}

#[derive(Debug)]
struct Shared {
    routes: Arc<ArcSwap<Routes>>,
    affected: Mutex<Affected>,
    woken: Notify,
    state: Mutex<State>,
}

/// What is known of the sources.
#[derive(Clone, Debug, Default)]
pub struct State {
    /// For the `status` record.
    pub counters: BTreeMap<&'static str, u64>,
    pub feeds: Vec<FeedState>,
}

impl Feeds {
    /// Begins to follow the sources; `routes` holds what was read of them at the start, and is
    /// where changes are swapped in.
    pub fn start(sources: &PathSources, routes: Arc<ArcSwap<Routes>>) -> Result<Self> {
        let listener = match sources.bmp.listen {
            Some(address) => Some(Station::listen(address)?),
            None => None,
        };
        let bmp_address = listener
            .as_ref()
            .and_then(|listener| listener.local_addr().ok());
        let shared = Arc::new(Shared {
            routes,
            affected: Mutex::new(Affected::default()),
            woken: Notify::new(),
            state: Mutex::new(State::default()),
        });
        let (commands, received) = mpsc::unbounded_channel();
        let mut worker = Worker::new(sources.clone(), Arc::clone(&shared));
        if sources.kernel_routes {
            worker.follow_kernel(Some(FibFeed::start()?));
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start an event loop for routes")?;
        // The thread ends with the process: nothing of it needs to be written.
        std::thread::Builder::new()
            .name("routes".to_owned())
            .spawn(move || runtime.block_on(worker.run(listener, received)))
            .context("cannot start a thread for routes")?;
        Ok(Self {
            shared,
            commands,
            bmp_address,
        })
    }

    /// Where routers can connect, with the port that was chosen where 0 was asked for.
    pub fn bmp_address(&self) -> Option<SocketAddr> {
        self.bmp_address
    }

    /// Waits until routes have changed.
    pub async fn changed(&self) {
        self.shared.woken.notified().await;
    }

    /// Which routes may have changed since the last call.
    pub fn take_affected(&self) -> Affected {
        std::mem::take(&mut *locked(&self.shared.affected))
    }

    /// Reads everything again, with a new configuration.
    pub fn reload(&self, sources: PathSources) {
        // The thread ends with the process only.
        let _ = self.commands.send(sources);
    }

    pub fn state(&self) -> State {
        locked(&self.shared.state).clone()
    }
}

/// What is behind it stays usable whoever panicked: every value is replaced as a whole.
fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads all that is configured and can be read without waiting for others.
pub fn read_once(sources: &PathSources) -> Result<Routes> {
    let mut routes = Routes::load(sources)?;
    if !sources.mrt.is_empty() {
        routes.mrt = Arc::new(read_mrt(&sources.mrt)?);
    }
    Ok(routes)
}

fn read_mrt(files: &[PathBuf]) -> Result<SourceTable, MrtError> {
    let loaded = mrt::load(files)?;
    for file in &loaded.unfinished {
        tracing::info!(
            "{}: ends in the middle of a record, which is still being written",
            file.display()
        );
    }
    let counters = loaded.counters;
    if counters.not_understood + counters.malformed > 0 {
        tracing::warn!(
            "MRT: of {} records {} are not understood; of their entries and updates {} are malformed",
            counters.records,
            counters.not_understood,
            counters.malformed
        );
    }
    Ok(loaded.table)
}

/// Files that were read, or not.
enum Loaded {
    Prefixes(Result<Box<Routes>, FileError>),
    Mrt(Box<Result<SourceTable, MrtError>>),
}

/// The thread's side.
struct Worker {
    sources: PathSources,
    shared: Arc<Shared>,
    /// What is published next.
    view: Routes,
    prefix_files: Files,
    mrt_files: Files,
    loading: JoinSet<Loaded>,
    door: Arc<Door>,
    sessions: Sessions,
    publisher: Publisher,
    /// Changes that wait for the last reader of the spare table.
    unpublished: Vec<Change>,
    kernel: Option<FibFeed>,
    /// Files that were refused, since the start.
    files_refused: u64,
    changed_prefixes: u64,
    began: Instant,
}

impl Worker {
    fn new(sources: PathSources, shared: Arc<Shared>) -> Self {
        let view = Routes::clone(&shared.routes.load());
        Self {
            view,
            prefix_files: Files::about_to_read(prefix_files(&sources)),
            mrt_files: Files::about_to_read(sources.mrt.clone()),
            loading: JoinSet::new(),
            door: Arc::new(Door::new(sources.bmp.allow.clone())),
            sessions: Sessions::new(stale_after(&sources)),
            publisher: Publisher::default(),
            unpublished: Vec::new(),
            kernel: None,
            files_refused: 0,
            changed_prefixes: 0,
            began: Instant::now(),
            sources,
            shared,
        }
    }

    async fn run(
        mut self,
        listener: Option<std::net::TcpListener>,
        mut commands: mpsc::UnboundedReceiver<PathSources>,
    ) {
        let mut listens = false;
        let (_, mut arrivals) = mpsc::channel(1);
        if let Some(listener) = listener {
            match Station::new(listener, Arc::clone(&self.door)) {
                Ok((station, queue)) => {
                    arrivals = queue;
                    listens = true;
                    tokio::spawn(station.run());
                }
                Err(error) => tracing::error!("no BMP station: {error:#}"),
            }
        }
        let mut looks = interval(LOOK_INTERVAL);
        looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut batch = Vec::with_capacity(QUEUE);
        loop {
            let waits = !self.unpublished.is_empty() || self.sessions.rib().has_changes();
            tokio::select! {
                received = arrivals.recv_many(&mut batch, QUEUE), if listens => {
                    listens = received > 0;
                    for arrival in batch.drain(..) {
                        self.arrived(arrival);
                    }
                    self.publish_bmp();
                }
                () = tokio::time::sleep(PUBLISH_AGAIN_AFTER), if waits => self.publish_bmp(),
                Some(loaded) = self.loading.join_next() => match loaded {
                    Ok(loaded) => self.loaded(loaded),
                    Err(error) => tracing::error!("reading a file failed: {error}"),
                },
                command = commands.recv() => match command {
                    Some(sources) => self.reload(sources),
                    None => return,
                },
                _ = looks.tick() => self.look(),
            }
        }
    }

    fn now(&self) -> Duration {
        self.began.elapsed()
    }

    fn arrived(&mut self, arrival: Arrival) {
        let now = self.now();
        match arrival {
            Arrival::Connected {
                session,
                peer,
                socket,
            } => self.sessions.connected(session, peer, Some(socket), now),
            Arrival::Bytes { session, bytes } => self.sessions.bytes(session, &bytes, now),
            Arrival::Closed { session, why } => self.sessions.closed(session, why.as_ref(), now),
        }
    }

    /// Hands out what routers changed.
    fn publish_bmp(&mut self) {
        // What could not be published waits; what changes meanwhile is decided when its turn comes.
        if self.unpublished.is_empty() && self.sessions.rib().has_changes() {
            self.unpublished = self.sessions.rib().take_changes();
        }
        if self.unpublished.is_empty() {
            return;
        }
        // The table that is handed out lets go of the one before.
        match self
            .publisher
            .publish(std::mem::take(&mut self.unpublished))
        {
            Ok(changed) => {
                self.changed_prefixes += changed.len() as u64;
                self.view.bmp = self.publisher.current();
                let prefixes = changed.iter().map(|changed| changed.prefix).collect();
                self.publish(Affected::Prefixes(prefixes));
                self.publisher.catch_up();
            }
            Err(batch) => self.unpublished = batch,
        }
    }

    /// Swaps in what is known now.
    fn publish(&self, affected: Affected) {
        self.shared.routes.store(Arc::new(self.view.clone()));
        if !affected.is_empty() {
            locked(&self.shared.affected).add(affected);
            self.shared.woken.notify_one();
        }
    }

    /// Once a second.
    fn look(&mut self) {
        let now = self.now();
        if self.sessions.look(now) {
            self.view.stale_routers = Arc::new(self.sessions.stale());
            self.publish(Affected::Everything);
        }
        self.publish_bmp();
        if let Some(kernel) = &self.kernel {
            let was_stale = self.view.stale_sources.contains(&Source::Kernel);
            let is_stale = kernel.live.is_stale();
            let moved = kernel.live.take_moved();
            if is_stale != was_stale {
                self.view
                    .stale_sources
                    .retain(|stale| *stale != Source::Kernel);
                self.view
                    .stale_sources
                    .extend(is_stale.then_some(Source::Kernel));
            }
            // Flows that begin ask for their way themselves; for the others once a second is
            // enough, however many routes change in it.
            if moved || is_stale != was_stale {
                self.publish(Affected::Everything);
            }
        }
        if self.prefix_files.changed() {
            self.read_prefixes();
        }
        if self.mrt_files.changed() {
            self.read_mrt();
        }
        *locked(&self.shared.state) = self.state();
    }

    fn reload(&mut self, sources: PathSources) {
        self.prefix_files = Files::about_to_read(prefix_files(&sources));
        self.mrt_files = Files::about_to_read(sources.mrt.clone());
        self.door.set_allowed(sources.bmp.allow.clone());
        self.sessions.set_stale_after(stale_after(&sources));
        if sources.kernel_routes != self.sources.kernel_routes {
            match sources.kernel_routes.then(FibFeed::start).transpose() {
                Ok(kernel) => self.follow_kernel(kernel),
                Err(error) => tracing::error!("{error:#}; this host's routes are not used"),
            }
        }
        let other_way = OtherWay::new(&sources);
        if sources.experiment != self.sources.experiment
            || other_way.as_ref() != self.view.experiment.as_deref()
        {
            // Marked already, whatever becomes of the files.
            self.view.experiment = other_way.map(Arc::new);
            self.view.experiment_since_us = Now::read().unix_us;
            self.publish(Affected::Everything);
        }
        self.sources = sources;
        self.read_prefixes();
        self.read_mrt();
    }

    fn follow_kernel(&mut self, kernel: Option<FibFeed>) {
        self.view.kernel = kernel
            .as_ref()
            .map(|feed| Arc::clone(&feed.live) as Arc<dyn KernelRoutes>);
        self.view
            .stale_sources
            .retain(|stale| *stale != Source::Kernel);
        self.kernel = kernel;
        self.publish(Affected::Everything);
    }

    fn read_prefixes(&mut self) {
        let sources = self.sources.clone();
        self.loading
            .spawn_blocking(move || Loaded::Prefixes(Routes::load(&sources).map(Box::new)));
    }

    fn read_mrt(&mut self) {
        let files = self.sources.mrt.clone();
        self.loading
            .spawn_blocking(move || Loaded::Mrt(Box::new(read_mrt(&files))));
    }

    fn loaded(&mut self, loaded: Loaded) {
        let (source, error) = match loaded {
            Loaded::Prefixes(Ok(read)) => {
                let Routes {
                    unit_lengths,
                    file,
                    mrt_origins_only,
                    rules,
                    names,
                    ..
                } = *read;
                self.view = Routes {
                    unit_lengths,
                    file,
                    mrt_origins_only,
                    rules,
                    names,
                    ..self.view.clone()
                };
                (Source::File, None)
            }
            Loaded::Prefixes(Err(error)) => (Source::File, Some(error.to_string())),
            Loaded::Mrt(read) => match *read {
                Ok(read) => {
                    self.view.mrt = Arc::new(read);
                    (Source::Mrt, None)
                }
                Err(error) => (Source::Mrt, Some(error.to_string())),
            },
        };
        self.view.stale_sources.retain(|stale| *stale != source);
        match error {
            None => tracing::info!("{source} read again: {} prefixes", self.prefixes_of(source)),
            Some(error) => {
                self.files_refused += 1;
                self.view.stale_sources.push(source);
                tracing::error!(
                    "{error}; the {} prefixes read before stay in use, and are stale",
                    self.prefixes_of(source)
                );
            }
        }
        self.publish(Affected::Everything);
    }

    fn prefixes_of(&self, source: Source) -> usize {
        match source {
            Source::File => self.view.file.len(),
            Source::Bmp => self.view.bmp.len(),
            Source::Mrt => self.view.mrt.len(),
            Source::Kernel => (self.kernel.as_ref()).map_or(0, |feed| feed.live.load().routes()),
        }
    }

    fn state(&mut self) -> State {
        let totals = self.sessions.totals();
        let routers = self.sessions.routers();
        let size = self.sessions.rib().size();
        let count = |holds: fn(&super::bmp_sessions::RouterState) -> bool| {
            routers.iter().filter(|router| holds(router)).count() as u64
        };
        let mut counters = BTreeMap::from([
            ("route_prefixes_file", self.view.file.len() as u64),
            ("route_prefixes_bmp", self.view.bmp.len() as u64),
            ("route_prefixes_mrt", self.view.mrt.len() as u64),
            ("route_prefixes_changed", self.changed_prefixes),
            ("route_sources_stale", self.view.stale_sources.len() as u64),
            ("route_files_refused", self.files_refused),
            ("bmp_routers", routers.len() as u64),
            ("bmp_routers_connected", count(|router| router.is_connected)),
            ("bmp_routers_stale", count(|router| router.is_stale)),
            ("bmp_peers", routers.iter().map(|router| router.peers).sum()),
            ("bmp_routes", size.routes as u64),
            ("bmp_attribute_bytes", size.attribute_bytes as u64),
            ("bmp_sessions", totals.sessions),
            (
                "bmp_sessions_refused",
                self.door.refused() + totals.turned_away,
            ),
            ("bmp_sessions_thrown_out", totals.thrown_out),
            ("bmp_bytes", totals.bytes),
            ("bmp_messages", totals.messages),
            ("bmp_messages_not_understood", totals.not_understood),
            ("bmp_updates_malformed", totals.malformed_updates),
            ("bmp_updates_other_families", totals.other_families),
            ("bmp_announcements", totals.announcements),
            ("bmp_announcements_not_used", self.sessions.rib().not_used()),
            ("bmp_withdrawals", totals.withdrawals),
        ]);
        if let Some(kernel) = &self.kernel {
            counters.extend(kernel.live.status());
        }
        let is_stale = |source| self.view.stale_sources.contains(&source);
        let mut feeds = Vec::new();
        for (source, files) in [
            (Source::File, &self.prefix_files),
            (Source::Mrt, &self.mrt_files),
        ] {
            if !files.is_empty() {
                let names = files.paths().iter().map(|path| path.display().to_string());
                feeds.push(FeedState {
                    source,
                    name: names.collect::<Vec<_>>().join(", "),
                    prefixes: self.prefixes_of(source) as u64,
                    peers: None,
                    is_stale: is_stale(source),
                    detail: String::new(),
                });
            }
        }
        if let Some(kernel) = &self.kernel {
            feeds.push(FeedState {
                source: Source::Kernel,
                name: "this host".to_owned(),
                prefixes: kernel.live.load().routes() as u64,
                peers: None,
                is_stale: is_stale(Source::Kernel),
                detail: kernel.live.in_words(),
            });
        }
        feeds.extend(routers.into_iter().map(|router| FeedState {
            source: Source::Bmp,
            name: router.name.to_string(),
            prefixes: size.prefixes as u64,
            peers: Some(router.peers),
            is_stale: router.is_stale,
            detail: format!(
                "{} from {}",
                if router.is_connected {
                    "connected"
                } else {
                    "away"
                },
                router.address
            ),
        }));
        State { counters, feeds }
    }
}

fn prefix_files(sources: &PathSources) -> Vec<PathBuf> {
    [
        &sources.prefixes_csv,
        &sources.prefixes_toml,
        &sources.isp_names,
    ]
    .into_iter()
    .flatten()
    .cloned()
    .collect()
}

fn stale_after(sources: &PathSources) -> Duration {
    Duration::from_secs(u64::from(sources.stale_after_s))
}

#[cfg(test)]
#[path = "feeds_tests.rs"]
mod tests;
