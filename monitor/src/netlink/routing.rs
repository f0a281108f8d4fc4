//! The sockets behind a [`Fib`]: one that dumps, one that hears of every change.
//!
//! Open both in the network namespace in question; they stay in it wherever they are used.

use std::io;
use std::os::fd::AsRawFd as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rtnetlink::sys::{AsyncSocket as _, Socket, SocketAddr, TokioSocket, protocols::NETLINK_ROUTE};

use super::wire::{self, Dump, Message, messages, parse};
use crate::path::fib::{Change, Fib, Placement};

/// The kernel fills at most 32 KiB a datagram of a dump (`netlink_recvmsg`); a message about a
/// route with many hops may be longer.
const DATAGRAM: usize = 64 << 10;
/// Room for the changes of a BGP session that comes up (about 200 bytes each), while a dump is
/// read; the kernel counts twice that much for its own overhead.
const CHANGES_BUFFER: usize = 8 << 20;
/// Tries to get a dump during which nothing changed. One that is not consistent after that is
/// taken as it is: the messages about what changed meanwhile put it right.
const DUMP_TRIES: u32 = 3;
/// A kernel answers at once; a dump of a million routes takes seconds, but no single part does.
const ANSWER_LIMIT: Duration = Duration::from_secs(10);

const GROUP_LINK: u32 = 1;
const GROUP_IPV4_IFADDR: u32 = 5;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV4_RULE: u32 = 8;
const GROUP_IPV6_IFADDR: u32 = 9;
const GROUP_IPV6_ROUTE: u32 = 11;
const GROUP_IPV6_RULE: u32 = 19;
const GROUP_NEXTHOP: u32 = 32;
const GROUPS: [u32; 8] = [
    GROUP_LINK,
    GROUP_IPV4_IFADDR,
    GROUP_IPV4_ROUTE,
    GROUP_IPV4_RULE,
    GROUP_IPV6_IFADDR,
    GROUP_IPV6_ROUTE,
    GROUP_IPV6_RULE,
    GROUP_NEXTHOP,
];

/// Asks the kernel for everything.
pub struct Dumper {
    socket: Socket,
    sequence: u32,
}

/// A [`Fib`] as dumped.
pub struct Dumped {
    pub fib: Fib,
    /// Messages that were not understood.
    pub malformed: u64,
    pub took: Duration,
}

impl Dumper {
    pub fn open() -> Result<Self> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            set_receive_limit(&socket, ANSWER_LIMIT)?;
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("cannot open a netlink socket")?,
            sequence: 0,
        })
    }

    /// Reads everything. Blocks, for seconds where there are a million routes.
    pub fn dump(&mut self) -> Result<Dumped> {
        let start = Instant::now();
        let mut tries = 0;
        loop {
            tries += 1;
            let (fib, malformed, consistent) = self.try_dump()?;
            if consistent || tries == DUMP_TRIES {
                return Ok(Dumped {
                    fib,
                    malformed,
                    took: start.elapsed(),
                });
            }
        }
    }

    fn try_dump(&mut self) -> Result<(Fib, u64, bool)> {
        let mut fib = Fib::default();
        let (mut malformed, mut consistent) = (0, true);
        for dump in Dump::ALL {
            self.sequence = self.sequence.wrapping_add(1);
            self.socket
                .send(&dump.request(self.sequence), 0)
                .with_context(|| format!("cannot ask the kernel for its {dump:?}"))?;
            let mut buffer = Vec::with_capacity(DATAGRAM);
            'answer: loop {
                buffer.clear();
                self.socket
                    .recv(&mut buffer, 0)
                    .with_context(|| format!("cannot read the kernel's {dump:?}"))?;
                for envelope in messages(&buffer) {
                    let Ok(envelope) = envelope else {
                        malformed += 1;
                        break;
                    };
                    if envelope.sequence != self.sequence {
                        continue;
                    }
                    consistent &= !envelope.is_inconsistent();
                    match parse(&envelope).map(in_dump) {
                        Ok(Message::Change(change)) => {
                            fib.apply(&change);
                        }
                        Ok(Message::Done) => break 'answer,
                        // Before Linux 5.3 there are no nexthop objects.
                        Ok(Message::Error(_)) if dump == Dump::Nexthops => break 'answer,
                        Ok(Message::Error(code)) => bail!(
                            "the kernel does not tell its {dump:?}: {}",
                            io::Error::from_raw_os_error(code.saturating_neg())
                        ),
                        Ok(_) => {}
                        Err(_) => malformed += 1,
                    }
                }
            }
        }
        Ok((fib, malformed, consistent))
    }
}

