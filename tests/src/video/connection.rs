//! A browser's connection: HTTP/1.1 or HTTP/2 over TLS 1.3, with every byte counted that TCP
//! delivered, and the kernel's own time of its arrival: on a busy machine a program reads its
//! socket late.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context as Task, Poll, ready};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::errno::Errno;
use nix::libc;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg, setsockopt, sockopt};
use nix::sys::time::TimeSpec;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::video::tls::Certificates;

/// A connection, an answer or the next part of one that does not come for so long is given up.
const PATIENCE: Duration = Duration::from_secs(20);

/// The version of HTTP, which ALPN agrees on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Http {
    /// One request after the other.
    One,
    /// Requests at once, their answers interleaved.
    Two,
}

impl Http {
    fn alpn(self) -> &'static str {
        match self {
            Self::One => "http/1.1",
            Self::Two => "h2",
        }
    }
}

/// What TCP delivered so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Received {
    /// Payload of TCP.
    pub bytes: u64,
    /// Records of application data in it, whole (RFC 8446, 5.2). In TLS 1.3 the end of the
    /// handshake and session tickets look the same.
    pub records: u64,
    /// What those held without their overhead.
    pub plain_bytes: u64,
}

/// One answer.
#[derive(Debug, Clone, Copy)]
pub struct Fetched {
    /// When the request was written into the socket.
    pub asked: SystemTime,
    /// When its last packet arrived here, by the kernel.
    pub arrived: SystemTime,
    /// Until its head was read.
    pub first_byte: Duration,
    /// Until all of it was.
    pub duration: Duration,
    /// Its body.
    pub body_bytes: u64,
    /// What the connection had received when it was asked for.
    pub before: Received,
    /// ... and when it was whole.
    pub after: Received,
}

/// An open connection.
#[derive(Debug)]
pub struct Connection {
    local: SocketAddr,
    host: String,
    received: Arc<Mutex<Parser>>,
    sender: Sender,
    /// Moves the bytes.
    engine: JoinHandle<()>,
}

#[derive(Debug)]
enum Sender {
    One(AsyncMutex<http1::SendRequest<Empty<Bytes>>>),
    Two(http2::SendRequest<Empty<Bytes>>),
}

impl Connection {
    /// Connects, checks the server's certificate and agrees on the version.
    ///
    /// # Errors
    /// If any of that fails or takes too long.
    pub async fn open(
        server: SocketAddr,
        host: &str,
        http: Http,
        certificates: &Certificates,
    ) -> Result<Self> {
        let open = Self::connect(server, host, http, certificates);
        tokio::time::timeout(PATIENCE, open)
            .await
            .with_context(|| format!("no connection to {host} within {PATIENCE:?}"))?
    }

    async fn connect(
        server: SocketAddr,
        host: &str,
        http: Http,
        certificates: &Certificates,
    ) -> Result<Self> {
        let tcp = TcpStream::connect(server)
            .await
            .with_context(|| format!("cannot connect to {server}"))?;
        tcp.set_nodelay(true)?;
        let local = tcp.local_addr()?;
        let received = Arc::new(Mutex::new(Parser::default()));
        setsockopt(&tcp, sockopt::ReceiveTimestampns, &true)?;
        let counted = Counted {
            tcp,
            received: Arc::clone(&received),
        };
        let name = ServerName::try_from(host.to_owned())?;
        let tls = TlsConnector::from(certificates.client(http.alpn())?)
            .connect(name, counted)
            .await
            .with_context(|| format!("no TLS with {host}"))?;
        let agreed = tls.get_ref().1.alpn_protocol();
        ensure!(
            agreed == Some(http.alpn().as_bytes()),
            "{host} does not speak {}",
            http.alpn()
        );
        // How an engine ends is told to whoever waits for an answer.
        let (sender, engine) = match http {
            Http::One => {
                let (sender, connection) = http1::handshake(TokioIo::new(tls)).await?;
                let engine = tokio::spawn(async { connection.await.unwrap_or_default() });
                (Sender::One(AsyncMutex::new(sender)), engine)
            }
            Http::Two => {
                let executor = TokioExecutor::new();
                let (sender, connection) = http2::handshake(executor, TokioIo::new(tls)).await?;
                let engine = tokio::spawn(async { connection.await.unwrap_or_default() });
                (Sender::Two(sender), engine)
            }
        };
        Ok(Self {
            local,
            host: host.to_owned(),
            received,
            sender,
            engine,
        })
    }

