//! Keeps this host's own routes as the kernel has them.
//!
//! Changes are applied as the kernel tells them. It does not tell everything (IPv4 routes go with
//! their device without a message), and it drops messages when we are slow; so a dump follows
//! every change, in a thread of its own and at most a twentieth of the time, and puts right what
//! changes did not.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::netlink::routing::{Batch, Changes, Dumped, Dumper};
use crate::path::fib::{Change, Fib, Query};
use crate::path::{KernelRoutes, KernelWay, SeenFlow};

/// After a change: others follow it, and one dump serves for all.
const SETTLE: Duration = Duration::from_millis(100);
/// Dumps take at most one part in this many of the time.
const DUMP_SHARE: u32 = 20;
/// What no message told is noticed after this long.
const VERIFY: Duration = Duration::from_secs(300);
/// When the kernel cannot be asked.
const RETRY: Duration = Duration::from_secs(5);

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Counters {
    pub changes: AtomicU64,
    pub dumps: AtomicU64,
    /// Dumps that did not agree with what the changes had made of the one before.
    pub corrections: AtomicU64,
    /// Times at which the kernel dropped messages for us.
    pub overflows: AtomicU64,
    pub malformed: AtomicU64,
}

/// The routes as they are now; readers never wait.
#[derive(Debug, Default)]
pub struct LiveFib {
    fib: ArcSwap<Fib>,
    changed: Notify,
    moved: AtomicBool,
    stale: AtomicBool,
    pub counters: Counters,
}

impl LiveFib {
    /// The routes as they are now, and not followed: for commands that end.
    pub fn once() -> Result<Self> {
        let dumped = Dumper::open()?.dump()?;
        let live = Self::default();
        live.fib.store(Arc::new(dumped.fib));
        Ok(live)
    }

    /// The routes at this moment.
    pub fn load(&self) -> Arc<Fib> {
        self.fib.load_full()
    }

    /// Waits until they changed since the last call.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Whether they changed since the last call.
    pub fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::AcqRel)
    }

    /// What is known, in words.
    pub fn in_words(&self) -> String {
        let fib = self.load();
        let stale = if self.is_stale() { ", stale" } else { "" };
        format!(
            "{} routes, {} policy rules{stale}",
            fib.routes(),
            fib.rules()
        )
    }

    /// For the `status` record.
    pub fn status(&self) -> [(&'static str, u64); 7] {
        let fib = self.load();
        let counted = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("fib_routes", fib.routes() as u64),
            ("fib_changes", counted(&self.counters.changes)),
            ("fib_dumps", counted(&self.counters.dumps)),
            ("fib_corrections", counted(&self.counters.corrections)),
            ("fib_overflows", counted(&self.counters.overflows)),
            ("fib_messages_malformed", counted(&self.counters.malformed)),
            ("fib_stale", u64::from(self.is_stale())),
        ]
    }

    /// Whether the kernel could not be asked lately.
    pub fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    fn publish(&self, fib: Arc<Fib>) -> Arc<Fib> {
        let old = self.fib.swap(fib);
        self.moved.store(true, Ordering::Release);
        self.changed.notify_one();
        old
    }
}

impl KernelRoutes for LiveFib {
    fn way(&self, client: IpAddr, flow: Option<&SeenFlow>, mark: Option<u32>) -> Option<KernelWay> {
        let fib = self.fib.load();
        let mut answer = fib.lookup(&Query {
            source: flow.map(|flow| flow.server),
            mark,
            ports: flow.map(|flow| (flow.server_port, flow.client_port)),
            ..Query::to(client)
        });
        if let Some(egress) = flow.and_then(|flow| flow.egress) {
            answer = answer.seen_at(egress, &fib);
        }
        let prefix = answer.prefix?;
        let hops: Vec<_> = answer
            .ways
            .into_iter()
            .map(|way| (Some(way.interface), way.next_hop))
            .collect();
        (!hops.is_empty()).then_some(KernelWay { prefix, hops })
    }
}

