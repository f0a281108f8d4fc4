//! Where routers connect that send BMP: the sockets, and nothing of what comes through them.
//!
//! One task accepts, one a session reads. All of them put what they read into one bounded queue;
//! a router that sends faster than its bytes are dealt with waits in its own TCP window, and the
//! queue takes turns between sessions.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use ipnet::IpNet;
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

/// Sessions at once. A site's edge has a few routers; each has one session to a station.
pub const MAX_SESSIONS: usize = 64;
/// Bytes that are read at once.
const CHUNK: usize = 64 << 10;
/// Chunks of all sessions together that wait to be dealt with: 4 MiB.
pub const QUEUE: usize = 64;
/// Refused addresses that are remembered, so that each is said once.
const MAX_REFUSED: usize = 256;
/// After an error of `accept` that is not the peer's (too many open files).
const ACCEPT_AGAIN_AFTER: Duration = Duration::from_secs(1);
/// A router that was cut off without a word is noticed after 30 s + 3 x 10 s: BMP itself has no
/// keepalive, and a quiet session is no dead one.
const KEEPALIVE_IDLE_S: libc::c_int = 30;
const KEEPALIVE_INTERVAL_S: libc::c_int = 10;
const KEEPALIVE_PROBES: libc::c_int = 3;

/// What comes from the sockets.
#[derive(Debug)]
pub enum Arrival {
    Connected {
        session: u64,
        peer: SocketAddr,
        /// The session lasts as long as this.
        socket: Socket,
    },
    Bytes {
        session: u64,
        bytes: Vec<u8>,
    },
    /// The router closed, or the connection broke.
    Closed {
        session: u64,
        why: Option<io::Error>,
    },
}

/// Keeps a session's socket open.
#[derive(Debug)]
pub struct Socket {
    reader: AbortHandle,
}

impl Drop for Socket {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Who may connect, and who was not let in.
#[derive(Debug, Default)]
pub struct Door {
    /// Empty: this host only.
    allow: ArcSwap<Vec<IpNet>>,
    refused: AtomicU64,
}

impl Door {
    pub fn new(allow: Vec<IpNet>) -> Self {
        Self {
            allow: ArcSwap::from_pointee(allow),
            refused: AtomicU64::new(0),
        }
    }

    /// Lets others in from now on; sessions that are there stay.
    pub fn set_allowed(&self, allow: Vec<IpNet>) {
        self.allow.store(Arc::new(allow));
    }

    /// Connections that were refused since the start.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn admits(&self, address: IpAddr) -> bool {
        let allow = self.allow.load();
        let address = address.to_canonical();
        if allow.is_empty() {
            address.is_loopback()
        } else {
            allow.iter().any(|net| net.contains(&address))
        }
    }
}

/// The listening socket.
#[derive(Debug)]
pub struct Station {
    listener: TcpListener,
    door: Arc<Door>,
    arrivals: mpsc::Sender<Arrival>,
}

impl Station {
    /// Listens on `address`.
    pub fn listen(address: SocketAddr) -> Result<std::net::TcpListener> {
        std::net::TcpListener::bind(address).with_context(|| {
            format!(
                "cannot listen for BMP on {address}: set path.bmp.listen to an address of this host and a free port"
            )
        })
    }

    /// What arrives goes to the returned queue once [`Station::run`] runs.
    pub fn new(
        listener: std::net::TcpListener,
        door: Arc<Door>,
    ) -> Result<(Self, mpsc::Receiver<Arrival>)> {
        listener.set_nonblocking(true)?;
        let (arrivals, queue) = mpsc::channel(QUEUE);
        let station = Self {
            listener: TcpListener::from_std(listener)?,
            door,
            arrivals,
        };
        Ok((station, queue))
    }

