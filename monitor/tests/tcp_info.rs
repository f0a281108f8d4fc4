//! RTT and retransmissions as the sending socket itself has them (TCP_INFO), paced and not.

mod support;

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use lastmile::{
    capture::live::Hook,
    flow::totals::{Reading, Totals},
};
use lastmile_lab::netns;
use monitor_ebpf::flow::FlowState;
use support::{
    chain::{Chain, LEFT, RIGHT, queue_or_skip},
    net::{PORT, TcpInfo},
    observer::{Observer, Sight, server_and_client},
    transfer::set_max_pacing_rate,
};

/// server - a path that delays and sometimes loses - client
const SERVER: usize = 0;
const PATH: usize = 1;
const CLIENT: usize = 2;

/// What operators pace video at.
const RATES_BPS: [u32; 3] = [2_500_000, 5_000_000, 10_000_000];
/// Slow start is over by then.
const WARM_UP: Duration = Duration::from_millis(1_500);
const SECOND: Duration = Duration::from_secs(1);
/// So many seconds are looked at for one that is steady.
const SECONDS_MAX: u32 = 60;
/// An emulated CPU is now and then held up while a packet is between us and the socket, and then the
/// socket's shortest RTT holds what ours does not: of so many runs that of one must agree. Counts
/// and medians must in every run.
const RUNS_MAX: u32 = 3;
/// How often the sockets are asked meanwhile: a few times in an RTT.
const ASK_EVERY: Duration = Duration::from_millis(10);

/// One connection.
struct Connection {
    client_port: u16,
    rate_bps: u32,
    steady: Second,
    /// What its socket said when it was over.
    end: TcpInfo,
}

/// A connection's second.
struct Second {
    /// What the daemon makes of it.
    ours: Totals,
    /// What the socket said in it, the middle one of each, µs.
    srtt_us: u32,
    rttvar_us: u32,
}

impl Second {
    fn new(client_port: u16, before: &Sight, after: &Sight, said: &[TcpInfo]) -> Self {
        let reading = |sight| {
            let (sender, receiver) = server_and_client(state(sight, client_port), PORT);
            Reading {
                sender,
                receiver,
                read_us: sight.read_us,
            }
        };
        let middle = |figure: fn(&TcpInfo) -> u32| {
            let mut figures: Vec<u32> = said.iter().map(figure).collect();
            figures.sort_unstable();
            figures[figures.len() / 2]
        };
        Self {
            ours: Totals::between(&reading(before), &reading(after)),
            srtt_us: middle(|info| info.srtt_us),
            rttvar_us: middle(|info| info.rttvar_us),
        }
    }

    /// 1 ms or 2 %.
    fn allowed_us(&self) -> u32 {
        (self.srtt_us / 50).max(1_000)
    }

    /// A mean, which a smoothed RTT is, is no further from a median than the mean deviation: so what
    /// a second must be to be compared in the socket itself says. The other half of what is allowed
    /// is for all else that may differ.
    fn is_steady(&self) -> bool {
        2 * self.rttvar_us <= self.allowed_us()
    }
}

/// Everything of one run.
struct Run {
    connections: Vec<Connection>,
    at_end: Sight,
}

/// Three connections at once, each paced at a rate of its own by SO_MAX_PACING_RATE.
fn run(server_queue: &str, path: Option<&str>) -> Run {
    let chain = Chain::new(3);
    chain.queue(SERVER, RIGHT, server_queue);
    if let Some(path) = path {
        chain.queue(PATH, RIGHT, path);
        chain.queue(PATH, LEFT, path);
    }
    let observer = Observer::start(&chain.hosts[SERVER], &[RIGHT], Hook::of_this_kernel(), PORT);
    let address = SocketAddr::from((Chain::right(SERVER), PORT));
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, listening) = mpsc::channel();
    let (hand_over, sockets) = mpsc::channel();
    let sending = Arc::clone(&stop);
    let server = chain.on(SERVER, move || serve(address, &ready, &hand_over, &sending));
    listening.recv().expect("the server listens");
    let client = chain.on(CLIENT, move || fetch(address));
    let connected: Vec<(u16, u32, Arc<TcpStream>)> = sockets.iter().take(RATES_BPS.len()).collect();
    thread::sleep(WARM_UP);

    let steady = steady_seconds(&observer, &connected);
    stop.store(true, Ordering::Relaxed);
    netns::join(server).expect("the server ends");
    netns::join(client).expect("the client ends");
    let connections = connected
        .into_iter()
        .zip(steady)
        .map(|((client_port, rate_bps, socket), steady)| Connection {
            client_port,
            rate_bps,
            steady,
            end: TcpInfo::of(&socket),
        })
        .collect();
    Run {
        connections,
        at_end: observer.look(),
    }
}

