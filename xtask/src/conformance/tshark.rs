//! tshark as a reference: every TCP segment of a capture, with what `tcp.analysis` says of it.

use std::{
    io::{BufRead, BufReader, Read},
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Stdio,
    thread,
};

use anyhow::{Context, Result};

use super::{
    programs::Analysers,
    segment::{Analysis, Carriage, Segment},
};

/// The columns, in the order of [`parse`].
const FIELDS: [&str; 32] = [
    "frame.number",
    "frame.time_epoch",
    "frame.protocols",
    "frame.len",
    "frame.cap_len",
    "tcp.stream",
    "ip.src",
    "ip.dst",
    "ipv6.src",
    "ipv6.dst",
    "tcp.srcport",
    "tcp.dstport",
    "tcp.seq_raw",
    "tcp.ack_raw",
    "tcp.len",
    "tcp.flags",
    "tcp.hdr_len",
    "tcp.window_size_value",
    "tcp.options.timestamp.tsval",
    "tcp.options.timestamp.tsecr",
    "ip.frag_offset",
    "ipv6.fraghdr.ident",
    "ip.len",
    "ip.hdr_len",
    "tcp.analysis.retransmission",
    "tcp.analysis.spurious_retransmission",
    "tcp.analysis.out_of_order",
    "tcp.analysis.keep_alive",
    "tcp.analysis.zero_window_probe",
    "tcp.analysis.acks_frame",
    "tcp.analysis.ack_rtt",
    "tcp.analysis.initial_rtt",
];

/// What tshark read of a capture.
#[derive(Debug, Default)]
pub struct Reading {
    pub segments: Vec<Segment>,
    /// Frames with a TCP header of which not enough was kept to say more than that.
    pub cut: u64,
    /// Why it stopped before the end, in its own words.
    pub error: Option<String>,
}

/// Runs tshark over a capture. `home` is an empty folder, so that nobody's preferences count.
///
/// # Errors
/// When it cannot be run.
pub fn read(analysers: &Analysers, capture: &Path, home: &Path) -> Result<Reading> {
    let mut command = analysers.tshark();
    command
        .env("HOME", home)
        .env("WIRESHARK_CONFIG_DIR", home)
        .env("LC_ALL", "C")
        .arg("-n")
        .arg("-r")
        .arg(capture)
        // The payload is nobody's business here, and putting it together takes most of the time.
        .args(["-o", "tcp.desegment_tcp_streams:FALSE"])
        .args(["-Y", "tcp", "-T", "fields"])
        .args([
            "-E",
            "separator=/t",
            "-E",
            "occurrence=a",
            "-E",
            "aggregator=,",
        ]);
    for field in FIELDS {
        command.args(["-e", field]);
    }
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run tshark")?;
    let mut stderr = child.stderr.take().context("no standard error")?;
    // A pipe that nobody empties would stop it.
    let messages = thread::spawn(move || {
        let mut text = String::new();
        let result = stderr.read_to_string(&mut text);
        result.map(|_| text)
    });
    let mut reading = Reading::default();
    let stdout = child.stdout.take().context("no standard output")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = line.context("cannot read what tshark prints")?;
        match parse(&String::from_utf8_lossy(&line)) {
            Some(segment) => reading.segments.push(segment),
            None => reading.cut += 1,
        }
    }
    let status = child.wait().context("cannot wait for tshark")?;
    let messages = messages
        .join()
        .map_err(|_| anyhow::anyhow!("the reader of tshark's messages died"))?
        .context("cannot read tshark's messages")?;
    if !status.success() {
        let said = messages
            .lines()
            .filter(|line| !line.starts_with("Running as user"))
            .collect::<Vec<_>>()
            .join(" ");
        reading.error = Some(said);
    }
    Ok(reading)
}