    /// Closes it, and returns when that was said to the server.
    pub async fn close(self) {
        drop(self.sender);
        // It ends when nobody can ask for anything any more; one that hangs ends with us.
        let _ = tokio::time::timeout(PATIENCE, self.engine).await;
    }

    /// Our own address.
    #[must_use]
    pub fn local(&self) -> SocketAddr {
        self.local
    }

    /// Fetches a path: how that went, and the body.
    ///
    /// # Errors
    /// If the server does not answer 200, or not in time.
    pub async fn get(&self, path: &str) -> Result<(Fetched, Vec<u8>)> {
        let fetched = self.fetch(path).await;
        fetched.with_context(|| format!("cannot fetch {path} from {}", self.host))
    }

    async fn fetch(&self, path: &str) -> Result<(Fetched, Vec<u8>)> {
        match &self.sender {
            Sender::One(sender) => {
                let mut sender = sender.lock().await;
                sender.ready().await?;
                let request = Request::get(path)
                    .header("host", &self.host)
                    .header("user-agent", USER_AGENT);
                let request = request.body(Empty::new())?;
                let begin = self.begin();
                let response = in_time(sender.send_request(request)).await??;
                self.read(begin, response).await
            }
            Sender::Two(sender) => {
                let mut sender = sender.clone();
                sender.ready().await?;
                let request = Request::get(format!("https://{}{path}", self.host))
                    .header("user-agent", USER_AGENT);
                let request = request.body(Empty::new())?;
                let begin = self.begin();
                let response = in_time(sender.send_request(request)).await??;
                self.read(begin, response).await
            }
        }
    }

    fn begin(&self) -> Begin {
        let mut parser = lock(&self.received);
        parser.written = None;
        Begin {
            since: Instant::now(),
            before: parser.sum,
        }
    }

    async fn read(&self, begin: Begin, response: Response<Incoming>) -> Result<(Fetched, Vec<u8>)> {
        let first_byte = begin.since.elapsed();
        ensure!(
            response.status() == 200,
            "the server answers {}",
            response.status()
        );
        let mut incoming = response.into_body();
        let mut body = Vec::new();
        while let Some(frame) = in_time(incoming.frame()).await? {
            if let Ok(part) = frame?.into_data() {
                body.extend_from_slice(&part);
            }
        }
        let parser = lock(&self.received);
        let (Some(asked), Some(arrived)) = (parser.written, parser.arrived) else {
            bail!("the kernel does not say when packets arrived");
        };
        let fetched = Fetched {
            asked,
            arrived,
            first_byte,
            duration: begin.since.elapsed(),
            body_bytes: body.len() as u64,
            before: begin.before,
            after: parser.sum,
        };
        Ok((fetched, body))
    }
}

/// What every browser says; ours is short.
const USER_AGENT: &str = "lastmile-lab (HLS; like a browser, but honest about it)";

struct Begin {
    since: Instant,
    before: Received,
}

async fn in_time<T>(what: impl Future<Output = T>) -> Result<T> {
    let within = tokio::time::timeout(PATIENCE, what).await;
    within.with_context(|| format!("nothing came for {PATIENCE:?}"))
}

fn lock(parser: &Mutex<Parser>) -> MutexGuard<'_, Parser> {
    // Counts only: a panic elsewhere leaves them as they are.
    parser.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Follows the records of one direction.
#[derive(Debug, Default)]
struct Parser {
    sum: Received,
    header: Vec<u8>,
    /// Left of the record that has begun.
    left: usize,
    /// When something was written, for the first time since the latest request began.
    written: Option<SystemTime>,
    /// When the latest packet arrived.
    arrived: Option<SystemTime>,
    /// When it was asked last what the socket had, where that was nothing.
    emptied: Option<SystemTime>,
    /// How many packets had arrived out of order by then.
    out_of_order: u32,
}

/// Type, version and length.
const RECORD_HEADER: usize = 5;
/// `application_data`.
const APPLICATION_DATA: u8 = 23;
/// The true type and the tag of AES-GCM and ChaCha20-Poly1305.
const RECORD_OVERHEAD: usize = 17;

