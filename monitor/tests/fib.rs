//! This host's own routes against the kernel's own answers (`RTM_GETROUTE`, what `ip route get`
//! asks), in network namespaces of the test's own.

mod support;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use lastmile::daemon::fib_feed::FibFeed;
use lastmile::netlink::routing::{Changes, Dumper};
use lastmile::path::fib::{Answer, Fib, Query, Refusal};
use lastmile_lab::netns;
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteType, RouteVia,
};

/// Longer than the kernel takes to tell of a change and we to hear it, under emulation too.
const PATIENCE: Duration = Duration::from_secs(30);
/// Longer than all changes of a test together take there: each is waited for by itself.
const ALL_STEPS: Duration = Duration::from_secs(300);
/// Addresses asked about each time.
const ASKED: usize = 400;

static SERIAL: AtomicU32 = AtomicU32::new(0);

/// A host with the devices eth1, eth2 and eth3; gone when dropped.
struct Host(String);

impl Host {
    fn new() -> Self {
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let host = Self(format!("lm-fib-{}-{serial}", std::process::id()));
        support::net::ip(&format!("netns add {}", host.0));
        // The other ends are in the same namespace, with no addresses: nothing ever answers.
        host.ip("link set lo up\n\
             link add eth1 type veth peer name far1\n\
             link add eth2 type veth peer name far2\n\
             link add eth3 type veth peer name far3\n\
             link set far1 up\nlink set far2 up\nlink set far3 up\n\
             link set eth1 up\nlink set eth2 up\nlink set eth3 up\n\
             address add 192.0.2.1/24 dev eth1\n\
             address add 198.51.100.1/24 dev eth2\n\
             address add 203.0.113.1/24 dev eth3\n\
             address add 2001:db8:f1::1/64 dev eth1 nodad\n\
             address add 2001:db8:f2::1/64 dev eth2 nodad\n\
             address add 2001:db8:f3::1/64 dev eth3 nodad\n\
             address add 192.0.2.65/32 dev lo\n\
             address add 198.51.100.65/32 dev lo\n\
             address add 203.0.113.65/32 dev lo\n\
             address add 2001:db8:f1::65/128 dev lo nodad\n\
             address add 2001:db8:f2::65/128 dev lo nodad\n\
             address add 2001:db8:f3::65/128 dev lo nodad");
        host
    }

    /// Runs lines of `ip`, those that begin with `-6` by `ip -6`.
    fn ip(&self, lines: &str) {
        let lines: Vec<&str> = lines.lines().map(str::trim).collect();
        for group in lines.chunk_by(|a, b| a.starts_with("-6 ") == b.starts_with("-6 ")) {
            let mut command = Command::new("ip");
            if group[0].starts_with("-6 ") {
                command.arg("-6");
            }
            let mut child = command
                .args(["-netns", &self.0, "-batch", "-"])
                .stdin(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .expect("ip (Debian package iproute2) runs");
            let mut stdin = child.stdin.take().expect("a pipe");
            let text = group.iter().fold(String::new(), |mut text, line| {
                text.push_str(line.trim_start_matches("-6 "));
                text.push('\n');
                text
            });
            stdin.write_all(text.as_bytes()).expect("ip reads");
            drop(stdin);
            let output = child.wait_with_output().expect("ip ends");
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.success(), "{text}\n{said}");
        }
    }

    /// Runs `work` inside, in a thread with an event loop.
    fn run<T: Send + 'static, F: Future<Output = T>>(
        &self,
        work: impl FnOnce(Host) -> F + Send + 'static,
    ) -> T {
        let inside = Self(self.0.clone());
        let thread = netns::enter(&self.0, move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            Ok(runtime.block_on(async {
                tokio::time::timeout(ALL_STEPS, work(inside))
                    .await
                    .expect("it ends in time")
            }))
        });
        let thread = thread.expect("the namespace can be entered");
        netns::join(thread).expect("the thread ends")
    }
}

/// Removes the namespace; the copies inside of threads do not.
struct Owned(Host);

impl Drop for Owned {
    fn drop(&mut self) {
        let _ = Command::new("ip")
            .args(["netns", "del", &self.0.0])
            .status();
    }
}

/// What the kernel does with a packet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Way(u32, Option<IpAddr>),
    Local,
    Refused(i32),
}

/// What is asked: destination, source and mark.
#[derive(Clone, Copy, Debug)]
struct Asked {
    to: IpAddr,
    from: Option<IpAddr>,
    mark: u32,
}