/// One line of [`FIELDS`]. `None` where a field is missing that every whole TCP header has.
fn parse(line: &str) -> Option<Segment> {
    let columns: Vec<&str> = line.split('\t').collect();
    let column = |name: &str| {
        let index = FIELDS.iter().position(|field| *field == name)?;
        columns.get(index).copied().filter(|text| !text.is_empty())
    };
    // Where a segment carries another one, the outer one comes first.
    let first = |name: &str| column(name)?.split(',').next();
    let is_there = |name: &str| column(name).is_some();

    let layers = Layers::of(column("frame.protocols")?)?;
    let address = |v4: &str, v6: &str| -> Option<IpAddr> {
        let (name, index) = match layers.ip {
            (4, index) => (v4, index),
            (_, index) => (v6, index),
        };
        let address: IpAddr = column(name)?.split(',').nth(index)?.parse().ok()?;
        Some(address.to_canonical())
    };
    let port = |name: &str| first(name)?.parse().ok();
    let number = |name: &str| -> Option<u32> { first(name)?.parse().ok() };
    let header_len = number("tcp.hdr_len")?;
    let len = number("tcp.len")?;
    let (frame_len, kept) = (number("frame.len")?, number("frame.cap_len")?);
    let in_fragments =
        layers.fragment_header || first("ip.frag_offset").is_some_and(|offset| offset != "0");
    let nanoseconds = |name: &str| first(name).and_then(nanoseconds);
    let carriage = match layers.carriage {
        Carriage::Plain if in_fragments => Carriage::Fragment,
        carriage => carriage,
    };
    // A tool that cuts packets may leave their original length in the IP header only.
    let by_ip_header = || {
        let headers = number("ip.hdr_len")?.checked_add(header_len)?;
        let is_v4 = carriage == Carriage::Plain && layers.ip.0 == 4;
        number("ip.len")?.checked_sub(headers).filter(|_| is_v4)
    };
    Some(Segment {
        frame: number("frame.number")?,
        time_ns: nanoseconds("frame.time_epoch")?,
        carriage,
        labelled: layers.labelled,
        extended: layers.extended,
        stream: number("tcp.stream")?,
        source: SocketAddr::new(address("ip.src", "ipv6.src")?, port("tcp.srcport")?),
        destination: SocketAddr::new(address("ip.dst", "ipv6.dst")?, port("tcp.dstport")?),
        sequence: number("tcp.seq_raw")?,
        acknowledgment: number("tcp.ack_raw")?,
        len: by_ip_header().map_or(len, |by_header| by_header.max(len)),
        len_in_frame: len,
        flags: u16::from_str_radix(first("tcp.flags")?.strip_prefix("0x")?, 16).ok()?,
        window: number("tcp.window_size_value")?,
        timestamps: number("tcp.options.timestamp.tsval")
            .zip(number("tcp.options.timestamp.tsecr")),
        header_cut: kept < frame_len
            && (kept as usize) < layers.link_and_ip_len + header_len as usize,
        analysis: Analysis {
            retransmission: is_there("tcp.analysis.retransmission"),
            spurious: is_there("tcp.analysis.spurious_retransmission"),
            out_of_order: is_there("tcp.analysis.out_of_order"),
            keep_alive: is_there("tcp.analysis.keep_alive"),
            zero_window_probe: is_there("tcp.analysis.zero_window_probe"),
            acknowledges: number("tcp.analysis.acks_frame")
                .zip(nanoseconds("tcp.analysis.ack_rtt")),
            initial_rtt_ns: nanoseconds("tcp.analysis.initial_rtt"),
        },
    })
}

/// What `frame.protocols` says about the way to the first TCP header.
#[derive(Debug, PartialEq, Eq)]
struct Layers {
    carriage: Carriage,
    /// IP version of the header just before TCP, and which of that version's headers it is.
    ip: (u8, usize),
    fragment_header: bool,
    labelled: bool,
    extended: bool,
    /// A lower bound: options and extension headers count with the least they take.
    link_and_ip_len: usize,
}

impl Layers {
    /// `eth:ethertype:vlan:ethertype:ip:tcp:...`; `None` where no TCP header follows an IP one.
    fn of(protocols: &str) -> Option<Self> {
        let mut versions = (0, 0);
        let mut ip = None;
        let mut quoted = false;
        let mut tunnel = false;
        let mut fragment_header = false;
        let mut labelled = false;
        let mut extended = false;
        let mut link_and_ip_len = 0;
        for name in protocols.split(':') {
            link_and_ip_len += match name {
                "eth" => 14,
                "sll" => 16,
                "vlan" | "null" | "mpls" => 4,
                "pppoes" => 6,
                "ppp" => 2,
                "ip" => 20,
                "ipv6" => 40,
                _ => 0,
            };
            extended |= name.starts_with("ipv6.");
            match name {
                "tcp" => {
                    let ip = ip?;
                    return Some(Self {
                        carriage: if quoted {
                            Carriage::Quoted
                        } else if tunnel || versions.0 + versions.1 > 1 {
                            Carriage::Tunnel
                        } else {
                            Carriage::Plain
                        },
                        ip,
                        fragment_header,
                        labelled,
                        extended,
                        link_and_ip_len,
                    });
                }
                "ip" => {
                    ip = Some((4, versions.0));
                    versions.0 += 1;
                }
                "ipv6" => {
                    ip = Some((6, versions.1));
                    versions.1 += 1;
                }
                "icmp" | "icmpv6" => quoted = true,
                "ipv6.fraghdr" => fragment_header = true,
                "mpls" | "pppoes" | "ieee8021ad" => labelled = true,
                "gre" | "vxlan" | "geneve" | "gtp" | "udp" => tunnel = true,
                _ => {}
            }
        }
        None
    }
}

