//! Downloads over real sockets, whatever the hosts and their number.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    sync::mpsc,
    thread,
};

use lastmile_lab::netns;

use super::net::TcpInfo;

/// A download begins with questions and answers, while no queue is full: a minimum RTT of both
/// the wire and the socket that one hiccup of the machine does not decide.
const TURN_BYTES: usize = 100;
/// Every answer of the client's, and its request.
const ANSWER: &[u8] = &[1];

/// What is downloaded, and how.
#[derive(Clone, Debug)]
pub struct Downloads {
    pub server: SocketAddr,
    /// Name of the congestion control, `None` for the system's.
    pub congestion_control: Option<&'static str>,
    /// SO_MAX_PACING_RATE, bit/s.
    pub pacing_bps: Option<u32>,
    /// Clients at once.
    pub clients: usize,
    /// Downloads of each, one after the other, every one on a connection of its own.
    pub each: usize,
    /// Questions and answers before the data.
    pub turns: usize,
    /// Bytes of one download, the turns' included.
    pub bytes: usize,
    /// The client says when it has everything, and only then the server closes: its FIN comes alone.
    pub confirmed: bool,
}

/// What the sockets of one connection said at its end.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    pub client_port: u16,
    pub server: TcpInfo,
}

impl Downloads {
    pub fn new(server: SocketAddr, bytes: usize) -> Self {
        Self {
            server,
            congestion_control: None,
            pacing_bps: None,
            clients: 1,
            each: 1,
            turns: 0,
            bytes,
            confirmed: false,
        }
    }

    /// Does them all; everything has arrived and both sides of every connection have closed
    /// when it returns. Also says what the last socket of each client knew when it had
    /// everything.
    pub fn run(&self, server: &str, client: &str) -> (Vec<Ends>, Vec<TcpInfo>) {
        let (ready, listening) = mpsc::channel();
        let plan = self.clone();
        let server = netns::enter(server, move || Ok(serve(&plan, &ready)))
            .expect("the server's namespace is there");
        listening.recv().expect("the server listens");
        let plan = self.clone();
        let client = netns::enter(client, move || Ok(fetch(&plan)))
            .expect("the client's namespace is there");
        let received = netns::join(client).expect("the clients end");
        (netns::join(server).expect("the server ends"), received)
    }
}

fn serve(plan: &Downloads, ready: &mpsc::Sender<()>) -> Vec<Ends> {
    let listener = TcpListener::bind(plan.server).expect("the port is free");
    if let Some(name) = plan.congestion_control {
        set_congestion_control(&listener, name);
    }
    ready.send(()).expect("the test listens");
    thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.clients * plan.each)
            .map(|_| {
                let (stream, peer) = listener.accept().expect("a client comes");
                scope.spawn(move || Ends {
                    client_port: peer.port(),
                    server: answer(stream, plan),
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a connection ends well"))
            .collect()
    })
}

fn answer(mut stream: TcpStream, plan: &Downloads) -> TcpInfo {
    let mut byte = [0u8; 1];
    stream.read_exact(&mut byte).expect("the client asks");
    stream.set_nodelay(true).expect("connected");
    for _ in 0..plan.turns {
        stream
            .write_all(&[0x5a; TURN_BYTES])
            .expect("the client reads");
        stream.read_exact(&mut byte).expect("the client answers");
    }
    if let Some(rate_bps) = plan.pacing_bps {
        set_max_pacing_rate(&stream, rate_bps);
    }
    let chunk = vec![0x5a; 64 << 10];
    let mut left = plan.bytes - plan.turns * TURN_BYTES;
    while left > 0 {
        let part = left.min(chunk.len());
        stream.write_all(&chunk[..part]).expect("the client reads");
        left -= part;
    }
    if plan.confirmed {
        stream.read_exact(&mut byte).expect("the client confirms");
    }
    stream.shutdown(Shutdown::Write).expect("still connected");
    let rest = stream.read(&mut byte).expect("the client closes");
    assert_eq!(rest, 0, "the client sends nothing more");
    TcpInfo::of(&stream)
}

fn fetch(plan: &Downloads) -> Vec<TcpInfo> {
    thread::scope(|scope| {
        let threads: Vec<_> = (0..plan.clients)
            .map(|_| {
                scope.spawn(|| {
                    for _ in 1..plan.each {
                        fetch_one(plan);
                    }
                    fetch_one(plan)
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().expect("a client ends well"))
            .collect()
    })
}

fn fetch_one(plan: &Downloads) -> TcpInfo {
    let mut stream = TcpStream::connect(plan.server).expect("the server is there");
    stream.set_nodelay(true).expect("connected");
    stream.write_all(ANSWER).expect("connected");
    let mut turn = [0u8; TURN_BYTES];
    for _ in 0..plan.turns {
        stream.read_exact(&mut turn).expect("the server sends");
        stream.write_all(ANSWER).expect("the server reads");
    }
    let mut received = plan.turns * TURN_BYTES;
    let mut chunk = vec![0; 64 << 10];
    loop {
        match stream.read(&mut chunk).expect("the server sends") {
            0 => break,
            len => received += len,
        }
        if plan.confirmed && received == plan.bytes {
            stream.write_all(ANSWER).expect("the server reads");
        }
    }
    assert_eq!(received, plan.bytes, "everything arrives");
    TcpInfo::of(&stream)
}

fn set_congestion_control(socket: &impl AsRawFd, name: &str) {
    // SAFETY: the name and its length are valid.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONGESTION,
            name.as_ptr().cast(),
            name.len() as libc::socklen_t,
        )
    };
    assert_eq!(
        result,
        0,
        "this kernel has {name}: {}",
        std::io::Error::last_os_error()
    );
}

/// Sets SO_MAX_PACING_RATE, which takes bytes per second.
pub fn set_max_pacing_rate(socket: &impl AsRawFd, rate_bps: u32) {
    let bytes_per_second = rate_bps / 8;
    // SAFETY: the value and its length are valid.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const bytes_per_second).cast(),
            size_of_val(&bytes_per_second) as libc::socklen_t,
        )
    };
    assert_eq!(result, 0, "a rate can be set");
}
