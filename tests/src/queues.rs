//! The kernel's own counters of every queue on the way: what proves that a truth is true.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use netlink_packet_core::{
    NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{TcAttribute, TcHandle, TcMessage, TcStats2};
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::net::if_::if_nametoindex;
use serde::{Deserialize, Serialize};

use crate::netns;
use crate::plan::{Plan, Port};
use crate::scenario::Place;

/// How often the queues are read: often enough to tell a standing queue from a burst, and never in
/// step with players that fetch every second or two, as a quarter of a second would be (it is the
/// golden ratio to the power of -3, in seconds).
const INTERVAL: Duration = Duration::from_micros(236_068);
/// Large enough for one part of a dump: the kernel fills at most 32 KiB (NLMSG_GOODSIZE and up).
const RECEIVE_BYTES: usize = 64 * 1024;

/// One queue at one moment; counters are since the scenario's start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Seconds after the scenario's start.
    pub at_s: f64,
    /// What the queue stands for.
    pub place: Place,
    /// The port's name, as the plan has it.
    pub name: String,
    /// Bytes that left the queue.
    pub bytes: u64,
    /// Packets it dropped.
    pub drops: u64,
    /// Milliseconds the link needs for what waits now.
    pub waiting_ms: f64,
}

/// A netlink socket in one namespace, and the ports there.
struct Reader {
    socket: Socket,
    /// By interface index.
    ports: HashMap<i32, Port>,
}

impl Reader {
    /// Opens the socket; to be called inside the namespace.
    fn new(ports: Vec<Port>) -> Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE).context("cannot open a netlink socket")?;
        socket.bind_auto().context("cannot bind a netlink socket")?;
        socket
            .connect(&SocketAddr::new(0, 0))
            .context("cannot connect a netlink socket to the kernel")?;
        let mut by_index = HashMap::new();
        for port in ports {
            let index = if_nametoindex(port.device.as_str())
                .with_context(|| format!("no device {} in {}", port.device, port.namespace))?;
            by_index.insert(i32::try_from(index)?, port);
        }
        Ok(Self {
            socket,
            ports: by_index,
        })
    }

    fn read(&self, at_s: f64) -> Result<Vec<Sample>> {
        let mut samples: HashMap<i32, Sample> = HashMap::new();
        for message in self.dump()? {
            let Some(port) = self.ports.get(&message.header.index) else {
                continue;
            };
            // Where the daemon's programs hang: no queue, and what it counts is not what left.
            if message.header.parent == TcHandle::CLSACT {
                continue;
            }
            let sample = samples
                .entry(message.header.index)
                .or_insert_with(|| Sample {
                    at_s,
                    place: port.place,
                    name: port.name.clone(),
                    bytes: 0,
                    drops: 0,
                    waiting_ms: 0.0,
                });
            add(sample, &message, port.link.rate_mbit);
        }
        Ok(samples.into_values().collect())
    }

    fn dump(&self) -> Result<Vec<TcMessage>> {
        let mut request = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::from(RouteNetlinkMessage::GetQueueDiscipline(TcMessage::default())),
        );
        request.header.flags = NLM_F_DUMP | NLM_F_REQUEST;
        request.finalize();
        let mut bytes = vec![0; request.buffer_len()];
        request.serialize(&mut bytes);
        self.socket
            .send(&bytes, 0)
            .context("cannot ask the kernel for its queues")?;

        let mut messages = Vec::new();
        let mut buffer = vec![0_u8; RECEIVE_BYTES];
        loop {
            let size = self
                .socket
                .recv(&mut &mut buffer[..], 0)
                .context("cannot receive the kernel's queues")?;
            let mut rest = &buffer[..size];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .context("the kernel's answer about its queues cannot be read")?;
                let length = message.header.length as usize;
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(messages),
                    NetlinkPayload::Error(error) => {
                        bail!("the kernel does not tell about its queues: {error}")
                    }
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewQueueDiscipline(tc)) => {
                        messages.push(tc);
                    }
                    _ => {}
                }
                // Messages are padded to four bytes.
                rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
            }
        }
    }
}

/// Adds one qdisc of a device. A parent counts what its child holds and mostly also what it
/// drops, so the device's figure is the largest one, never the sum.
fn add(sample: &mut Sample, message: &TcMessage, rate_mbit: f64) {
    for attribute in &message.attributes {
        let TcAttribute::Stats2(statistics) = attribute else {
            continue;
        };
        for statistic in statistics {
            match statistic {
                TcStats2::Basic(basic) => sample.bytes = sample.bytes.max(basic.bytes),
                TcStats2::Queue(queue) => {
                    sample.drops = sample.drops.max(u64::from(queue.drops));
                    let waiting_ms = f64::from(queue.backlog) * 8.0 / (rate_mbit * 1000.0);
                    sample.waiting_ms = sample.waiting_ms.max(waiting_ms);
                }
                _ => {}
            }
        }
    }
}

/// Reads every queue of the plan until `stop` closes; writes the samples to a file, one JSON
/// object a line, and returns them.
///
/// # Errors
/// If a namespace, the kernel's answer or the file fails.
pub fn watch(plan: &Plan, start: Instant, path: &Path, stop: &Receiver<()>) -> Result<Vec<Sample>> {
    let mut file = BufWriter::new(
        File::create(path).with_context(|| format!("cannot create {}", path.display()))?,
    );
    let mut by_namespace: HashMap<String, Vec<Port>> = HashMap::new();
    for port in &plan.ports {
        let ports = by_namespace.entry(port.namespace.clone()).or_default();
        ports.push(port.clone());
    }
    let mut readers = Vec::new();
    for (namespace, ports) in by_namespace {
        readers.push(netns::join(netns::enter(&namespace, || {
            Reader::new(ports)
        })?)?);
    }
    let mut all = Vec::new();
    let mut next = Instant::now();
    while let Err(RecvTimeoutError::Timeout) =
        stop.recv_timeout(next.saturating_duration_since(Instant::now()))
    {
        next += INTERVAL;
        let at_s = start.elapsed().as_secs_f64();
        for reader in &readers {
            for sample in reader.read(at_s)? {
                serde_json::to_writer(&mut file, &sample)?;
                file.write_all(b"\n")?;
                all.push(sample);
            }
        }
    }
    file.flush()?;
    Ok(all)
}
