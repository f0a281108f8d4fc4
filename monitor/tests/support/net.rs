//! Hosts as network namespaces, and transfers between them whose sockets say what happened.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read, Write},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Command,
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use aya::programs::{ProgramError, ProgramInfo, SchedClassifier, TcAttachType};
use lastmile::capture::live::Hook;
use lastmile_lab::netns;

use super::daemon::PATIENCE;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A server and a client with a router in between: `server eth0 - eth0 router eth1 - eth0 client`.
/// Gone when dropped.
pub struct Internet {
    pub server: String,
    pub router: String,
    pub client: String,
}

/// Hooks are looked at this often.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);

pub const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub const CLIENT: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 1);
pub const PORT: u16 = 80;
/// A download begins with questions and answers, while no queue is full: a minimum RTT of both
/// the wire and the socket that one hiccup of the machine does not decide.
const TURNS: usize = 100;
const TURN_BYTES: usize = 100;

impl Internet {
    /// Builds it. `server_queue` and `router_queue` are root qdiscs toward the client, in `tc`'s
    /// words.
    pub fn new(server_queue: Option<&str>, router_queue: Option<&str>) -> Self {
        let id = format!(
            "{}-{}",
            std::process::id(),
            SERIAL.fetch_add(1, Ordering::Relaxed)
        );
        let internet = Self {
            server: format!("lm-s-{id}"),
            router: format!("lm-r-{id}"),
            client: format!("lm-c-{id}"),
        };
        let Self {
            server,
            router,
            client,
        } = &internet;
        for name in [server, router, client] {
            ip(&format!("netns add {name}"));
            ip(&format!("-n {name} link set lo up"));
        }
        ip(&format!(
            "link add eth0 netns {server} type veth peer name eth0 netns {router}"
        ));
        ip(&format!(
            "link add eth1 netns {router} type veth peer name eth0 netns {client}"
        ));
        for (name, device, address) in [
            (server, "eth0", "192.0.2.1/24"),
            (router, "eth0", "192.0.2.254/24"),
            (router, "eth1", "198.51.100.254/24"),
            (client, "eth0", "198.51.100.1/24"),
        ] {
            ip(&format!("-n {name} address add {address} dev {device}"));
            ip(&format!("-n {name} link set {device} up"));
        }
        netns::set_sysctl(router, "net/ipv4/ip_forward", "1").expect("the router forwards");
        ip(&format!("-n {server} route add default via 192.0.2.254"));
        ip(&format!("-n {client} route add default via 198.51.100.254"));
        for (name, device, queue) in [
            (server, "eth0", server_queue),
            (router, "eth1", router_queue),
        ] {
            if let Some(queue) = queue {
                run(
                    "tc",
                    &format!("-n {name} qdisc add dev {device} root {queue}"),
                );
            }
        }
        internet
    }

    /// Runs `work` in a thread inside one of the hosts.
    pub fn on<T: Send + 'static>(
        &self,
        host: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<anyhow::Result<T>> {
        netns::enter(host, move || Ok(work())).expect("the namespace can be entered")
    }

    /// The kernel's own counters of TCP in one of the hosts, which are `nstat`'s
    /// (`tcp4_seq_show` of `/proc/net/snmp`; RFC 4022).
    pub fn tcp_counters(&self, host: &str) -> BTreeMap<String, u64> {
        let read = self.on(host, || {
            fs::read_to_string("/proc/thread-self/net/snmp").expect("the kernel counts")
        });
        let text = netns::join(read).expect("the namespace is there");
        let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
        let [names, values] = [(); 2].map(|()| lines.next().expect("names, then values"));
        names
            .split(' ')
            .map(str::to_owned)
            // One of them may be negative (`MaxConn`).
            .zip(values.split(' ').map(|value| value.parse().unwrap_or(0)))
            .collect()
    }

    /// Programs of ours at the ingress and at the egress of a device of the server.
    pub fn programs_at(&self, device: &'static str) -> [usize; 2] {
        let server = self.server.clone();
        let look = move || {
            [(false, "ingress"), (true, "egress")].map(
                |(egress, side)| match Hook::of_this_kernel() {
                    Hook::Tcx => links_at(device, egress),
                    Hook::Clsact => {
                        let shown = Command::new("tc")
                            .args(["-n", &server, "filter", "show", "dev", device, side])
                            .output()
                            .expect("tc runs");
                        let shown = String::from_utf8_lossy(&shown.stdout);
                        shown.matches("handle 0x6c6d").count()
                    }
                },
            )
        };
        netns::join(self.on(&self.server, look)).expect("the namespace is there")
    }

    /// Waits until no program of ours is at the hooks of a device of the server: the kernel takes a
    /// link off in a task of its own once nothing holds it, and tells nobody.
    #[track_caller]
    pub fn await_no_programs(&self, device: &'static str) {
        let begin = Instant::now();
        while self.programs_at(device) != [0, 0] {
            assert!(begin.elapsed() < PATIENCE, "still at {device}");
            thread::sleep(LOOK_INTERVAL);
        }
    }

    /// Sends `bytes` from the server to the client over one connection and returns what the
    /// server's socket says when the client has everything and both sides have closed.
    pub fn download(&self, bytes: usize) -> TcpInfo {
        self.download_while(bytes, || ())
    }