/// A dump lists the routes of one prefix in the kernel's own order.
fn in_dump(message: Message) -> Message {
    match message {
        Message::Change(Change::Route(route, _)) => {
            Message::Change(Change::Route(route, Placement::Last))
        }
        other => other,
    }
}

fn set_receive_limit(socket: &Socket, limit: Duration) -> io::Result<()> {
    let time = libc::timeval {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_usec: 0,
    };
    set_option(socket, libc::SO_RCVTIMEO, &time)
}

/// Beyond the usual limit (`net.core.rmem_max`) where we may (CAP_NET_ADMIN).
fn set_receive_buffer(socket: &Socket, bytes: usize) -> io::Result<()> {
    let bytes = bytes as libc::c_int;
    set_option(socket, libc::SO_RCVBUFFORCE, &bytes)
        .or_else(|_| set_option(socket, libc::SO_RCVBUF, &bytes))
}

fn set_option<T>(socket: &Socket, name: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: a valid socket, and a valid value of the size that is given.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            name,
            std::ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Hears of every change from the moment on when it was opened.
pub struct Changes {
    socket: TokioSocket,
    buffer: Vec<u8>,
}

/// What was heard at once.
#[derive(Debug, Default)]
pub struct Batch {
    pub changes: Vec<Change>,
    /// Changes were lost: the kernel's buffer for us was full, or a message was cut.
    pub lost: bool,
    /// Something happened after which the kernel drops routes without telling.
    pub silent_changes: bool,
    /// Messages that were not understood.
    pub malformed: u64,
}

impl Changes {
    /// Needs a tokio runtime.
    pub fn open() -> Result<Self> {
        Self::with_buffer(CHANGES_BUFFER)
    }

    /// With room for so many bytes of messages (the kernel's least is 2 KiB).
    pub fn with_buffer(bytes: usize) -> Result<Self> {
        let open = || -> io::Result<TokioSocket> {
            let mut socket = TokioSocket::new(NETLINK_ROUTE)?;
            let inner = socket.socket_mut();
            inner.bind_auto()?;
            set_receive_buffer(inner, bytes)?;
            for group in GROUPS {
                match inner.add_membership(group) {
                    // Before Linux 5.3 there are no nexthop objects, and without IPv6 no groups
                    // for it.
                    Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                    other => other?,
                }
            }
            Ok(socket)
        };
        Ok(Self {
            socket: open().context("cannot listen to the kernel's route changes")?,
            buffer: Vec::with_capacity(DATAGRAM),
        })
    }

    /// Waits for changes, and takes all that have been told by then.
    pub async fn next(&mut self) -> Result<Batch> {
        let mut batch = Batch::default();
        let received = std::future::poll_fn(|context| {
            self.buffer.clear();
            self.socket.poll_recv(context, &mut self.buffer)
        })
        .await;
        self.take(received, &mut batch)?;
        self.drain(&mut batch)?;
        Ok(batch)
    }

    /// Takes what was told already, up to a bounded number of messages.
    fn drain(&mut self, batch: &mut Batch) -> Result<()> {
        /// Then the batch is worked off, and its memory freed.
        const MAX_BATCH: usize = 10_000;
        while batch.changes.len() < MAX_BATCH {
            self.buffer.clear();
            let received = self.socket.socket_ref().recv(&mut self.buffer, 0);
            match received {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                other => self.take(other.map(drop), batch)?,
            }
        }
        Ok(())
    }

    fn take(&mut self, received: io::Result<()>, batch: &mut Batch) -> Result<()> {
        match received {
            Ok(()) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                batch.lost = true;
                return Ok(());
            }
            Err(error) => return Err(error).context("cannot read the kernel's route changes"),
        }
        for envelope in messages(&self.buffer) {
            match envelope.and_then(|envelope| parse(&envelope)) {
                Ok(Message::Change(change)) => {
                    batch.silent_changes |= matches!(
                        change,
                        Change::Link(_) | Change::LinkGone(_) | Change::NexthopGone(_)
                    );
                    batch.changes.push(change);
                }
                Ok(Message::AddressGone) => batch.silent_changes = true,
                Ok(Message::Overrun) => batch.lost = true,
                Ok(_) => {}
                Err(wire::Malformed::TooLong(_)) => {
                    batch.lost = true;
                    batch.malformed += 1;
                }
                Err(_) => batch.malformed += 1,
            }
        }
        Ok(())
    }
}
