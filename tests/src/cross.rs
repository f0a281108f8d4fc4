//! The traffic of a fault: real flows between two machines of the plan that fill one link, or what
//! damages it.

use std::io::{ErrorKind, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv, setsockopt, sockopt};
use std::os::fd::AsRawFd;

use crate::netns;
use crate::plan::{Plan, Port, Route};
use crate::scenario::{Fault, Traffic};
use crate::stage::Stage;
use crate::wiring;

/// Port of the receivers: one that the daemon does not watch.
const PORT: u16 = 8873;
/// Largest UDP payload in one Ethernet frame: 1500 less 20 (IPv4) and 8 (UDP).
const DATAGRAM: u16 = 1472;
/// What such a frame takes on the link as the queues count it: with its Ethernet header.
const FRAME: f64 = 1514.0;
/// Datagrams handed to the kernel at once (UDP_SEGMENT), which spares system calls.
const DATAGRAMS_AT_ONCE: u16 = 4;
/// So much may wait in our own queue before a sender is blocked; the default of 208 KiB would
/// keep the sender below the queue's limit, and nothing would ever be dropped.
const SEND_BUFFER: usize = 4 << 20;

/// A fault under way.
#[derive(Debug)]
pub struct Running {
    stage: Arc<Stage>,
    threads: Vec<JoinHandle<()>>,
    changed: Vec<Port>,
}

impl Running {
    /// Ends the traffic, waits until its sockets are closed, and repairs what was damaged.
    ///
    /// # Errors
    /// If `tc` does not give a link its queue back.
    pub fn stop(self) -> Result<()> {
        self.stage.end();
        for thread in self.threads {
            // A thread that panicked has said so on stderr.
            let _ = thread.join();
        }
        for port in &self.changed {
            netns::batch("tc", Some(&port.namespace), &[wiring::repair(port)])?;
        }
        Ok(())
    }
}

/// Starts what the fault is.
///
/// # Errors
/// If a socket cannot be opened, connected or set up, or `tc` refuses to change a link.
pub fn start(plan: &Plan, fault: &Fault) -> Result<Running> {
    let (place, name) = (*fault.fills.get_ref(), fault.name());
    let mut running = Running {
        stage: Arc::new(Stage::default()),
        threads: Vec::new(),
        changed: Vec::new(),
    };
    for port in plan.filled(place, name) {
        if let Some(line) = wiring::change(port, &fault.traffic) {
            netns::batch("tc", Some(&port.namespace), &[line])?;
            running.changed.push(port.clone());
        }
    }
    for route in plan.fault_routes(place, name) {
        let threads = match &fault.traffic {
            Traffic::Tcp {
                flows,
                congestion_control,
            } => start_tcp(&route, *flows, congestion_control, &running.stage),
            Traffic::Udp { rate_mbit } => start_udp(&route, *rate_mbit, &running.stage),
            Traffic::Damage { .. } | Traffic::Detour { .. } => Ok(Vec::new()),
        };
        running.threads.extend(threads.with_context(|| {
            format!(
                "cannot send from {} ({}) to {} ({})",
                route.from.0, route.from.1, route.to.0, route.to.1
            )
        })?);
    }
    Ok(running)
}

/// A socket made inside a namespace stays there whoever uses it.
fn listen(namespace: &str, address: Ipv4Addr) -> Result<TcpListener> {
    netns::join(netns::enter(namespace, move || {
        TcpListener::bind((address, PORT))
            .with_context(|| format!("cannot listen on {address}:{PORT}"))
    })?)
}

fn start_tcp(
    route: &Route,
    flows: usize,
    congestion_control: &str,
    stage: &Arc<Stage>,
) -> Result<Vec<JoinHandle<()>>> {
    let listener = listen(&route.to.0, route.to.1)?;
    let to = route.to.1;
    let mut threads = Vec::new();
    for _ in 0..flows {
        let sender = netns::join(netns::enter(&route.from.0, move || {
            TcpStream::connect((to, PORT)).with_context(|| format!("cannot connect to {to}:{PORT}"))
        })?)?;
        let control = congestion_control.to_owned();
        setsockopt(&sender, sockopt::TcpCongestion, &control.clone().into())
            .with_context(|| format!("the kernel has no congestion control {control:?}"))?;
        let (receiver, _) = listener.accept().context("cannot accept a flow")?;
        stage.adopt(&sender)?;
        stage.adopt(&receiver)?;
        threads.push(thread::spawn(move || send_until_closed(sender)));
        threads.push(thread::spawn(move || discard_until_closed(&receiver)));
    }
    Ok(threads)
}

fn send_until_closed(mut stream: TcpStream) {
    let block = [0x5a; 64 * 1024];
    while stream.write_all(&block).is_ok() {}
}

/// Receives without copying: with MSG_TRUNC the kernel throws TCP data away.
fn discard_until_closed(stream: &TcpStream) {
    let mut nowhere = [0; 256 * 1024];
    loop {
        match recv(stream.as_raw_fd(), &mut nowhere, MsgFlags::MSG_TRUNC) {
            Ok(0) => return,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn start_udp(route: &Route, rate_mbit: f64, stage: &Arc<Stage>) -> Result<Vec<JoinHandle<()>>> {
    let (from, to) = (route.from.1, route.to.1);
    // Nobody reads it: what arrives has done its work. Without the socket the receiver's kernel
    // would answer every packet with an ICMP error.
    let receiver = netns::join(netns::enter(&route.to.0, move || {
        UdpSocket::bind((to, PORT)).with_context(|| format!("cannot listen on {to}:{PORT}"))
    })?)?;
    let sender = netns::join(netns::enter(&route.from.0, move || {
        let socket = UdpSocket::bind((from, 0)).with_context(|| format!("cannot bind {from}"))?;
        socket.connect((to, PORT))?;
        setsockopt(&socket, sockopt::SndBufForce, &SEND_BUFFER)?;
        setsockopt(&socket, sockopt::UdpGsoSegment, &i32::from(DATAGRAM))?;
        Ok(socket)
    })?)?;
    sender.set_nonblocking(true)?;
    let stage = Arc::clone(stage);
    let bits = FRAME * 8.0 * f64::from(DATAGRAMS_AT_ONCE);
    let pause = Duration::from_secs_f64(bits / (rate_mbit * 1e6));
    let thread = thread::spawn(move || {
        let _receiver = receiver;
        let burst = vec![0x5a; usize::from(DATAGRAM) * usize::from(DATAGRAMS_AT_ONCE)];
        let mut next = Instant::now();
        while !stage.wait_until(next) {
            next += pause;
            match sender.send(&burst) {
                // A full queue drops or refuses: it is what the fault is for.
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.raw_os_error() == Some(Errno::ENOBUFS as i32) => {}
                Err(error) => {
                    eprintln!("lab: the fault's traffic ends early: {error}");
                    return;
                }
            }
        }
    });
    Ok(vec![thread])
}