/// Follows the kernel until it is dropped.
#[derive(Debug)]
pub struct FibFeed {
    pub live: Arc<LiveFib>,
    stop: Arc<Notify>,
}

impl Drop for FibFeed {
    fn drop(&mut self) {
        self.stop.notify_one();
    }
}

impl FibFeed {
    /// Reads all routes and begins to follow them, in the network namespace of this thread. On a
    /// thread with an event loop of its own: a million routes are copied in a tenth of a second,
    /// and no report about a flow waits for that.
    pub fn start() -> Result<Self> {
        let (started, result) = std::sync::mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("cannot start an event loop for the kernel's routes")?;
        std::thread::Builder::new()
            .name("fib".to_owned())
            .spawn(move || {
                runtime.block_on(async {
                    let sockets = Changes::open().and_then(|it| Ok((it, Dumper::open()?)));
                    let begun = match sockets {
                        Ok((changes, dumper)) => Self::begin(changes, dumper).await,
                        Err(error) => Err(error),
                    };
                    match begun {
                        Ok((feed, work)) => {
                            let stop = Arc::clone(&feed.stop);
                            // Whoever asked is gone: then the feed is dropped here, and stops.
                            let _ = started.send(Ok(feed));
                            tokio::select! {
                                () = work => {}
                                () = stop.notified() => {}
                            }
                        }
                        Err(error) => {
                            let _ = started.send(Err(error));
                        }
                    }
                });
            })
            .context("cannot start a thread for the kernel's routes")?;
        result
            .recv()
            .context("the thread for the kernel's routes ended early")?
    }

    /// The same on this event loop, through sockets that are open already.
    pub async fn follow(changes: Changes, dumper: Dumper) -> Result<Self> {
        let (feed, work) = Self::begin(changes, dumper).await?;
        let stop = Arc::clone(&feed.stop);
        tokio::spawn(async move {
            tokio::select! {
                () = work => {}
                () = stop.notified() => {}
            }
        });
        Ok(feed)
    }

    /// The first dump, and what has to run from then on.
    async fn begin(changes: Changes, dumper: Dumper) -> Result<(Self, impl Future<Output = ()>)> {
        let live = Arc::new(LiveFib::default());
        let (dumper, dumped) = dump(dumper).await;
        let dumped = dumped?;
        let took = dumped.took;
        live.counters.dumps.fetch_add(1, Ordering::Relaxed);
        live.counters
            .malformed
            .fetch_add(dumped.malformed, Ordering::Relaxed);
        live.publish(Arc::new(dumped.fib));
        let follower = Follower {
            live: Arc::clone(&live),
            spare: None,
            behind: Vec::new(),
            dumped_at: Instant::now(),
            took,
            failing: false,
        };
        let feed = Self {
            live,
            stop: Arc::new(Notify::new()),
        };
        Ok((feed, follower.run(changes, dumper)))
    }
}

/// Reads everything in a thread that may block.
async fn dump(mut dumper: Dumper) -> (Option<Dumper>, Result<Dumped>) {
    let dumped = tokio::task::spawn_blocking(move || {
        let dumped = dumper.dump();
        (dumper, dumped)
    });
    match dumped.await {
        Ok((dumper, dumped)) => (Some(dumper), dumped),
        Err(error) => (
            None,
            Err(error).context("the dump of the routes ended early"),
        ),
    }
}

/// The task's own state. Two copies of the routes: readers have one, and changes go into the
/// other, which then changes places with it.
struct Follower {
    live: Arc<LiveFib>,
    /// The copy that readers had before, and the changes that it lacks.
    spare: Option<Arc<Fib>>,
    behind: Vec<Change>,
    /// End and length of the last dump.
    dumped_at: Instant,
    took: Duration,
    failing: bool,
}

