//! The devices we are attached to, as they come and go, and what their queues counted.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::Result;

use crate::{
    capture::live::{Attachment, Hook, Live},
    netlink::{Netlink, Queue, choose},
    verdict::{LocalCounters, host::DeviceCounters},
};

/// A device with our programs on it.
struct Watched {
    name: Arc<str>,
    _attachment: Attachment,
    /// Counters at the beginning of the window, and at the last look.
    before: Option<Queue>,
    last: Option<Queue>,
    /// Smallest backlog seen in the window; `None` before the first look.
    backlog_min_bytes: Option<u64>,
}

/// Every watched device, by index.
pub struct Devices {
    netlink: Netlink,
    hook: Hook,
    watched: BTreeMap<u32, Watched>,
    /// Devices that were refused, so that this is said once.
    refused: BTreeMap<u32, Arc<str>>,
}

impl Devices {
    pub fn new() -> Result<Self> {
        Ok(Self {
            netlink: Netlink::open()?,
            hook: Hook::of_this_kernel(),
            watched: BTreeMap::new(),
            refused: BTreeMap::new(),
        })
    }

    /// Attaches to what matches `patterns` now and forgets what has gone.
    pub async fn follow(&mut self, live: &mut Live, patterns: &[String]) -> Result<()> {
        let devices = self.netlink.devices().await?;
        let default_route = if patterns.is_empty() {
            self.netlink.default_route_devices().await?
        } else {
            Vec::new()
        };
        let wanted = choose(&devices, patterns, &default_route);
        let stays = |index: &u32, name: &Arc<str>| {
            wanted
                .iter()
                .any(|device| device.index == *index && device.name == *name)
        };
        self.watched.retain(|index, watched| {
            let keep = stays(index, &watched.name);
            if !keep {
                tracing::info!("{}: not watched any more", watched.name);
            }
            keep
        });
        self.refused.retain(stays_by_reference(&stays));
        for device in &wanted {
            if self.watched.contains_key(&device.index) || self.refused.contains_key(&device.index)
            {
                continue;
            }
            match live.attach(device, self.hook) {
                Ok(attachment) => {
                    tracing::info!("{}: watched", device.name);
                    let watched = Watched {
                        name: device.name.clone(),
                        _attachment: attachment,
                        before: None,
                        last: None,
                        backlog_min_bytes: None,
                    };
                    self.watched.insert(device.index, watched);
                }
                Err(error) => {
                    tracing::warn!("{error:#}");
                    self.refused.insert(device.index, device.name.clone());
                }
            }
        }
        Ok(())
    }

    /// How many devices are watched.
    pub fn len(&self) -> usize {
        self.watched.len()
    }

    /// The name of a watched device.
    pub fn name(&self, index: u32) -> Option<Arc<str>> {
        self.watched.get(&index).map(|watched| watched.name.clone())
    }

    /// Looks at the queues. Once a second: a backlog is only seen while it is there.
    pub async fn look(&mut self) -> Result<()> {
        let queues = self.netlink.queues().await?;
        for (index, watched) in &mut self.watched {
            let Some(queue) = queues.get(index) else {
                continue;
            };
            watched.before.get_or_insert(*queue);
            let lowest = watched.backlog_min_bytes.unwrap_or(u64::MAX);
            watched.backlog_min_bytes = Some(lowest.min(queue.backlog_bytes));
            watched.last = Some(*queue);
        }
        Ok(())
    }

    /// What the queues counted since the last call, `window_us` ago.
    pub fn end_of_window(&mut self, window_us: u64) -> LocalCounters {
        let devices = self
            .watched
            .values_mut()
            .filter_map(|watched| {
                let (before, last) = (watched.before?, watched.last?);
                watched.before = Some(last);
                Some(DeviceCounters {
                    interface: watched.name.clone(),
                    sent_bytes: last.sent_bytes.saturating_sub(before.sent_bytes),
                    sent_packets: last.sent_packets.saturating_sub(before.sent_packets),
                    // A 32-bit counter of the kernel, and 0 again after the qdisc was replaced.
                    qdisc_dropped: last.dropped.saturating_sub(before.dropped),
                    qdisc_backlog_min_bytes: watched.backlog_min_bytes.take().unwrap_or(0),
                    nic_tx_dropped: last.driver_dropped.saturating_sub(before.driver_dropped),
                })
            })
            .collect();
        LocalCounters { devices, window_us }
    }
}

fn stays_by_reference<'a>(
    stays: &'a impl Fn(&u32, &Arc<str>) -> bool,
) -> impl FnMut(&u32, &mut Arc<str>) -> bool + 'a {
    |index, name| stays(index, name)
}
