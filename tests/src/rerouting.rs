//! The network's routes and what the daemon learns of them, from the start through every move.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};

use crate::addresses::{EDGE, VIDEO, exchange_gateway};
use crate::netns;
use crate::plan::Plan;
use crate::routers::Routers;
use crate::routes::{ISP_NAMES_FILE, Made, Move, PREFIXES_FILE, Source, Ways, isp_names_csv};

/// The ways as they are, and who makes them so.
#[derive(Debug)]
pub struct Rerouting {
    plan: Plan,
    ways: Ways,
    /// Where the daemon's files are.
    folder: PathBuf,
    routers: Option<Routers>,
    /// The moves so far.
    made: Vec<Made>,
}

impl Rerouting {
    /// Writes the daemon's files of the beginning into `folder`; with live routes by BGP starts
    /// the routers, whose logs go to `out`, and waits for the network's routes.
    ///
    /// # Errors
    /// If a file cannot be written or the routers do not get ready.
    pub fn start(plan: &Plan, folder: &Path, out: &Path) -> Result<Self> {
        let ways = Ways::at_first(plan);
        let routers = match plan.routes {
            Source::Bgp => Some(Routers::start(plan, &ways, folder, out)?),
            _ => None,
        };
        let rerouting = Self {
            plan: plan.clone(),
            ways,
            folder: folder.to_owned(),
            routers,
            made: Vec::new(),
        };
        rerouting.write(PREFIXES_FILE, &rerouting.ways.csv(plan))?;
        rerouting.write(ISP_NAMES_FILE, &isp_names_csv(plan))?;
        Ok(rerouting)
    }

    /// Waits until everything the daemon can know about the ways was told to it.
    ///
    /// # Errors
    /// If a router does not tell.
    pub fn await_told(&self) -> Result<()> {
        self.routers.as_ref().map_or(Ok(()), Routers::await_bmp)
    }

    /// Makes a move, in the network and in what the daemon learns; returns when the network has
    /// followed.
    ///
    /// # Errors
    /// If the network does not follow.
    pub fn apply(&mut self, moved: &Move, start: Instant) -> Result<()> {
        let began_s = start.elapsed().as_secs_f64();
        let way = self.ways.apply(&self.plan, moved);
        let prefix = &way.prefix;
        let replace = |gateway| vec![format!("route replace {prefix} via {gateway}")];
        match (&self.routers, self.plan.routes) {
            (Some(routers), _) => routers.announce(&self.plan, &self.ways, way.isp)?,
            (None, Source::Kernel) => {
                let lines = replace(exchange_gateway(way.interconnect));
                netns::batch("ip", Some(VIDEO), &lines)?;
            }
            (None, _) => {
                self.write(PREFIXES_FILE, &self.ways.csv(&self.plan))?;
                let lines = replace(self.plan.next_hop(way.interconnect, way.isp));
                netns::batch("ip", Some(EDGE), &lines)?;
            }
        }
        self.made.push(Made {
            began_s,
            done_s: start.elapsed().as_secs_f64(),
            moved: moved.clone(),
        });
        Ok(())
    }

    /// Ends the routers; returns the moves as they were made.
    ///
    /// # Errors
    /// If a router has ended by itself.
    pub fn stop(self) -> Result<Vec<Made>> {
        if let Some(routers) = self.routers {
            routers.stop()?;
        }
        Ok(self.made)
    }

    /// As editors do: the daemon never sees half a file.
    fn write(&self, name: &str, text: &str) -> Result<()> {
        let path = self.folder.join(name);
        let new = self.folder.join(format!("{name}.new"));
        fs::write(&new, text)
            .and_then(|()| fs::rename(&new, &path))
            .with_context(|| format!("cannot write {}", path.display()))
    }
}
