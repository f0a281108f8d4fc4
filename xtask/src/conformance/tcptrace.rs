//! tcptrace as a reference: its figures for every connection, and which segments it marks.

use std::{
    collections::HashMap,
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};

use super::programs::Analysers;

/// One connection.
#[derive(Debug, Clone, PartialEq)]
pub struct Connection {
    pub a: SocketAddr,
    pub b: SocketAddr,
    /// First packet, µs since 1970 UTC.
    pub start_us: u64,
    /// Data from a to b, and from b to a.
    pub directions: [Figures; 2],
    /// The marks in the two time-sequence graphs.
    pub marks: [Marks; 2],
}

/// What tcptrace says of one direction's data.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Figures {
    pub bytes: u64,
    pub frames: u64,
    /// SYNs and FINs included.
    pub retransmitted: u64,
    pub out_of_order: u64,
    /// ms, to a tenth; `None` without samples.
    pub rtt_min_ms: Option<f64>,
    /// SYN, or SYN-ACK, to what acknowledged it, ms.
    pub handshake_ms: Option<f64>,
}

/// What a segment is marked with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark {
    Retransmitted,
    OutOfOrder,
    /// Sent into a closed window.
    Probe,
}

/// How often each mark stands at a time (µs) and a sequence number.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Marks(HashMap<(Mark, u64, u32), u32>);

impl Marks {
    /// Whether a mark is there that no earlier call took.
    pub fn take(&mut self, mark: Mark, time_us: u64, sequence: u32) -> bool {
        match self.0.get_mut(&(mark, time_us, sequence)) {
            Some(count) if *count > 0 => {
                *count -= 1;
                true
            }
            _ => false,
        }
    }
}

/// Runs tcptrace over a capture that is not compressed; `folder` is empty and takes its graphs.
/// `Err` in the inner result: why it has nothing to say.
///
/// # Errors
/// When it cannot be run, or its graphs cannot be read.
pub fn read(
    analysers: &Analysers,
    capture: &Path,
    folder: &Path,
) -> Result<Result<Vec<Connection>, String>> {
    let figures = run(analysers
        .tcptrace()
        .args(["-n", "-l", "-r", "--csv"])
        .arg(capture)
        .current_dir(folder))?;
    let mut connections = match figures.and_then(|text| table(&text)) {
        Ok(connections) => connections,
        Err(reason) => return Ok(Err(reason)),
    };
    let brief = match run(analysers
        .tcptrace()
        .args(["-n", "-S"])
        .arg(capture)
        .current_dir(folder))?
    {
        Ok(brief) => brief,
        Err(reason) => return Ok(Err(reason)),
    };
    for (connection, (a, b)) in connections.iter_mut().zip(letters(&brief)) {
        connection.marks = [
            graph(&folder.join(format!("{a}2{b}_tsg.xpl")))?,
            graph(&folder.join(format!("{b}2{a}_tsg.xpl")))?,
        ];
    }
    Ok(Ok(connections))
}

/// Standard output, or the reason why there is none.
fn run(command: &mut Command) -> Result<Result<String, String>> {
    let output = command.output().context("cannot run tcptrace")?;
    if output.status.success() {
        return Ok(Ok(String::from_utf8_lossy(&output.stdout).into_owned()));
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let said = stderr
        .lines()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map_or_else(|| output.status.to_string(), str::to_owned);
    Ok(Err(said))
}

/// The table of `--csv`: comments, a line of names, a line a connection.
fn table(text: &str) -> Result<Vec<Connection>, String> {
    let mut lines = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.trim().is_empty());
    let Some(names) = lines.find(|line| line.starts_with("conn_#,")) else {
        // It prints no table where it found no connection.
        return Ok(Vec::new());
    };
    let names: Vec<&str> = names.split(',').collect();
    lines
        .take_while(|line| line.starts_with(|first: char| first.is_ascii_digit()))
        .map(|line| {
            connection(&names, line).ok_or_else(|| format!("its table has a line `{line:.60}`"))
        })
        .collect()
}

fn connection(names: &[&str], line: &str) -> Option<Connection> {
    let values: Vec<&str> = line.split(',').map(str::trim).collect();
    let value = |name: &str| {
        let index = names.iter().position(|known| *known == name)?;
        values.get(index).copied()
    };
    let endpoint = |letter: char| -> Option<SocketAddr> {
        let address: IpAddr = value(&format!("host_{letter}"))?.parse().ok()?;
        let port = value(&format!("port_{letter}"))?.parse().ok()?;
        Some(SocketAddr::new(address.to_canonical(), port))
    };
    let figures = |way: &str| -> Option<Figures> {
        let count = |name: &str| value(&format!("{name}_{way}"))?.parse::<u64>().ok();
        let ms = |name: &str| value(&format!("{name}_{way}"))?.parse::<f64>().ok();
        Some(Figures {
            bytes: count("actual_data_bytes")?,
            frames: count("actual_data_pkts")?,
            retransmitted: count("rexmt_data_pkts")?,
            out_of_order: count("outoforder_pkts")?,
            rtt_min_ms: ms("RTT_min").filter(|_| count("RTT_samples") != Some(0)),
            handshake_ms: ms("RTT_from_3WHS").filter(|rtt_ms| *rtt_ms > 0.0),
        })
    };
    Some(Connection {
        a: endpoint('a')?,
        b: endpoint('b')?,
        start_us: microseconds(value("first_packet")?)?,
        directions: [figures("a2b")?, figures("b2a")?],
        marks: <[Marks; 2]>::default(),
    })
}