fn address(address: IpAddr) -> RouteAddress {
    match address {
        IpAddr::V4(address) => RouteAddress::Inet(address),
        IpAddr::V6(address) => RouteAddress::Inet6(address),
    }
}

async fn ask_kernel(handle: &rtnetlink::Handle, asked: Asked) -> Told {
    use futures_util::TryStreamExt as _;
    let length = if asked.to.is_ipv4() { 32 } else { 128 };
    let mut message = RouteMessage::default();
    message.header = RouteHeader {
        address_family: if asked.to.is_ipv4() {
            AddressFamily::Inet
        } else {
            AddressFamily::Inet6
        },
        destination_prefix_length: length,
        ..RouteHeader::default()
    };
    message
        .attributes
        .push(RouteAttribute::Destination(address(asked.to)));
    if let Some(from) = asked.from {
        message.header.source_prefix_length = length;
        message
            .attributes
            .push(RouteAttribute::Source(address(from)));
    }
    if asked.mark != 0 {
        message.attributes.push(RouteAttribute::Mark(asked.mark));
    }
    // Without it the kernel asks for UDP.
    message.attributes.push(RouteAttribute::IpProto(6));
    let mut answers = Box::pin(handle.route().get(message).execute());
    match answers.try_next().await {
        Ok(Some(route)) if route.header.kind == RouteType::Local => Told::Local,
        Ok(Some(route)) => {
            let (mut device, mut gateway) = (0, None);
            for attribute in route.attributes {
                match attribute {
                    RouteAttribute::Oif(index) => device = index,
                    RouteAttribute::Gateway(RouteAddress::Inet(address)) => {
                        gateway = Some(address.into());
                    }
                    RouteAttribute::Gateway(RouteAddress::Inet6(address)) => {
                        gateway = Some(address.into());
                    }
                    RouteAttribute::Via(RouteVia::Inet6(address)) => {
                        gateway = Some(address.into());
                    }
                    _ => {}
                }
            }
            Told::Way(device, gateway)
        }
        Ok(None) => panic!("no answer about {asked:?}"),
        Err(rtnetlink::Error::NetlinkError(error)) => Told::Refused(error.raw_code()),
        Err(error) => panic!("{asked:?}: {error}"),
    }
}

fn ask_us(fib: &Fib, asked: Asked) -> Answer {
    fib.lookup(&Query {
        source: asked.from,
        mark: Some(asked.mark),
        local: Some(true),
        ..Query::to(asked.to)
    })
}

/// Why our answer is not the kernel's, if it is not. A doubt leaves room for others, never
/// excludes the kernel's.
fn disagreement(told: &Told, answer: &Answer) -> Option<String> {
    let fits = match told {
        Told::Way(device, gateway) => answer
            .ways
            .iter()
            .any(|way| (way.device, way.next_hop) == (*device, *gateway)),
        Told::Local => answer.refused.contains(&Refusal::Local),
        Told::Refused(_) => !answer.refused.is_empty() && !answer.refused.contains(&Refusal::Local),
    };
    let certain = answer.doubts.is_empty();
    let too_much = match told {
        Told::Way(..) => !answer.refused.is_empty(),
        Told::Local | Told::Refused(_) => !answer.ways.is_empty(),
    };
    (!fits || (certain && too_much)).then(|| format!("kernel {told:?}, we {answer}"))
}

/// Numbers that look random and are the same every time (xorshift64*, Vigna 2016).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % limit
    }

    fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }

    /// Mostly in 10.0.0.0/12 or 2001:db8::/44, where the routes are.
    fn address(&mut self) -> IpAddr {
        let bits = self.below(1 << 20) as u32;
        if self.below(2) == 0 {
            let net = self.one_of(&[
                0x0a00_0000,
                0x0a00_0000,
                0x0a00_0000,
                0x0800_0000,
                0xc633_6400,
            ]);
            Ipv4Addr::from(net | (bits & 0x000f_ffff)).into()
        } else {
            let net: u128 = self.one_of(&[
                0x2001_0db8_0000_u128 << 80,
                0x2001_0db8_0000_u128 << 80,
                0x2400_0000_0000_u128 << 80,
            ]);
            Ipv6Addr::from(net | (u128::from(bits) << 80 >> 12) << 8 | 1).into()
        }
    }

    fn asked(&mut self) -> Asked {
        let to = self.address();
        let sources: [IpAddr; 3] = if to.is_ipv4() {
            [
                [192, 0, 2, 65].into(),
                [198, 51, 100, 65].into(),
                [203, 0, 113, 65].into(),
            ]
        } else {
            [
                [0x2001, 0xdb8, 0xf1, 0, 0, 0, 0, 0x65].into(),
                [0x2001, 0xdb8, 0xf2, 0, 0, 0, 0, 0x65].into(),
                [0x2001, 0xdb8, 0xf3, 0, 0, 0, 0, 0x65].into(),
            ]
        };
        Asked {
            to,
            from: Some(self.one_of(&sources)),
            mark: self.one_of(&[0, 0, 1, 0x11]),
        }
    }
}

