//! What a device takes over (segmentation, merging, VLAN tags, pacing) changes what a hook sees,
//! not what was on the wire.

mod support;

use std::net::IpAddr;

use futures_util::TryStreamExt as _;
use lastmile::capture::live::Hook;
use monitor_ebpf::{counters::Counter, flow::half_flags};
use rtnetlink::{LinkUnspec, packet_route::link::LinkAttribute};
use support::{
    chain::{Chain, LEFT, RIGHT, queue_or_skip},
    ethtool,
    net::{PORT, TcpInfo},
    observer::{Observer, Sight, server_and_client},
    ring::Ring,
    transfer::Downloads,
};

/// server - router - client
const SERVER: usize = 0;
const ROUTER: usize = 1;
const CLIENT: usize = 2;

/// The queue that makes TCP lose packets: shallow, at a rate that veth exceeds by far.
const SHALLOW: &str = "tbf rate 40mbit burst 16kb limit 30kb";
const DOWNLOAD: usize = 4_000_000;
const TURNS: usize = 100;
/// Enough for a window of several such packets.
const BIG_DOWNLOAD: usize = 20_000_000;
const BIG_PACKETS: usize = 40_000;

/// The three hosts, with a shallow queue behind the router.
fn internet() -> Chain {
    let chain = Chain::new(3);
    chain.queue(ROUTER, RIGHT, SHALLOW);
    chain
}

fn offload(chain: &Chain, host: usize, device: &'static str, features: &'static [&str], on: bool) {
    chain.within(host, move || {
        ethtool::set(device, features, on).expect("the offload can be set");
    });
}

/// Segmentation left to the device, or done before the packet gets there.
fn segmentation(chain: &Chain, host: usize, device: &'static str, on: bool) {
    offload(chain, host, device, &ethtool::SEGMENTATION, on);
    offload(chain, host, device, &[ethtool::GENERIC_SEGMENTATION], on);
}

fn downloads() -> Downloads {
    Downloads {
        turns: TURNS,
        ..Downloads::new((Chain::right(SERVER), PORT).into(), DOWNLOAD)
    }
}

/// What `host` saw on `devices` of a download, and what the two sockets said.
fn watch(
    chain: &Chain,
    host: usize,
    devices: &[&str],
    downloads: &Downloads,
) -> (Sight, TcpInfo, TcpInfo) {
    let observer = Observer::start(&chain.hosts[host], devices, Hook::of_this_kernel(), PORT);
    let (server, client) = downloads.run(&chain.hosts[SERVER], &chain.hosts[CLIENT]);
    (observer.look(), server[0].server, client[0])
}

/// The wire's counts are the sending socket's.
fn assert_agrees(what: &str, sight: &Sight, socket: &TcpInfo) {
    assert_eq!(sight.flows.len(), 1, "one flow");
    let (server, client) = server_and_client(&sight.flows[0], PORT);
    println!(
        "{what}: {} segments in {} frames (socket {}), {} retransmitted (socket {}), min RTT {} \
         us (socket {}), {} and {} seen elsewhere",
        server.segments,
        server.frames,
        socket.data_segs_out,
        server.retransmitted_segments,
        socket.total_retrans,
        client.rtt_current.rtt_min_us,
        socket.min_rtt_us,
        server.seen_elsewhere,
        client.seen_elsewhere,
    );
    assert!(socket.total_retrans > 0, "the queue made TCP lose packets");
    assert_eq!(server.segments, socket.data_segs_out, "every wire segment");
    assert_eq!(
        server.retransmitted_segments, socket.total_retrans,
        "wire retransmissions are the socket's"
    );
    assert_eq!(
        server.bytes - server.retransmitted_bytes,
        DOWNLOAD as u64,
        "every byte is counted once as new"
    );
    assert_eq!(
        sight.counter(Counter::Malformed) + sight.counter(Counter::Truncated),
        0,
        "everything is understood"
    );
}

/// At the sender itself the RTT is the socket's as well.
fn assert_rtt_agrees(sight: &Sight, socket: &TcpInfo) {
    let (server, client) = server_and_client(&sight.flows[0], PORT);
    assert!(server.has(half_flags::LOCAL_SENDER));
    let ours_us = client.rtt_current.rtt_min_us;
    let allowed_us = (socket.min_rtt_us / 100).max(200);
    assert!(
        ours_us.abs_diff(socket.min_rtt_us) <= allowed_us,
        "minimum RTT {ours_us} us, the socket's {} us",
        socket.min_rtt_us
    );
}

/// Packets with data carry one segment each, or some carry several.
fn assert_merged(sight: &Sight, merged: bool) {
    let (server, _) = server_and_client(&sight.flows[0], PORT);
    assert_eq!(
        server.frames < server.segments,
        merged,
        "{} segments in {} frames",
        server.segments,
        server.frames
    );
}