    /// Accepts until nobody takes what arrives.
    pub async fn run(self) {
        let open = Arc::new(AtomicUsize::new(0));
        let mut said = HashSet::new();
        let mut failing = false;
        for session in 0.. {
            let (stream, peer) = loop {
                match self.listener.accept().await {
                    Ok(accepted) => break accepted,
                    Err(error) => {
                        if !std::mem::replace(&mut failing, true) {
                            tracing::error!("cannot accept BMP connections: {error}");
                        }
                        tokio::time::sleep(ACCEPT_AGAIN_AFTER).await;
                    }
                }
            };
            failing = false;
            if !self.door.admits(peer.ip()) {
                self.refuse(peer, "is not in path.bmp.allow", &mut said);
            } else if open.load(Ordering::Relaxed) >= MAX_SESSIONS {
                self.refuse(peer, "comes when there are 64 sessions already", &mut said);
            } else if !self.begin(session, stream, peer, &open).await {
                return;
            }
        }
    }

    fn refuse(&self, peer: SocketAddr, why: &str, said: &mut HashSet<IpAddr>) {
        self.door.refused.fetch_add(1, Ordering::Relaxed);
        if said.len() < MAX_REFUSED && said.insert(peer.ip()) {
            tracing::warn!("BMP from {} refused: it {why}", peer.ip().to_canonical());
        }
    }

    /// Whether anybody still takes what arrives.
    async fn begin(
        &self,
        session: u64,
        stream: TcpStream,
        peer: SocketAddr,
        open: &Arc<AtomicUsize>,
    ) -> bool {
        if let Err(error) = keep_alive(&stream) {
            tracing::warn!("BMP from {peer}: no TCP keepalive: {error}");
        }
        let counted = Counted::new(open);
        // The first arrival of a session is that it is there: the reader waits for its word.
        let (go, wait) = tokio::sync::oneshot::channel();
        let arrivals = self.arrivals.clone();
        let reader = tokio::spawn(async move {
            let _counted = counted;
            if wait.await.is_ok() {
                read(session, stream, &arrivals).await;
            }
        });
        let connected = Arrival::Connected {
            session,
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            socket: Socket {
                reader: reader.abort_handle(),
            },
        };
        self.arrivals.send(connected).await.is_ok() && go.send(()).is_ok()
    }
}

