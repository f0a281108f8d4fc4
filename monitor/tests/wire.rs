//! Real TCP over real devices: what the programs count on the wire is what the sockets say.

mod support;

use std::{sync::mpsc, time::Duration};

use lastmile::{
    capture::{
        Report,
        live::{Hook, Live, Reports},
    },
    config::Config,
    netlink::{Device, Netlink, choose},
};
use lastmile_lab::netns;
use monitor_ebpf::{
    counters::Counter,
    flow::{FlowState, Half, half_flags},
};
use support::net::{Internet, PORT, TcpInfo};

/// The queue that makes TCP lose packets: shallow, at a rate that veth exceeds by far.
const SHALLOW: &str = "tbf rate 40mbit burst 16kb limit 30kb";
const DOWNLOAD: usize = 8_000_000;
/// One epoch for a whole test, so that its minimum is the flow's.
const EPOCH_S: u32 = 86_400;
/// Longer than any transfer here takes, under emulation too.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a monitor saw, when its flow has ended.
struct Seen {
    state: FlowState,
    counters: [u64; monitor_ebpf::counters::COUNTERS],
}

impl Seen {
    /// The half that the server's packets wrote, and the one that the client's did.
    fn server_and_client(&self) -> (&Half, &Half) {
        let [low, high] = &self.state.halves;
        if self.state.key.low_port == PORT {
            (low, high)
        } else {
            (high, low)
        }
    }
}

/// Watches devices of `host` while `transfer` runs, until its flow has ended.
fn watch(
    internet: &Internet,
    host: &str,
    devices: &'static [&'static str],
    instances: usize,
    hook: Hook,
    transfer: impl FnOnce() -> TcpInfo,
) -> (Vec<Seen>, TcpInfo) {
    let (ready, attached) = mpsc::channel();
    let (done, over) = mpsc::channel::<()>();
    let monitor = internet.on(host, move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("an event loop starts");
        runtime.block_on(async {
            let found = devices_named(devices).await;
            let mut monitors = Vec::new();
            for _ in 0..instances {
                let mut live = Live::load(&support::small()).expect("the programs load");
                let mut config = Config::default();
                config.watch.ports = vec![PORT];
                config.window.length_s = EPOCH_S;
                live.watch(&config, 0).expect("settings are taken");
                let reports = live.take_reports().expect("reports can be read");
                let links: Vec<_> = found
                    .iter()
                    .map(|device| live.attach(device, hook, &[]).expect("the programs attach"))
                    .collect();
                monitors.push((live, reports, links));
            }
            ready.send(()).expect("the test waits");
            let mut seen = Vec::new();
            for (live, reports, _links) in &mut monitors {
                let state = tokio::time::timeout(PATIENCE, ended(reports))
                    .await
                    .expect("the end of the flow is reported");
                seen.push((live.counters().expect("counters can be read"), state));
            }
            over.recv().expect("the transfer ends");
            // The last word is the table's: an ACK after the last report is in it.
            monitors
                .iter()
                .zip(seen)
                .map(|((live, ..), (counters, reported))| {
                    let mut state = reported;
                    live.flows(|flow| {
                        if flow.key == reported.key {
                            state = *flow;
                        }
                    })
                    .expect("the table can be read");
                    Seen { state, counters }
                })
                .collect::<Vec<_>>()
        })
    });
    attached.recv().expect("the monitor attaches");
    let info = transfer();
    done.send(()).expect("the monitor waits");
    (netns::join(monitor).expect("the monitor ends"), info)
}

async fn devices_named(names: &[&str]) -> Vec<Device> {
    let netlink = Netlink::open().expect("netlink opens");
    let devices = netlink.devices().await.expect("devices are listed");
    let patterns: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
    let found = choose(&devices, &patterns, &[]);
    assert_eq!(found.len(), names.len(), "every device is there");
    found
}

/// Waits for the report of a flow that both sides have closed.
async fn ended(reports: &mut Reports) -> FlowState {
    let mut ended = None;
    while ended.is_none() {
        reports
            .next(|report| {
                let Report::Flow(state) = report else {
                    return;
                };
                if state.halves.iter().all(|half| half.has(half_flags::FIN)) {
                    ended = Some(*state);
                }
            })
            .await
            .expect("reports can be read");
    }
    ended.expect("just seen")
}