#[test]
fn a_sender_that_leaves_segmentation_to_the_device_and_one_that_does_not() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    for on in [true, false] {
        let chain = internet();
        segmentation(&chain, SERVER, RIGHT, on);
        let (sight, socket, _) = watch(&chain, SERVER, &[RIGHT], &downloads());
        assert_agrees(&format!("at the sender, TSO {on}"), &sight, &socket);
        assert_rtt_agrees(&sight, &socket);
        // Without TSO the stack still segments behind this hook (`validate_xmit_skb`).
        assert_merged(&sight, true);
    }
}

#[test]
fn a_router_that_sees_super_packets_merged_ones_and_single_ones() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    for (tso, gro) in [(true, false), (false, true), (false, false)] {
        let chain = internet();
        segmentation(&chain, SERVER, RIGHT, tso);
        offload(&chain, ROUTER, LEFT, &[ethtool::GRO], gro);
        let (sight, socket, _) = watch(&chain, ROUTER, &[LEFT, RIGHT], &downloads());
        let what = format!("at the router, TSO {tso}, GRO {gro}");
        assert_agrees(&what, &sight, &socket);
        assert_merged(&sight, tso || gro);
        let (server, client) = server_and_client(&sight.flows[0], PORT);
        assert!(server.seen_elsewhere > 0 && client.seen_elsewhere > 0);
    }
}

#[test]
fn a_receiver_that_merges_what_arrives() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    for gro in [true, false] {
        let chain = internet();
        segmentation(&chain, ROUTER, RIGHT, false);
        offload(&chain, CLIENT, LEFT, &[ethtool::GRO], gro);
        let (sight, _, socket) = watch(&chain, CLIENT, &[LEFT], &downloads());
        let (server, _) = server_and_client(&sight.flows[0], PORT);
        println!(
            "at the receiver, GRO {gro}: {} segments in {} frames (socket {})",
            server.segments, server.frames, socket.data_segs_in
        );
        assert_eq!(server.segments, socket.data_segs_in, "every wire segment");
        assert_merged(&sight, gro);
    }
}

/// What BIG TCP packets may be long here, bytes: beyond what an IP header can say.
const BIG: u32 = 200_000;
const IP_LEN_MAX: u32 = 65_535;

/// Lets the server of a chain make IPv4 packets as long; whether this kernel has such (Linux 6.3).
///
/// `ip` has had the word only since the same version.
async fn allow_long_ipv4() -> Result<bool, rtnetlink::Error> {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    let device = LinkUnspec::new_with_name(RIGHT);
    let long = LinkAttribute::GsoIpv4MaxSize(BIG);
    let wanted = device.append_extra_attribute(long.clone()).build();
    handle.link().change(wanted).execute().await?;
    let request = handle.link().get().match_name(RIGHT.to_owned());
    let device = request.execute().try_next().await?.expect("it is there");
    Ok(device.attributes.contains(&long))
}

/// A download whose packets are longer than an IP header can say, with the server's device told
/// so already.
fn big_tcp(chain: &Chain, server: IpAddr) {
    let at_server = Observer::start(&chain.hosts[0], &[RIGHT], Hook::of_this_kernel(), PORT);
    let at_client = Observer::start(&chain.hosts[1], &[LEFT], Hook::of_this_kernel(), PORT);
    let capture = chain.within(0, || Ring::start(BIG_PACKETS, true).expect("a capture"));
    let downloads = Downloads {
        turns: TURNS,
        ..Downloads::new((server, PORT).into(), BIG_DOWNLOAD)
    };
    let (ends, received) = downloads.run(&chain.hosts[0], &chain.hosts[1]);
    let longest = capture.packets().map(|packet| packet.len).max();
    let longest = longest.expect("packets");
    for (place, sight, expected) in [
        ("sender", at_server.look(), ends[0].server.data_segs_out),
        ("receiver", at_client.look(), received[0].data_segs_in),
    ] {
        assert_eq!(sight.flows.len(), 1, "one flow of {server}");
        let (half, _) = server_and_client(&sight.flows[0], PORT);
        println!(
            "BIG TCP at the {place}: packets of up to {longest} bytes, {} segments in {} frames \
             (socket {expected})",
            half.segments, half.frames
        );
        assert_eq!(half.segments, expected, "every wire segment");
        assert_eq!(half.bytes - half.retransmitted_bytes, BIG_DOWNLOAD as u64);
        assert_eq!(sight.counter(Counter::Malformed), 0);
    }
    assert!(
        longest > IP_LEN_MAX,
        "only packets of up to {longest} bytes"
    );
}

#[test]
fn ipv6_packets_longer_than_their_header_can_say() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    if !std::path::Path::new("/proc/sys/net/ipv6").exists() {
        println!("SKIPPED: this kernel has no IPv6");
        return;
    }
    let chain = Chain::new(2);
    let (server, _) = chain.with_ipv6();
    let set = format!("link set {RIGHT} gso_max_size {BIG}");
    chain.ip(0, &[set.as_str()]);
    big_tcp(&chain, server.into());
}