/// The first steady second of each connection.
fn steady_seconds(observer: &Observer, sockets: &[(u16, u32, Arc<TcpStream>)]) -> Vec<Second> {
    let mut found: Vec<Option<Second>> = sockets.iter().map(|_| None).collect();
    let mut before = observer.look();
    for _ in 0..SECONDS_MAX {
        let mut said = vec![Vec::new(); sockets.len()];
        let began = Instant::now();
        while began.elapsed() < SECOND {
            for ((.., socket), said) in sockets.iter().zip(&mut said) {
                said.push(TcpInfo::of(socket));
            }
            thread::sleep(ASK_EVERY);
        }
        let after = observer.look();
        for (((client_port, rate_bps, _), found), said) in sockets.iter().zip(&mut found).zip(&said)
        {
            let second = Second::new(*client_port, &before, &after, said);
            if found.is_none() && second.is_steady() {
                *found = Some(second);
            } else if found.is_none() {
                println!(
                    "not steady at {rate_bps} bit/s: the socket's RTT of {} us varies by {} us",
                    second.srtt_us, second.rttvar_us
                );
            }
        }
        if found.iter().all(Option::is_some) {
            return found.into_iter().flatten().collect();
        }
        before = after;
    }
    panic!("of {SECONDS_MAX} seconds none was steady")
}

fn serve(
    address: SocketAddr,
    ready: &mpsc::Sender<()>,
    hand_over: &mpsc::Sender<(u16, u32, Arc<TcpStream>)>,
    stop: &AtomicBool,
) {
    let listener = TcpListener::bind(address).expect("the port is free");
    ready.send(()).expect("the test listens");
    thread::scope(|scope| {
        for rate_bps in RATES_BPS {
            let (stream, peer) = listener.accept().expect("a client comes");
            set_max_pacing_rate(&stream, rate_bps);
            let stream = Arc::new(stream);
            hand_over
                .send((peer.port(), rate_bps, Arc::clone(&stream)))
                .expect("the test listens");
            scope.spawn(move || send(&stream, stop));
        }
    });
}

fn send(mut stream: &TcpStream, stop: &AtomicBool) {
    let chunk = vec![0x5a; 16 << 10];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&chunk).expect("the client reads");
    }
    stream.shutdown(Shutdown::Write).expect("still connected");
    let rest = stream.read(&mut [0]).expect("the client closes");
    assert_eq!(rest, 0, "the client sends nothing");
}

fn fetch(address: SocketAddr) {
    thread::scope(|scope| {
        for _ in RATES_BPS {
            scope.spawn(move || {
                let mut stream = TcpStream::connect(address).expect("the server is there");
                let mut chunk = vec![0; 64 << 10];
                while stream.read(&mut chunk).expect("the server sends") > 0 {}
            });
        }
    });
}

fn state(sight: &Sight, client_port: u16) -> &FlowState {
    let is_it =
        |state: &&FlowState| [state.key.low_port, state.key.high_port].contains(&client_port);
    sight.flows.iter().find(is_it).expect("the flow is known")
}

fn assert_median(ours_us: u32, connection: &Connection) {
    let steady = &connection.steady;
    assert!(
        ours_us.abs_diff(steady.srtt_us) <= steady.allowed_us(),
        "at {} bit/s the median RTT is {ours_us} us, the socket's smoothed RTT {} us",
        connection.rate_bps,
        steady.srtt_us
    );
}