impl Follower {
    async fn run(mut self, mut changes: Changes, dumper: Option<Dumper>) {
        let mut dumper = dumper;
        let mut next_dump = self.dumped_at + VERIFY;
        loop {
            tokio::select! {
                heard = changes.next() => match heard {
                    Ok(batch) => {
                        let wait = if batch.lost { Duration::ZERO } else { SETTLE };
                        let asks = batch.lost || batch.silent_changes || !batch.changes.is_empty();
                        self.take(batch);
                        if asks {
                            next_dump = next_dump.min(self.earliest_dump(wait));
                        }
                    }
                    Err(error) => {
                        self.fail(&error);
                        sleep_until(Instant::now() + RETRY).await;
                        if let Ok(again) = Changes::open() {
                            changes = again;
                            next_dump = Instant::now();
                        }
                    }
                },
                () = sleep_until(next_dump) => {
                    let result = match dumper.take().map_or_else(Dumper::open, Ok) {
                        Ok(ready) => {
                            let (back, dumped) = dump(ready).await;
                            dumper = back;
                            dumped
                        }
                        Err(error) => Err(error),
                    };
                    match result {
                        Ok(dumped) => {
                            self.replace(dumped);
                            next_dump = self.dumped_at + VERIFY;
                        }
                        Err(error) => {
                            // Its socket may hold the rest of an answer.
                            dumper = None;
                            self.fail(&error);
                            next_dump = Instant::now() + RETRY;
                        }
                    }
                }
            }
        }
    }

    fn earliest_dump(&self, wait: Duration) -> Instant {
        (Instant::now() + wait).max(self.dumped_at + self.took * DUMP_SHARE)
    }

    fn fail(&mut self, error: &anyhow::Error) {
        self.live.stale.store(true, Ordering::Relaxed);
        if !std::mem::replace(&mut self.failing, true) {
            tracing::error!("{error:#}; this host's routes stay as they were");
        }
    }

    fn take(&mut self, batch: Batch) {
        let counters = &self.live.counters;
        counters
            .changes
            .fetch_add(batch.changes.len() as u64, Ordering::Relaxed);
        counters
            .malformed
            .fetch_add(batch.malformed, Ordering::Relaxed);
        if batch.lost {
            counters.overflows.fetch_add(1, Ordering::Relaxed);
            tracing::warn!("the kernel dropped messages about routes: reading all of them again");
        }
        if batch.changes.is_empty() {
            return;
        }
        let mut next = match self.spare.take() {
            Some(mut spare) => match Arc::get_mut(&mut spare) {
                Some(fib) => {
                    for change in self.behind.drain(..) {
                        fib.apply(&change);
                    }
                    spare
                }
                // A reader still has it: rare, and worth a copy.
                None => Arc::new(Fib::clone(&self.live.fib.load())),
            },
            None => Arc::new(Fib::clone(&self.live.fib.load())),
        };
        if let Some(fib) = Arc::get_mut(&mut next) {
            for change in &batch.changes {
                fib.apply(change);
            }
        }
        self.spare = Some(self.live.publish(next));
        self.behind = batch.changes;
    }

    fn replace(&mut self, dumped: Dumped) {
        self.took = dumped.took;
        self.dumped_at = Instant::now();
        let counters = &self.live.counters;
        counters.dumps.fetch_add(1, Ordering::Relaxed);
        counters
            .malformed
            .fetch_add(dumped.malformed, Ordering::Relaxed);
        self.live.stale.store(false, Ordering::Relaxed);
        if std::mem::take(&mut self.failing) {
            tracing::info!("this host's routes are read again");
        }
        if self.live.fib.load().agrees_with(&dumped.fib) {
            return;
        }
        counters.corrections.fetch_add(1, Ordering::Relaxed);
        self.live.publish(Arc::new(dumped.fib));
        // Both copies begin anew.
        self.spare = None;
        self.behind.clear();
    }
}
