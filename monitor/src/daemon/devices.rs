//! The devices we are attached to, as they come and go, and what their queues counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use anyhow::{Result, bail};
use tokio::sync::Notify;

use crate::{
    capture::live::{Attachment, Hook, Live, Standing},
    netlink::{Device, Netlink, Queue, choose},
    verdict::{LocalCounters, host::DeviceCounters},
};

/// A device with our programs on it.
struct Watched {
    name: Arc<str>,
    attachment: Attachment,
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
        let wants = |index: &u32| wanted.iter().find(|device| device.index == *index);
        let gone = self
            .watched
            .extract_if(.., |index, _| wants(index).is_none());
        for (_, watched) in gone {
            tracing::info!("{}: not watched any more", watched.name);
            watched.attachment.detach()?;
        }
        for (index, watched) in &mut self.watched {
            // Renamed: the programs stay where they are.
            if let Some(device) = wants(index).filter(|device| device.name != watched.name) {
                tracing::info!("{}: is {} now", watched.name, device.name);
                watched.name = Arc::clone(&device.name);
            }
        }
        self.refused
            .retain(|index, name| wants(index).is_some_and(|device| device.name == *name));
        for device in &wanted {
            if self.watched.contains_key(&device.index) || self.refused.contains_key(&device.index)
            {
                continue;
            }
            let standing = self.standing(device).await;
            match standing.and_then(|standing| live.attach(device, self.hook, &standing)) {
                Ok(attachment) => {
                    tracing::info!("{}: watched", device.name);
                    let watched = Watched {
                        name: device.name.clone(),
                        attachment,
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

    /// Has [`Self::changed`] say so, and refused devices tried again.
    pub fn look_again(&mut self) {
        self.refused.clear();
        self.netlink.changed().notify_one();
    }

    /// Notified when a device came, went or changed.
    pub fn changed(&self) -> Arc<Notify> {
        self.netlink.changed()
    }

    /// Our filters that an earlier run left on a device.
    async fn standing(&self, device: &Device) -> Result<Vec<Standing>> {
        if self.hook == Hook::Tcx {
            return Ok(Vec::new());
        }
        if self.netlink.has_ingress_qdisc(device.index).await? {
            bail!(
                "{}: its ingress qdisc leaves no room for clsact, which sees both directions: `tc \
                 qdisc del dev {} ingress`, `tc qdisc add dev {} clsact`, and add its filters again \
                 (Linux 6.6 and later need neither)",
                device.name,
                device.name,
                device.name
            );
        }
        standing(&self.netlink, device).await
    }

    /// Removes what earlier runs left on other devices, and what they left in `live`'s folder.
    pub async fn forget_others(&self, live: &Live) -> Result<()> {
        let watched: BTreeSet<u32> = self.watched.keys().copied().collect();
        if self.hook == Hook::Clsact {
            let mut others = self.netlink.devices().await?;
            others.retain(|device| !watched.contains(&device.index));
            for error in remove_filters(&self.netlink, &others).await.1 {
                tracing::error!("{error:#}");
            }
        }
        live.forget_others(&watched)
    }

    /// Takes the programs off every device, also where they would stay.
    pub fn detach(&mut self) -> Result<()> {
        for (_, watched) in std::mem::take(&mut self.watched) {
            watched.attachment.detach()?;
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

async fn standing(netlink: &Netlink, device: &Device) -> Result<Vec<Standing>> {
    let filters = netlink.filters(device.index).await?;
    Ok(filters.iter().filter_map(Standing::of).collect())
}

/// Removes our filters from devices: how many, and what could not be done.
pub async fn remove_filters(netlink: &Netlink, devices: &[Device]) -> (u64, Vec<anyhow::Error>) {
    let (mut removed, mut failed) = (0, Vec::new());
    for device in devices {
        match standing(netlink, device).await {
            Ok(filters) => {
                for filter in filters {
                    match filter.remove(device) {
                        Ok(()) => removed += 1,
                        Err(error) => failed.push(error),
                    }
                }
            }
            Err(error) => failed.push(error),
        }
    }
    (removed, failed)
}