fn assert_agrees(seen: &Seen, socket: &TcpInfo) {
    let (server, client) = seen.server_and_client();
    println!(
        "{} segments, {} retransmitted (socket {}), {} refused by our own queue, min RTT {} us \
         (socket {})",
        server.segments,
        server.retransmitted_segments,
        socket.total_retrans,
        server.refused_segments,
        client.rtt_current.rtt_min_us,
        socket.min_rtt_us
    );
    assert_eq!(
        server.retransmitted_segments, socket.total_retrans,
        "wire retransmissions are the socket's"
    );
    assert_eq!(
        server.bytes - server.retransmitted_bytes,
        DOWNLOAD as u64,
        "every byte is counted once as new"
    );
    assert_eq!(server.spurious_segments, 0, "nothing was sent for nothing");
    assert_eq!(
        server.lost_downstream_segments, server.retransmitted_segments,
        "what we saw and saw again was lost beyond us"
    );
}

fn assert_rtt_agrees(seen: &Seen, socket: &TcpInfo) {
    let (_, client) = seen.server_and_client();
    let ours_us = client.rtt_current.rtt_min_us;
    let allowed_us = (socket.min_rtt_us / 100).max(200);
    assert!(
        ours_us.abs_diff(socket.min_rtt_us) <= allowed_us,
        "minimum RTT {ours_us} us, the socket's {} us",
        socket.min_rtt_us
    );
}

#[test]
fn at_the_sender_losses_in_the_network_are_counted_as_the_socket_does() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let internet = Internet::new(None, Some(SHALLOW));
    let (seen, socket) = watch(
        &internet,
        &internet.server,
        &["eth0"],
        1,
        Hook::of_this_kernel(),
        || internet.download(DOWNLOAD),
    );
    assert!(socket.total_retrans > 0, "the queue made TCP lose packets");
    assert_agrees(&seen[0], &socket);
    assert_rtt_agrees(&seen[0], &socket);
    let (server, _) = seen[0].server_and_client();
    assert_eq!(server.segments, socket.data_segs_out, "every wire segment");
    assert!(server.has(half_flags::LOCAL_SENDER));
    assert_eq!(seen[0].state.socket.total_retrans, socket.total_retrans);
}

#[test]
fn at_the_sender_what_our_own_queue_refuses_is_no_retransmission() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let internet = Internet::new(Some(SHALLOW), None);
    let (seen, socket) = watch(
        &internet,
        &internet.server,
        &["eth0"],
        1,
        Hook::of_this_kernel(),
        || internet.download(DOWNLOAD),
    );
    assert_agrees(&seen[0], &socket);
    assert_rtt_agrees(&seen[0], &socket);
}

#[test]
fn a_host_that_forwards_counts_every_packet_once() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let internet = Internet::new(None, Some(SHALLOW));
    let (seen, socket) = watch(
        &internet,
        &internet.router,
        &["eth0", "eth1"],
        1,
        Hook::of_this_kernel(),
        || internet.download(DOWNLOAD),
    );
    assert!(socket.total_retrans > 0, "the queue made TCP lose packets");
    assert_agrees(&seen[0], &socket);
    let (server, client) = seen[0].server_and_client();
    assert_eq!(server.segments, socket.data_segs_out, "every wire segment");
    assert!(server.seen_elsewhere > 0 && client.seen_elsewhere > 0);
    assert!(!server.has(half_flags::LOCAL_SENDER));
}

#[test]
fn through_clsact_the_same_is_counted() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let internet = Internet::new(None, Some(SHALLOW));
    let (seen, socket) = watch(
        &internet,
        &internet.server,
        &["eth0"],
        1,
        Hook::Clsact,
        || internet.download(DOWNLOAD),
    );
    assert_agrees(&seen[0], &socket);
}

#[test]
fn filters_that_are_there_before_us_and_after_us_see_every_packet() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let hook = Hook::of_this_kernel();
    if hook == Hook::Clsact {
        println!("SKIPPED: two monitors share a device only where the kernel has TCX (6.6)");
        return;
    }
    let internet = Internet::new(None, None);
    let (seen, socket) = watch(&internet, &internet.server, &["eth0"], 3, hook, || {
        internet.download(DOWNLOAD)
    });
    for one in &seen {
        assert_agrees(one, &socket);
        assert_eq!(one.counters[Counter::FlowsCreated as usize], 1);
    }
}