#[test]
fn ipv4_packets_longer_than_their_header_can_say() {
    if !support::root_or_skip("network namespaces and BPF programs") {
        return;
    }
    let chain = Chain::new(2);
    let allowed = chain.within(0, || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build();
        runtime.expect("an event loop").block_on(allow_long_ipv4())
    });
    if allowed.expect("the device can be set") {
        big_tcp(&chain, Chain::right(0).into());
    } else {
        println!("SKIPPED: this kernel has no BIG TCP over IPv4 (Linux 6.3)");
    }
}

/// A server and a router that speak over VLANs, one inside the other: the outermost first.
fn with_vlans(chain: &Chain, protocols: &[&str]) -> Vec<String> {
    let mut below = [RIGHT.to_owned(), LEFT.to_owned()];
    let mut server_devices = vec![below[0].clone()];
    for (depth, protocol) in protocols.iter().enumerate() {
        let id = 10 + depth;
        let above = [format!("{}.{id}", below[0]), format!("{}.{id}", below[1])];
        for (host, (below, above)) in [SERVER, ROUTER].into_iter().zip(below.iter().zip(&above)) {
            chain.ip(
                host,
                &[
                    &format!(
                        "link add link {below} name {above} type vlan proto {protocol} id {id}"
                    ),
                    // Room for every tag below: a veth takes one more than its MTU.
                    &format!("link set {above} mtu {} up", 1_500 - 4 * depth),
                ],
            );
        }
        below = above;
        server_devices.push(below[0].clone());
    }
    let [server, router] = &below;
    chain.ip(
        SERVER,
        &[
            &format!("address add 10.1.0.1/24 dev {server}"),
            "route replace 10.0.1.0/24 via 10.1.0.2 src 10.1.0.1",
        ],
    );
    chain.ip(ROUTER, &[&format!("address add 10.1.0.2/24 dev {router}")]);
    chain.ip(CLIENT, &["route add 10.1.0.0/24 via 10.0.1.1"]);
    server_devices
}

fn vlan_or_skip() -> bool {
    let chain = Chain::new(2);
    let made = std::process::Command::new("ip")
        .args([
            "-n",
            &chain.hosts[0],
            "link",
            "add",
            "link",
            RIGHT,
            "name",
            "tagged",
        ])
        .args(["type", "vlan", "id", "10"])
        .output()
        .expect("ip runs (Debian package iproute2)")
        .status
        .success();
    if !made {
        println!(
            "SKIPPED: this kernel has no VLAN devices; `cargo xtask test` boots ones that have"
        );
    }
    made
}

/// The tag in the packet and beside it; all devices watched, and the one that has the tags.
fn vlans_are_counted_once(protocols: &[&str]) {
    for offloaded in [true, false] {
        let chain = internet();
        let devices = with_vlans(&chain, protocols);
        offload(&chain, SERVER, RIGHT, &ethtool::VLAN, offloaded);
        offload(&chain, ROUTER, LEFT, &ethtool::VLAN, offloaded);
        let all: Vec<&str> = devices.iter().map(String::as_str).collect();
        let parent = all[0];
        let downloads = Downloads {
            server: (std::net::Ipv4Addr::new(10, 1, 0, 1), PORT).into(),
            ..downloads()
        };
        for (watched, several) in [(&all[..], true), (&[parent], false)] {
            let (sight, socket, _) = watch(&chain, SERVER, watched, &downloads);
            let what = format!("{protocols:?} offloaded {offloaded}, on {watched:?}");
            assert_agrees(&what, &sight, &socket);
            assert_rtt_agrees(&sight, &socket);
            let (server, client) = server_and_client(&sight.flows[0], PORT);
            let elsewhere = server.seen_elsewhere > 0 && client.seen_elsewhere > 0;
            assert_eq!(elsewhere, several, "seen on the other devices");
        }
        let (sight, socket, _) = watch(&chain, ROUTER, &[LEFT, RIGHT], &downloads);
        assert_agrees(
            &format!("{protocols:?} offloaded {offloaded}, at the router's plain devices"),
            &sight,
            &socket,
        );
    }
}

#[test]
fn a_vlan_device_and_its_parent_are_counted_once() {
    if support::root_or_skip("network namespaces and BPF programs") && vlan_or_skip() {
        vlans_are_counted_once(&["802.1q"]);
    }
}

#[test]
fn a_vlan_inside_a_providers_and_their_parent_are_counted_once() {
    if support::root_or_skip("network namespaces and BPF programs") && vlan_or_skip() {
        vlans_are_counted_once(&["802.1ad", "802.1q"]);
    }
}

#[test]
fn paced_super_packets() {
    if !support::root_or_skip("network namespaces and BPF programs") || !queue_or_skip("fq") {
        return;
    }
    for tso in [true, false] {
        let chain = internet();
        chain.queue(SERVER, RIGHT, "fq");
        segmentation(&chain, SERVER, RIGHT, tso);
        // Above the shallow queue's rate: it still loses.
        let downloads = Downloads {
            pacing_bps: Some(60_000_000),
            ..downloads()
        };
        let (sight, socket, _) = watch(&chain, SERVER, &[RIGHT], &downloads);
        assert_agrees(&format!("paced by fq, TSO {tso}"), &sight, &socket);
        assert_rtt_agrees(&sight, &socket);
    }
}