/// `12.000345000` seconds.
fn nanoseconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = format!("{fraction:0<9}");
    let seconds: u64 = seconds.parse().ok()?;
    let fraction: u64 = fraction.get(..9)?.parse().ok()?;
    seconds.checked_mul(1_000_000_000)?.checked_add(fraction)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line as tshark 4.0 prints it, from the columns that are not empty.
    fn line(columns: &[(&str, &str)]) -> String {
        FIELDS
            .map(|field| {
                columns
                    .iter()
                    .find(|(name, _)| *name == field)
                    .map_or("", |(_, text)| text)
            })
            .join("\t")
    }

    const PLAIN: [(&str, &str); 16] = [
        ("frame.number", "32"),
        ("frame.time_epoch", "1285862903.267848000"),
        ("frame.protocols", "eth:ethertype:ip:tcp:http"),
        ("frame.len", "1484"),
        ("frame.cap_len", "68"),
        ("tcp.stream", "0"),
        ("ip.src", "192.168.0.27"),
        ("ip.dst", "10.0.88.85"),
        ("tcp.srcport", "80"),
        ("tcp.dstport", "50368"),
        ("tcp.seq_raw", "4249398646"),
        ("tcp.ack_raw", "414291861"),
        ("tcp.len", "1430"),
        ("tcp.flags", "0x0018"),
        ("tcp.hdr_len", "20"),
        ("tcp.window_size_value", "6432"),
    ];

    #[test]
    fn a_segment_with_its_analysis() {
        let columns = [
            &PLAIN[..],
            &[
                ("tcp.analysis.retransmission", "1"),
                ("tcp.analysis.acks_frame", "3"),
                ("tcp.analysis.ack_rtt", "0.185385000"),
            ],
        ]
        .concat();
        let segment = parse(&line(&columns)).unwrap();
        assert_eq!(segment.frame, 32);
        assert_eq!(segment.time_ns, 1_285_862_903_267_848_000);
        assert_eq!(segment.source, "192.168.0.27:80".parse().unwrap());
        assert_eq!((segment.len, segment.carriage), (1430, Carriage::Plain));
        assert!(segment.analysis.retransmission && !segment.analysis.out_of_order);
        assert_eq!(segment.analysis.acknowledges, Some((3, 185_385_000)));
        assert!(!segment.header_cut);
    }

    #[test]
    fn a_record_that_claims_less_than_the_ip_header_is_cut() {
        let mut columns = PLAIN.to_vec();
        columns.retain(|(name, _)| !["frame.len", "tcp.len"].contains(name));
        columns.extend([
            ("frame.len", "120"),
            ("tcp.len", "54"),
            ("ip.len", "1500"),
            ("ip.hdr_len", "20"),
        ]);
        let segment = parse(&line(&columns)).unwrap();
        assert_eq!((segment.len, segment.len_in_frame), (1460, 54));
    }

    #[test]
    fn a_header_of_which_the_length_is_not_known_is_no_segment() {
        let columns: Vec<_> = PLAIN
            .into_iter()
            .filter(|(name, _)| *name != "tcp.len")
            .collect();
        assert_eq!(parse(&line(&columns)), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn the_address_is_the_innermost_before_tcp() {
        let inside = |name, inner| (name, inner);
        let mut columns = PLAIN.to_vec();
        columns.retain(|(name, _)| !["frame.protocols", "ip.src", "ip.dst"].contains(name));
        columns.extend([
            inside("frame.protocols", "eth:ethertype:ip:gre:ip:tcp"),
            inside("ip.src", "198.51.100.1,10.0.0.1"),
            inside("ip.dst", "198.51.100.2,10.0.0.2"),
        ]);
        let segment = parse(&line(&columns)).unwrap();
        assert_eq!(segment.carriage, Carriage::Tunnel);
        assert_eq!(segment.source, "10.0.0.1:80".parse().unwrap());
    }

    #[test]
    fn what_lies_around_tcp() {
        let carriage = |protocols| Layers::of(protocols).map(|layers| layers.carriage);
        assert_eq!(
            carriage("eth:ethertype:vlan:ethertype:mpls:ip:tcp"),
            Some(Carriage::Plain)
        );
        assert_eq!(
            carriage("eth:ethertype:ip:udp:vxlan:eth:ethertype:ip:tcp"),
            Some(Carriage::Tunnel)
        );
        assert_eq!(
            carriage("eth:ethertype:ip:icmp:ip:tcp"),
            Some(Carriage::Quoted)
        );
        // TCP that carries TCP: the outer one is what passes here.
        assert_eq!(carriage("raw:ipv6:tcp:ssh:ip:tcp"), Some(Carriage::Plain));
        assert_eq!(carriage("eth:ethertype:ip:udp:dns"), None);
    }

    #[test]
    fn times_to_the_nanosecond() {
        assert_eq!(nanoseconds("0.000073000"), Some(73_000));
        assert_eq!(nanoseconds("12"), Some(12_000_000_000));
        assert_eq!(nanoseconds("1.5"), Some(1_500_000_000));
        assert_eq!(nanoseconds("-1.5"), None);
    }
}