/// What is more than 0.2 ms or 1 % off.
fn minimum_off(run: &Run, connection: &Connection) -> Option<String> {
    let at_end = state(&run.at_end, connection.client_port);
    let (_, client) = server_and_client(at_end, PORT);
    let (ours_us, min_us) = (client.rtt_current.rtt_min_us, connection.end.min_rtt_us);
    let allowed_us = (min_us / 100).max(200);
    let rate_bps = connection.rate_bps;
    (ours_us.abs_diff(min_us) > allowed_us).then(|| {
        format!("at {rate_bps} bit/s the minimum RTT is {ours_us} us, the socket's {min_us} us")
    })
}

/// Runs until the shortest RTTs agree too, at most [`RUNS_MAX`] times.
fn assert_agrees_with_minima(what: &str, again: impl Fn() -> Run) {
    let mut off = Vec::new();
    for _ in 0..RUNS_MAX {
        let run = again();
        assert_agrees(what, &run);
        let connections = run.connections.iter();
        off = connections
            .filter_map(|connection| minimum_off(&run, connection))
            .collect();
        if off.is_empty() {
            return;
        }
        println!("{what}: {off:?}");
    }
    panic!("{what}: {off:?}, {RUNS_MAX} times");
}

fn assert_agrees(what: &str, run: &Run) {
    for connection in &run.connections {
        let Connection { steady, end, .. } = connection;
        let ours = &steady.ours;
        let median_us = ours.rtt_quantile_us(0.5).expect("there are samples");
        let at_end = state(&run.at_end, connection.client_port);
        let (server, client) = server_and_client(at_end, PORT);
        println!(
            "{what}, {} kbit/s: median {median_us} us (mean {} us) of {} samples, socket \
             {} us (+-{} us); minimum {} us, socket {} us; {} retransmitted of {}, socket {}",
            connection.rate_bps / 1_000,
            ours.rtt_sum_us / ours.rtt_samples.max(1),
            ours.rtt_samples,
            steady.srtt_us,
            steady.rttvar_us,
            client.rtt_current.rtt_min_us,
            end.min_rtt_us,
            server.retransmitted_segments,
            server.segments,
            end.total_retrans,
        );
        assert_median(median_us, connection);
        // A SYN-ACK that was sent again is one to the socket, too.
        let again = server.retransmitted_segments + u32::from(server.syns_retransmitted);
        assert_eq!(
            again, end.total_retrans,
            "wire retransmissions are the socket's"
        );
        assert_eq!(server.segments, end.data_segs_out, "every segment");
    }
}

#[test]
fn paced_by_the_socket_over_a_plain_queue() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    assert_agrees_with_minima("pfifo, no delay", || run("pfifo limit 1000", None));
}

/// `queue` at the server, a path that delays each way, then one that loses a packet of 200 too.
fn over_a_real_path(queue: &str) {
    let needed = ["netem", queue.split(' ').next().unwrap_or(queue)];
    if !support::root_or_skip("network namespaces and BPF programs")
        || !needed.into_iter().all(queue_or_skip)
    {
        return;
    }
    for one_way_ms in [10, 20] {
        let path = format!("netem limit 20000 delay {one_way_ms}ms");
        let what = format!("{queue}, RTT {} ms", 2 * one_way_ms);
        assert_agrees_with_minima(&what, || run(queue, Some(&path)));
    }
    // Where it lost something the socket's minimum is no measure: it takes RTTs of retransmitted
    // data from timestamps then, cut to whole milliseconds (`tcp_ack_update_rtt`).
    let path = "netem limit 20000 delay 10ms loss random 0.5%";
    let run = run(queue, Some(path));
    assert_agrees(&format!("{queue}, RTT 20 ms, losses"), &run);
    let connections = run.connections.iter();
    let retransmitted = connections.map(|connection| connection.end.total_retrans);
    assert!(retransmitted.sum::<u32>() > 0, "the path lost something");
}

#[test]
fn paced_by_the_socket_over_a_real_path() {
    over_a_real_path("pfifo limit 1000");
}

#[test]
fn paced_by_fq_over_a_real_path() {
    over_a_real_path("fq");
}