impl Parser {
    fn take(&mut self, mut bytes: &[u8]) {
        self.sum.bytes += bytes.len() as u64;
        while !bytes.is_empty() {
            if self.left > 0 {
                let part = self.left.min(bytes.len());
                self.left -= part;
                bytes = &bytes[part..];
                continue;
            }
            let part = (RECORD_HEADER - self.header.len()).min(bytes.len());
            self.header.extend_from_slice(&bytes[..part]);
            bytes = &bytes[part..];
            if let &[kind, _, _, high, low] = self.header.as_slice() {
                self.left = usize::from(u16::from_be_bytes([high, low]));
                self.header.clear();
                if kind == APPLICATION_DATA {
                    self.sum.records += 1;
                    self.sum.plain_bytes += self.left.saturating_sub(RECORD_OVERHEAD) as u64;
                }
            }
        }
    }
}

/// A socket whose reader counts.
struct Counted {
    tcp: TcpStream,
    received: Arc<Mutex<Parser>>,
}

impl AsyncRead for Counted {
    fn poll_read(
        self: Pin<&mut Self>,
        task: &mut Task<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            ready!(self.tcp.poll_read_ready(task))?;
            let room = buffer.initialize_unfilled();
            // A look at the clock afterwards may come long after the look at the socket.
            let looked = SystemTime::now();
            let out_of_order = out_of_order(&self.tcp)?;
            let read = || receive(&self.tcp, room);
            match self.tcp.try_io(Interest::READABLE, read) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let mut parser = lock(&self.received);
                    (parser.emptied, parser.out_of_order) = (Some(looked), out_of_order);
                }
                Err(error) => return Poll::Ready(Err(error)),
                Ok((size, arrived)) => {
                    let mut parser = lock(&self.received);
                    parser.take(&buffer.initialize_unfilled()[..size]);
                    if arrived.is_some() {
                        // What came before the socket was empty, or out of order since then, waited
                        // for a hole to be filled, and nobody says when that was.
                        let held_back =
                            arrived < parser.emptied || out_of_order != parser.out_of_order;
                        let now = || Some(SystemTime::now());
                        parser.arrived = if held_back { now() } else { arrived };
                    }
                    buffer.advance(size);
                    return Poll::Ready(Ok(()));
                }
            }
        }
    }
}

/// `struct tcp_info` (linux/tcp.h) up to `tcpi_rcv_ooopack`, which is its last word then.
const TCP_INFO_BYTES: usize = 228;

/// How many packets have arrived out of order so far.
fn out_of_order(tcp: &TcpStream) -> io::Result<u32> {
    let mut info = [0u8; TCP_INFO_BYTES];
    let mut length = libc::socklen_t::try_from(info.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `length` bytes into the buffer, which is as long.
    let result = unsafe {
        libc::getsockopt(
            tcp.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    Errno::result(result)?;
    let last = info.last_chunk().expect("it is longer");
    Ok(u32::from_ne_bytes(*last))
}

/// Reads, and learns when the last of it arrived.
fn receive(tcp: &TcpStream, room: &mut [u8]) -> io::Result<(usize, Option<SystemTime>)> {
    let mut control = nix::cmsg_space!(TimeSpec);
    let mut parts = [io::IoSliceMut::new(room)];
    let flags = MsgFlags::empty();
    let message = recvmsg::<()>(tcp.as_raw_fd(), &mut parts, Some(&mut control), flags)?;
    let arrived = message.cmsgs()?.find_map(|control| match control {
        ControlMessageOwned::ScmTimestampns(since) => {
            Some(SystemTime::UNIX_EPOCH + Duration::from(since))
        }
        _ => None,
    });
    Ok((message.bytes, arrived))
}

impl AsyncWrite for Counted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Task<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let now = SystemTime::now();
        lock(&self.received).written.get_or_insert(now);
        Pin::new(&mut self.tcp).poll_write(task, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Task<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(kind: u8, length: usize) -> Vec<u8> {
        let mut record = vec![kind, 3, 3];
        record.extend(u16::try_from(length).unwrap().to_be_bytes());
        record.extend(vec![0; length]);
        record
    }

    #[test]
    fn records_are_counted_however_they_are_cut() {
        let mut stream = record(22, 100);
        stream.extend(record(APPLICATION_DATA, 17 + 1000));
        stream.extend(record(APPLICATION_DATA, 17));
        let whole = Received {
            bytes: stream.len() as u64,
            records: 2,
            plain_bytes: 1000,
        };
        for size in [1, 3, 7, 1448, stream.len()] {
            let mut parser = Parser::default();
            stream.chunks(size).for_each(|part| parser.take(part));
            assert_eq!(parser.sum, whole, "in parts of {size}");
        }
    }
}