/// `975340709.650694` seconds.
fn microseconds(text: &str) -> Option<u64> {
    let (seconds, fraction) = text.split_once('.')?;
    let (seconds, fraction): (u64, u64) = (seconds.parse().ok()?, fraction.parse().ok()?);
    seconds.checked_mul(1_000_000)?.checked_add(fraction)
}

/// The letters that the files of each connection's graphs are called by:
/// `  1: 192.0.2.1:1150 - 192.0.2.2:80 (a2b)  109>  134<`.
fn letters(brief: &str) -> Vec<(String, String)> {
    brief
        .lines()
        .filter_map(|line| {
            let (number, rest) = line.trim_start().split_once(':')?;
            number.parse::<u32>().ok()?;
            let (_, rest) = rest.split_once(" - ")?;
            let (_, rest) = rest.split_once(" (")?;
            let (a, b) = rest.split_once(')')?.0.split_once('2')?;
            Some((a.to_owned(), b.to_owned()))
        })
        .collect()
}

/// The marks in one graph; a direction without packets has none.
fn graph(path: &Path) -> Result<Marks> {
    match fs::read(path) {
        Ok(text) => Ok(marks(&String::from_utf8_lossy(&text))),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Marks::default()),
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Text commands of xplot: `atext SECONDS SEQUENCE`, and the text on the next line.
fn marks(xpl: &str) -> Marks {
    let mut marks = Marks::default();
    let mut place = None;
    for line in xpl.lines() {
        if let Some((time_us, sequence)) = place.take() {
            let mark = match line {
                // HD: the same with the same IP identification, "hardware duplicate".
                "R" | "HD" | "R SYN" | "R FIN" | "HD SYN" | "HD FIN" => Some(Mark::Retransmitted),
                "O" => Some(Mark::OutOfOrder),
                "P" => Some(Mark::Probe),
                _ => None,
            };
            if let Some(mark) = mark {
                *marks.0.entry((mark, time_us, sequence)).or_default() += 1;
            }
        }
        let mut words = line.split_ascii_whitespace();
        if words.next().is_some_and(|word| word.ends_with("text")) {
            place = words.next().and_then(microseconds).zip(
                words
                    .next()
                    // Beyond 2³² after a wrap.
                    .and_then(|sequence| sequence.parse::<u64>().ok())
                    .map(|sequence| sequence as u32),
            );
        }
    }
    marks
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
#1 arg remaining, starting with 'single_byte_rexmit.pcap'
#TCP connection info:
conn_#,host_a,host_b,port_a,port_b,first_packet,actual_data_pkts_a2b,actual_data_pkts_b2a,\
actual_data_bytes_a2b,actual_data_bytes_b2a,rexmt_data_pkts_a2b,rexmt_data_pkts_b2a,\
outoforder_pkts_a2b,outoforder_pkts_b2a,RTT_samples_a2b,RTT_samples_b2a,RTT_min_a2b,RTT_min_b2a,\
RTT_from_3WHS_a2b,RTT_from_3WHS_b2a,

1,30.229.118.67,67.82.9.253,37143,80,975340709.650694 ,  5,  8, 1615, 8733, 1, 2, 0, 1, 4, 0,\
  971.0, 0.0, 1001.9, 0.0,
";

    #[test]
    fn a_connection_of_the_table() {
        let connections = table(TABLE).unwrap();
        let [connection] = &connections[..] else {
            panic!("one connection: {connections:?}")
        };
        assert_eq!(connection.a, "30.229.118.67:37143".parse().unwrap());
        assert_eq!(connection.start_us, 975_340_709_650_694);
        let [to_b, to_a] = &connection.directions;
        assert_eq!((to_b.bytes, to_b.frames, to_b.retransmitted), (1615, 5, 1));
        assert_eq!(
            (to_b.rtt_min_ms, to_b.handshake_ms),
            (Some(971.0), Some(1001.9))
        );
        assert_eq!((to_a.out_of_order, to_a.rtt_min_ms), (1, None));
        assert_eq!(to_a.handshake_ms, None);
    }

    #[test]
    fn a_capture_without_tcp_has_no_table() {
        assert_eq!(
            table("# 1 packets seen, 0 TCP packets traced\n"),
            Ok(Vec::new())
        );
        assert!(table("conn_#,host_a\n1,no address\n").is_err());
    }

    #[test]
    fn the_letters_of_graphs() {
        let brief = "TCP connection info:\n  \
            1: fe80::0002:0a00:20ff:fe22:e80f:32797 - fe80::1:21 (a2b)   16>    0<\n \
            27: 192.0.2.1:1 - 192.0.2.2:2 (ba2bb)    1>    1<  (complete)\n";
        let expected = [("a", "b"), ("ba", "bb")].map(|(a, b)| (a.to_owned(), b.to_owned()));
        assert_eq!(letters(brief), expected);
    }

    #[test]
    fn marks_are_taken_once() {
        let mut marks = marks(
            "timeval double\ntitle\nred\natext 880735416.193284 176192153\nR\n\
             atext 880735416.2 4294967298\nO\nbtext 1.000000 7\nP\nrtext 1.000000 8\nS\n",
        );
        let time_us = 880_735_416_193_284;
        assert!(marks.take(Mark::Retransmitted, time_us, 176_192_153));
        assert!(!marks.take(Mark::Retransmitted, time_us, 176_192_153));
        assert!(marks.take(Mark::Probe, 1_000_000, 7));
        assert!(!marks.take(Mark::OutOfOrder, 1_000_000, 8));
    }
}