/// One of the open sessions, as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(open))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn read(session: u64, mut stream: TcpStream, arrivals: &mpsc::Sender<Arrival>) {
    let mut buffer = vec![0; CHUNK];
    let why = loop {
        match stream.read(&mut buffer).await {
            Ok(0) => break None,
            Ok(length) => {
                let bytes = buffer[..length].to_vec();
                if arrivals
                    .send(Arrival::Bytes { session, bytes })
                    .await
                    .is_err()
                {
                    return;
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Some(error),
        }
    };
    // Nobody there any more: then nobody misses it.
    let _ = arrivals.send(Arrival::Closed { session, why }).await;
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    for (level, option, value) in [
        (libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1),
        (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, KEEPALIVE_IDLE_S),
        (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S),
        (libc::IPPROTO_TCP, libc::TCP_KEEPCNT, KEEPALIVE_PROBES),
    ] {
        let length = size_of_val(&value) as libc::socklen_t;
        // SAFETY: the descriptor is open as long as `stream`; `value` is an int, as these options
        // want it, and read during the call only.
        let result = unsafe {
            libc::setsockopt(
                stream.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                length,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    const HERE: &str = "127.0.0.1:0";
    /// Longer than anything here takes.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn station(allow: &[&str]) -> (SocketAddr, Arc<Door>, mpsc::Receiver<Arrival>) {
        let allow = allow.iter().map(|net| net.parse().expect("a prefix"));
        let door = Arc::new(Door::new(allow.collect()));
        let listener = Station::listen(HERE.parse().expect("right")).expect("listens");
        let address = listener.local_addr().expect("bound");
        let (station, arrivals) = Station::new(listener, Arc::clone(&door)).expect("listens");
        tokio::spawn(station.run());
        (address, door, arrivals)
    }

    async fn next(arrivals: &mut mpsc::Receiver<Arrival>) -> Arrival {
        tokio::time::timeout(PATIENCE, arrivals.recv())
            .await
            .expect("in time")
            .expect("it runs")
    }

    #[tokio::test]
    async fn what_a_router_sends_arrives_in_order_and_then_that_it_has_gone() {
        let (address, _, mut arrivals) = station(&[]).await;
        let mut router = TcpStream::connect(address).await.expect("connects");
        let Arrival::Connected {
            session,
            peer,
            socket,
        } = next(&mut arrivals).await
        else {
            panic!("the first is that it is there")
        };
        assert_eq!(peer, router.local_addr().expect("connected"));
        let sent: Vec<u8> = (0..200_000u32).map(|at| at as u8).collect();
        let expected = sent.clone();
        let sender = tokio::spawn(async move {
            router.write_all(&sent).await.expect("sent");
        });
        let mut received = Vec::new();
        loop {
            match next(&mut arrivals).await {
                Arrival::Bytes { session: of, bytes } => {
                    assert_eq!(of, session);
                    assert!(bytes.len() <= CHUNK);
                    received.extend(bytes);
                }
                Arrival::Closed { why, .. } => {
                    assert!(why.is_none(), "{why:?}");
                    break;
                }
                other => panic!("{other:?}"),
            }
        }
        sender.await.expect("sent");
        assert_eq!(received, expected);
        drop(socket);
    }

    #[tokio::test]
    async fn who_is_not_allowed_is_refused_and_counted() {
        let (address, door, mut arrivals) = station(&["192.0.2.0/24"]).await;
        for count in 1..=3 {
            let mut stranger = TcpStream::connect(address).await.expect("connects");
            let end = stranger.read(&mut [0; 1]).await;
            assert!(matches!(end, Ok(0) | Err(_)), "closed at once: {end:?}");
            assert_eq!(door.refused(), count);
        }
        assert!(arrivals.try_recv().is_err());
        door.set_allowed(vec!["127.0.0.0/8".parse().expect("a prefix")]);
        let _router = TcpStream::connect(address).await.expect("connects");
        assert!(matches!(
            next(&mut arrivals).await,
            Arrival::Connected { .. }
        ));
    }

    #[tokio::test]
    async fn a_session_that_is_dropped_is_closed_and_makes_room() {
        let (address, door, mut arrivals) = station(&[]).await;
        let mut routers = Vec::new();
        let mut sockets = Vec::new();
        for _ in 0..MAX_SESSIONS {
            routers.push(TcpStream::connect(address).await.expect("connects"));
            let Arrival::Connected { socket, .. } = next(&mut arrivals).await else {
                panic!("it is there")
            };
            sockets.push(socket);
        }
        let mut one_more = TcpStream::connect(address).await.expect("connects");
        assert!(matches!(one_more.read(&mut [0; 1]).await, Ok(0) | Err(_)));
        assert_eq!(door.refused(), 1);

        sockets.pop();
        let mut last = routers.pop().expect("64");
        let end = tokio::time::timeout(PATIENCE, last.read(&mut [0; 1])).await;
        assert!(matches!(end, Ok(Ok(0) | Err(_))), "closed: {end:?}");
        let _next = TcpStream::connect(address).await.expect("connects");
        assert!(matches!(
            next(&mut arrivals).await,
            Arrival::Connected { .. }
        ));
    }

    #[tokio::test]
    async fn a_router_that_floods_waits_in_its_own_window() {
        let (address, _, mut arrivals) = station(&[]).await;
        let mut router = TcpStream::connect(address).await.expect("connects");
        let _connected = next(&mut arrivals).await;
        let flood = vec![0u8; 1 << 20];
        let mut sent = 0usize;
        // Nobody takes anything: at some time the socket takes no more either.
        while let Ok(Ok(length)) =
            tokio::time::timeout(Duration::from_millis(300), router.write(&flood)).await
        {
            sent += length;
            assert!(sent < 1 << 30, "everything is taken, and kept somewhere");
        }
        let mut received = 0;
        while received < sent {
            match next(&mut arrivals).await {
                Arrival::Bytes { bytes, .. } => received += bytes.len(),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(received, sent);
    }
}