    /// The same, with `meanwhile` done when a half of it is sent.
    pub fn download_while(&self, bytes: usize, meanwhile: impl FnOnce()) -> TcpInfo {
        let (half, half_sent) = mpsc::channel();
        let (ready, listening) = mpsc::channel();
        let server = self.on(&self.server, move || {
            let listener = TcpListener::bind((SERVER, PORT)).expect("the port is free");
            ready.send(()).expect("the test listens");
            let (mut stream, _) = listener.accept().expect("the client comes");
            let mut request = [0u8; 16];
            stream.read_exact(&mut request).expect("the client asks");
            stream.set_nodelay(true).expect("connected");
            for _ in 0..TURNS {
                stream
                    .write_all(&[0x5a; TURN_BYTES])
                    .expect("the client reads");
                stream
                    .read_exact(&mut request[..1])
                    .expect("the client answers");
            }
            let chunk = vec![0x5a; 64 << 10];
            let mut left = bytes - TURNS * TURN_BYTES;
            while left > 0 {
                let part = left.min(chunk.len());
                stream.write_all(&chunk[..part]).expect("the client reads");
                left -= part;
                if left < bytes / 2 {
                    // Only the first time is waited for.
                    let _ = half.send(());
                }
            }
            stream.shutdown(Shutdown::Write).expect("still connected");
            let rest = stream.read(&mut request).expect("the client closes");
            assert_eq!(rest, 0, "the client sends nothing more");
            TcpInfo::of(&stream)
        });
        listening.recv().expect("the server listens");
        let client = self.on(&self.client, move || {
            let address = SocketAddr::from((SERVER, PORT));
            let mut stream = TcpStream::connect(address).expect("the server is there");
            stream.write_all(b"sixteen bytes...").expect("connected");
            stream.set_nodelay(true).expect("connected");
            let mut turn = [0u8; TURN_BYTES];
            for _ in 0..TURNS {
                stream.read_exact(&mut turn).expect("the server sends");
                stream.write_all(&[1]).expect("the server reads");
            }
            let mut received = Vec::with_capacity(bytes);
            stream.read_to_end(&mut received).expect("the server sends");
            TURNS * TURN_BYTES + received.len()
        });
        half_sent.recv().expect("the server sends half of it");
        meanwhile();
        let received = netns::join(client).expect("the client ends");
        assert_eq!(received, bytes, "everything arrives");
        netns::join(server).expect("the server ends")
    }
}

impl Drop for Internet {
    fn drop(&mut self) {
        for name in [&self.server, &self.router, &self.client] {
            let status = Command::new("ip").args(["netns", "del", name]).status();
            if !thread::panicking() {
                assert!(status.is_ok_and(|status| status.success()), "{name} goes");
            }
        }
    }
}

fn links_at(device: &str, egress: bool) -> usize {
    let side = if egress {
        TcAttachType::Egress
    } else {
        TcAttachType::Ingress
    };
    // Between the list and a look at a program another one may take its place.
    let programs = loop {
        match SchedClassifier::query_tcx(device, side) {
            Ok((_, programs)) => break programs,
            Err(error) if has_gone(&error) => (),
            Err(error) => panic!("programs can be listed: {error}"),
        }
    };
    let ours = |program: &&ProgramInfo| program.name().starts_with(b"lastmile");
    programs.iter().filter(ours).count()
}

/// Whether an error says that there is no program with some number any more.
fn has_gone(error: &ProgramError) -> bool {
    let mut source: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref::<std::io::Error>() {
            return error.kind() == ErrorKind::NotFound;
        }
        source = error.source();
    }
    false
}

/// What the kernel says of a connection (`struct tcp_info`, linux/tcp.h).
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    /// Smoothed RTT, µs.
    pub srtt_us: u32,
    /// Smoothed mean deviation of the RTT, µs.
    pub rttvar_us: u32,
    pub total_retrans: u32,
    pub min_rtt_us: u32,
    pub data_segs_in: u32,
    pub data_segs_out: u32,
}

impl TcpInfo {
    /// What a socket says now.
    pub fn of(stream: &TcpStream) -> Self {
        let mut info = [0u8; 232];
        let mut len = info.len() as libc::socklen_t;
        // SAFETY: the buffer and its length are valid; the kernel writes at most that much.
        let result = unsafe {
            libc::getsockopt(
                stream.as_raw_fd(),
                libc::IPPROTO_TCP,
                libc::TCP_INFO,
                info.as_mut_ptr().cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "TCP_INFO is there");
        assert!(len >= 160, "this kernel's TCP_INFO has data_segs_out");
        let field =
            |at: usize| u32::from_ne_bytes(info[at..at + 4].try_into().expect("four bytes"));
        Self {
            srtt_us: field(68),
            rttvar_us: field(72),
            total_retrans: field(100),
            min_rtt_us: field(148),
            data_segs_in: field(152),
            data_segs_out: field(156),
        }
    }
}

/// Runs `ip`.
pub fn ip(arguments: &str) {
    run("ip", arguments);
}

/// Runs a command that must succeed.
pub fn run(program: &str, arguments: &str) {
    let output = Command::new(program)
        .args(arguments.split(' '))
        .output()
        .unwrap_or_else(|error| panic!("{program} (Debian package iproute2): {error}"));
    assert!(
        output.status.success(),
        "{program} {arguments}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}