/// Routes of every kind, in several tables, with rules of every kind that can be asked about.
fn many_routes(random: &mut Random) -> String {
    let mut lines: Vec<String> = [
        "nexthop add id 1 via 192.0.2.251 dev eth1",
        "nexthop add id 2 via 198.51.100.251 dev eth2",
        "nexthop add id 3 via 203.0.113.251 dev eth3",
        "nexthop add id 4 blackhole",
        "nexthop add id 10 group 1/2,3",
        "nexthop add id 21 via 2001:db8:f1::251 dev eth1",
        "nexthop add id 22 via fe80::251 dev eth2",
        "nexthop add id 30 group 21/22",
        "route add 10.14.0.0/16 nhid 10",
        "route add 10.13.0.0/16 nhid 4",
        "route add 10.12.0.0/16 via inet6 fe80::9 dev eth3",
        "route add 10.11.0.0/16 nexthop via 192.0.2.250 weight 3 nexthop via 198.51.100.250 nexthop via 198.51.100.249",
        "-6 route add 2001:db8:c::/48 nhid 30",
        "-6 route add 2001:db8:b::/48 nexthop via 2001:db8:f1::250 nexthop via fe80::250 dev eth3",
        "rule add priority 100 to 10.2.0.0/16 table 101",
        "rule add priority 110 from 198.51.100.0/24 table 102",
        "rule add priority 120 fwmark 1/0xf table 103",
        "rule add priority 130 not from 192.0.2.0/24 fwmark 0x11 table 102",
        "rule add priority 140 table main suppress_prefixlength 11",
        "rule add priority 150 to 10.5.0.0/16 goto 170",
        "rule add priority 160 table 101",
        "rule add priority 170 to 10.6.0.0/16 prohibit",
        "rule add priority 180 iif eth1 blackhole",
        // UDP; guests have no /etc/protocols.
        "rule add priority 190 ipproto 17 blackhole",
        "-6 rule add priority 100 to 2001:db8:2::/48 table 101",
        "-6 rule add priority 110 from 2001:db8:f2::/64 table 102",
        "-6 rule add priority 120 fwmark 1/0xf table 103",
        "-6 rule add priority 140 table main suppress_prefixlength 40",
        "-6 rule add priority 170 to 2001:db8:6::/48 unreachable",
        "route add default via 192.0.2.254 metric 100",
        "route add default via 198.51.100.254 metric 200",
        "-6 route add default via fe80::254 dev eth1 metric 100",
        "-6 route add default via 2001:db8:f2::254 metric 200",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut keys = BTreeSet::new();
    for _ in 0..300 {
        let table = random.one_of(&["main", "main", "101", "102", "103"]);
        let (device, hops) = random.one_of(&[
            ("eth1", ["192.0.2", "2001:db8:f1:"]),
            ("eth2", ["198.51.100", "2001:db8:f2:"]),
            ("eth3", ["203.0.113", "2001:db8:f3:"]),
        ]);
        let host = 100 + random.below(50);
        let metric = random.below(3) * 10 + 10;
        let kind = random.below(12);
        let bits = random.below(1 << 20);
        let ipv6 = random.below(2) == 0;
        let (family, prefix, gateway) = if ipv6 {
            let length = 44 + random.below(21) as u32;
            let mask = u128::MAX << (128 - length);
            let address = (0x2001_0db8_0000_u128 << 80) | (u128::from(bits) << 80 >> 12) << 8;
            let prefix = format!("{}/{length}", Ipv6Addr::from(address & mask));
            ("-6 ", prefix, format!("{}:{host}", hops[1]))
        } else {
            let length = 12 + random.below(13) as u32;
            let mask = u32::MAX << (32 - length);
            let prefix = format!(
                "{}/{length}",
                Ipv4Addr::from((0x0a00_0000 | bits as u32) & mask)
            );
            ("", prefix, format!("{}.{host}", hops[0]))
        };
        // Routes for 10.11 to 10.14 and the like are above.
        if !keys.insert((table, prefix.clone(), metric)) {
            continue;
        }
        let what = match kind {
            0 => format!("blackhole {prefix}"),
            1 => format!("unreachable {prefix}"),
            2 => format!("prohibit {prefix}"),
            3 => format!("throw {prefix}"),
            4 => format!("{prefix} dev {device}"),
            _ => format!("{prefix} via {gateway} dev {device}"),
        };
        lines.push(format!(
            "{family}route add {what} table {table} metric {metric}"
        ));
    }
    lines.join("\n")
}

/// Compares ours with the kernel's answers about many addresses.
async fn compare(fib: &Fib, handle: &rtnetlink::Handle, random: &mut Random) -> Vec<String> {
    let mut disagreements = Vec::new();
    for _ in 0..ASKED {
        let asked = random.asked();
        let told = ask_kernel(handle, asked).await;
        if let Some(why) = disagreement(&told, &ask_us(fib, asked)) {
            disagreements.push(format!("{asked:?}: {why}"));
        }
    }
    disagreements
}

fn open_handle() -> rtnetlink::Handle {
    let (connection, handle, _) = rtnetlink::new_connection().expect("a netlink socket");
    tokio::spawn(connection);
    handle
}

#[test]
fn every_answer_is_the_kernels() {
    if !support::root_or_skip("network namespaces") {
        return;
    }
    let host = Owned(Host::new());
    let mut random = Random(42);
    host.0.ip(&many_routes(&mut random));
    let (certain, ways, refused) = host.0.run(move |_| async move {
        let handle = open_handle();
        let dumped = Dumper::open().and_then(|mut it| it.dump()).expect("a dump");
        assert_eq!(dumped.malformed, 0);
        let fib = dumped.fib;
        assert!(fib.routes() > 250, "{} routes", fib.routes());
        let mut seen = BTreeSet::new();
        let (mut certain, mut refused) = (0, 0);
        for _ in 0..4 * ASKED {
            let asked = random.asked();
            let told = ask_kernel(&handle, asked).await;
            let answer = ask_us(&fib, asked);
            assert_eq!(disagreement(&told, &answer), None, "{asked:?}");
            certain += usize::from(answer.doubts.is_empty());
            refused += usize::from(matches!(told, Told::Refused(_)));
            seen.insert(told);
        }
        (certain, seen.len(), refused)
    });
    println!(
        "{certain} of {} certain, {ways} different ways, {refused} refused",
        4 * ASKED
    );
    assert!(certain > 2 * ASKED, "{certain}");
    assert!(ways > 25 && refused > 20);
}

#[test]
fn all_members_of_an_ecmp_route_are_in_the_answer_and_each_is_taken_by_some() {
    if !support::root_or_skip("network namespaces") {
        return;
    }
    let host = Owned(Host::new());
    // By layer 4 too, as the kernel's own flows are.
    netns::set_sysctl(&host.0.0, "net/ipv4/fib_multipath_hash_policy", "0").expect("a sysctl");
    host.0.ip(
        "route add 10.0.0.0/8 nexthop via 192.0.2.250 nexthop via 198.51.100.250 nexthop via 203.0.113.250\n\
         -6 route add 2001:db8::/44 nexthop via 2001:db8:f1::250 nexthop via 2001:db8:f2::250 nexthop via 2001:db8:f3::250",
    );
    host.0.run(|_| async move {
        let handle = open_handle();
        let fib = Dumper::open()
            .and_then(|mut it| it.dump())
            .expect("a dump")
            .fib;
        for base in ["10.3.0.0", "2001:db8:7::"] {
            let base: IpAddr = base.parse().expect("an address");
            let mut told = BTreeSet::new();
            let mut ours = BTreeSet::new();
            for n in 1..200u16 {
                let to = match base {
                    IpAddr::V4(it) => Ipv4Addr::from(u32::from(it) + u32::from(n) * 257).into(),
                    IpAddr::V6(it) => Ipv6Addr::from(u128::from(it) + (u128::from(n) << 40)).into(),
                };
                let asked = Asked {
                    to,
                    from: None,
                    mark: 0,
                };
                told.insert(ask_kernel(&handle, asked).await);
                let answer = ask_us(&fib, asked);
                assert!(answer.doubts.is_empty(), "{answer}");
                for way in answer.ways {
                    ours.insert(Told::Way(way.device, way.next_hop));
                }
            }
            assert_eq!(told, ours);
            assert_eq!(told.len(), 3);
        }
    });
}

#[test]
fn changes_are_heard_and_lead_to_the_kernels_answers() {
    if !support::root_or_skip("network namespaces") {
        return;
    }
    let host = Owned(Host::new());
    let mut random = Random(7);
    host.0.ip(&many_routes(&mut random));
    let steps = [
        "route replace 10.1.0.0/16 via 203.0.113.77",
        "route append 10.1.0.0/16 via 203.0.113.78",
        "route del default via 192.0.2.254 metric 100",
        "-6 route del default via fe80::254 dev eth1 metric 100",
        "-6 route append 2001:db8:b::/48 via 2001:db8:f2::249",
        "-6 route del 2001:db8:b::/48 nexthop via fe80::250 dev eth3",
        "nexthop replace id 10 group 2",
        "nexthop del id 4",
        "rule add priority 90 to 10.3.0.0/16 table 102",
        "rule del priority 110",
        "-6 rule del priority 140",
        "address add 203.0.113.9/24 dev eth3\nroute add 10.15.0.0/16 via 203.0.113.7 src 203.0.113.9",
        // Routes go with an address or a device, and nobody is told.
        "address del 203.0.113.9/24 dev eth3",
        "link set eth2 down",
        "link set eth2 up\nroute add default via 198.51.100.9",
        "link set eth1 down\nlink set eth1 name wan0\nlink set wan0 up\nroute add 10.0.0.0/12 via 192.0.2.9",
        "link del eth3",
        "route flush table main\n-6 route flush table 101",
    ];
    let counters = host.0.run(move |host| async move {
        let handle = open_handle();
        let feed = FibFeed::start().expect("the routes can be read");
        for step in steps {
            let lines = step.to_owned();
            let there = Host(host.0.clone());
            tokio::task::spawn_blocking(move || there.ip(&lines))
                .await
                .expect("ip runs");
            let seed = random.below(1 << 30) | 1;
            loop {
                let disagreements = compare(&feed.live.load(), &handle, &mut Random(seed)).await;
                if disagreements.is_empty() {
                    break;
                }
                // Another change is on its way, or the test ends by its time limit.
                tokio::time::timeout(PATIENCE, feed.live.changed())
                    .await
                    .unwrap_or_else(|_| panic!("after `{step}`: {:#?}", &disagreements[..1]));
            }
        }
        let fib = feed.live.load();
        let asked: Vec<Asked> = (0..ASKED).map(|_| random.asked()).collect();
        assert!(
            asked.iter().all(|&asked| ask_us(&fib, asked)
                .ways
                .iter()
                .all(|way| ["wan0", "eth2"].contains(&&*way.interface))),
            "a device that is gone, or an old name"
        );
        let counters = &feed.live.counters;
        (
            counters.changes.load(Ordering::Relaxed),
            counters.malformed.load(Ordering::Relaxed),
            counters.overflows.load(Ordering::Relaxed),
        )
    });
    assert!(counters.0 > 20, "{counters:?}");
    assert_eq!((counters.1, counters.2), (0, 0));
}

#[test]
fn messages_that_the_kernel_dropped_are_counted_and_a_dump_makes_up_for_them() {
    if !support::root_or_skip("network namespaces") {
        return;
    }
    let host = Owned(Host::new());
    let overflows = host.0.run(|host| async move {
        // The smallest buffer there is, and nobody reads while 2,000 routes are added.
        let changes = Changes::with_buffer(1).expect("a socket");
        let lines: Vec<String> = (0..2_000)
            .map(|n| format!("route add 10.{}.{}.0/24 via 192.0.2.9", n / 256, n % 256))
            .collect();
        host.ip(&lines.join("\n"));
        let dumper = Dumper::open().expect("a socket");
        let feed = FibFeed::follow(changes, dumper).await.expect("a dump");
        host.ip("route add 10.99.0.0/16 via 192.0.2.77");
        while feed.live.counters.overflows.load(Ordering::Relaxed) == 0
            || feed.live.load().routes() < 2_001
        {
            feed.live.changed().await;
        }
        let answer = feed.live.load().lookup(&Query::to([10, 7, 207, 1].into()));
        assert_eq!(answer.next_hop(), Some([192, 0, 2, 9].into()), "{answer}");
        feed.live.counters.overflows.load(Ordering::Relaxed)
    });
    assert!(overflows > 0);
}
