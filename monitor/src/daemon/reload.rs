//! SIGHUP.

use anyhow::Result;

use super::{
    Daemon,
    port_feed::PortFeed,
    start::{self, services},
};
use crate::{capture::live::Options, config::Config, export::jsonl::JsonLines, path::Rules};

impl Daemon {
    /// SIGHUP: the log is reopened; a configuration that is right replaces the old one.
    pub(super) fn reload(&mut self) {
        self.log.reopen();
        let read = self.read_again().and_then(|config| {
            let services = services(&config)?;
            let elsewhere = (config.log.destination != self.config.log.destination)
                .then(|| JsonLines::open(&config.log.destination))
                .transpose()?;
            self.live.run_experiment(config.path.experiment.as_ref())?;
            if let Err(error) = self.live.watch(&config, self.epoch_offset_ns) {
                // Nobody is marked by what is not in use.
                self.live
                    .run_experiment(self.config.path.experiment.as_ref())?;
                return Err(error);
            }
            Ok((config, services, elsewhere))
        });
        match read {
            Ok((config, services, elsewhere)) => {
                if let Some(to) = elsewhere {
                    self.log.redirect(to);
                }
                start::set_level(config.log.level);
                self.pipeline.set_services(services);
                self.say_what_needs_a_restart(&config);
                let (old, new) = (&self.config.path, &config.path);
                if new.ports != old.ports || new.interconnect != old.interconnect {
                    let rules = Rules::new(&new.interconnect);
                    self.ports = PortFeed::start(&new.ports, rules.interconnects());
                }
                self.config = config;
                self.devices.look_again();
                self.pipeline.reconfigure(&self.config);
                // What they say is swapped in when it was read: a large dump takes a while.
                self.feeds.reload(self.config.path.clone());
                tracing::info!("reloaded");
            }
            Err(error) => tracing::error!("{error:#}; the old configuration stays in use"),
        }
    }

    fn read_again(&self) -> Result<Config> {
        Ok(match self.file.as_deref() {
            Some(file) => Config::load(file)?,
            None => self.config.clone(),
        })
    }

    fn say_what_needs_a_restart(&self, new: &Config) {
        let old = &self.config;
        let changes = [
            (old.flows.max != new.flows.max, "flows.max"),
            (old.metrics != new.metrics, "metrics.listen"),
            (old.debug != new.debug, "debug.kernel_log"),
            (old.restart != new.restart, "a key of [restart]"),
            (old.evidence != new.evidence, "a key of [evidence]"),
            (
                Options::from(old).cgroups != Options::from(new).cgroups,
                "video.units",
            ),
            (
                old.path.bmp.listen != new.path.bmp.listen,
                "path.bmp.listen",
            ),
            (old.path.history != new.path.history, "path.history"),
        ];
        for (changed, key) in changes {
            if changed {
                tracing::warn!("{key} has changed and needs a restart");
            }
        }
    }
}
