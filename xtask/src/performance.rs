//! docs/performance.md: what `cargo xtask bench` measured, and what follows from it.

use std::fmt::Write as _;

use anyhow::{Context, Result};
use serde_json::Value;

/// Payload of a full segment over Ethernet, with timestamps (1,500 - 20 - 32).
const SEGMENT_BYTES: f64 = 1_448.0;
/// Segments that leave as one packet at the hook: Linux paces TCP so that about a millisecond's
/// worth goes at once, two at the least (`tcp_tso_autosize`); a video stream's burst is more.
const SEGMENTS_A_PACKET: [u32; 3] = [1, 4, 16];
/// Segments that one ACK is of: two (RFC 9293, 3.8.6.3), where nothing merges ACKs on the way.
const SEGMENTS_AN_ACK: f64 = 2.0;
const RATES_GBIT_S: [u32; 3] = [10, 25, 100];

/// What a busy server has at once, at the most.
const FLOWS: u64 = 100_000;

/// The program; what most data is; and the case in which it works most, which is what an ACK is taken
/// for.
const PROGRAM: &str = "lastmile";
const DATA: &str = "data";
const ACKS: &str = "data_and_ack";

/// One line of `cargo xtask bench -- --json`.
struct Figure {
    program: String,
    case: String,
    flows: u64,
    net_ns: f64,
    lowest_ns: f64,
    highest_ns: f64,
    ratio: f64,
}

impl Figure {
    fn parse(line: &str) -> Result<Self> {
        let value: Value = serde_json::from_str(line)
            .with_context(|| format!("the benchmark printed no JSON object: {line}"))?;
        let number = |name: &str| {
            let number = value[name].as_f64();
            number.with_context(|| format!("no number {name} in {line}"))
        };
        let word = |name: &str| {
            let word = value[name].as_str().map(str::to_owned);
            word.with_context(|| format!("no {name} in {line}"))
        };
        Ok(Self {
            program: word("program")?,
            case: word("case")?,
            flows: number("flows")? as u64,
            net_ns: number("net_ns")?,
            lowest_ns: number("lowest_net_ns")?,
            highest_ns: number("highest_net_ns")?,
            ratio: number("ratio")?,
        })
    }
}

/// The figures' part of the document, from what the benchmark printed; `kernel` is what it ran
/// on.
///
/// # Errors
/// When a line is not what it should be.
pub fn document<'a>(lines: impl IntoIterator<Item = &'a str>, kernel: &str) -> Result<String> {
    let lines = lines.into_iter().filter(|line| line.starts_with('{'));
    let figures = lines.map(Figure::parse).collect::<Result<Vec<_>>>()?;
    let mut text = format!("Measured on {kernel}.\n\n");
    text += "| packets | flows | program | ns a packet (lowest to highest) | of the reference |\n";
    text += "| --- | ---: | --- | ---: | ---: |\n";
    for figure in &figures {
        let Figure {
            program,
            case,
            flows,
            net_ns,
            lowest_ns,
            highest_ns,
            ratio,
        } = figure;
        writeln!(
            text,
            "| {case} | {flows} | {program} | {net_ns:.1} ({lowest_ns:.1} to {highest_ns:.1}) | \
             {ratio:.2} |"
        )?;
    }
    let most = |case: &str| {
        let of_ours = figures.iter().filter(|figure| {
            figure.program == PROGRAM && figure.case == case && figure.flows <= FLOWS
        });
        of_ours
            .max_by_key(|figure| figure.flows)
            .with_context(|| format!("the benchmark measured no {case} of {PROGRAM}"))
    };
    let (data, acks) = (most(DATA)?, most(ACKS)?);
    write!(
        text,
        "\nWhat {:.1} ns for a packet of data and {:.1} ns for an ACK, over {} flows, come to \
         (computed):\n\n",
        data.net_ns, acks.net_ns, acks.flows
    )?;
    text += "| video sent | segments a packet | packets and ACKs a second | of one CPU |\n";
    text += "| ---: | ---: | ---: | ---: |\n";
    for rate in RATES_GBIT_S {
        for segments in SEGMENTS_A_PACKET {
            let (data_s, acks_s) = packets_a_second(rate, segments);
            let share = (data_s * data.net_ns + acks_s * acks.net_ns) / 1e9;
            writeln!(
                text,
                "| {rate} Gbit/s | {segments} | {:.2} million | {:.1} % |",
                (data_s + acks_s) / 1e6,
                share * 100.0
            )?;
        }
    }
    Ok(text)
}

/// Data packets as they pass the hook, and the ACKs of their segments.
fn packets_a_second(rate_gbit_s: u32, segments_a_packet: u32) -> (f64, f64) {
    let segments_s = f64::from(rate_gbit_s) * 1e9 / 8.0 / SEGMENT_BYTES;
    (
        segments_s / f64::from(segments_a_packet),
        segments_s / SEGMENTS_AN_ACK,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(program: &str, case: &str, flows: u32, net_ns: f64) -> String {
        serde_json::json!({
            "program": program, "case": case, "flows": flows, "net_ns": net_ns,
            "lowest_net_ns": net_ns - 1.0, "highest_net_ns": net_ns + 1.0,
            "reference_net_ns": 50.0, "ratio": net_ns / 50.0,
        })
        .to_string()
    }

    #[test]
    fn data_and_acks_over_as_many_flows_as_a_server_has_are_what_is_computed_with() {
        let lines = [
            line("reference", ACKS, 10_000, 50.0),
            line(PROGRAM, ACKS, 1, 40.0),
            line(PROGRAM, ACKS, 10_000, 100.0),
            line(PROGRAM, DATA, 10_000, 30.0),
            line(PROGRAM, ACKS, 1_000_000, 300.0),
            line(PROGRAM, DATA, 1_000_000, 300.0),
            "a machine's own message".to_owned(),
        ];
        let text = document(lines.iter().map(String::as_str), "Linux 6.12").expect("figures");
        assert!(text.starts_with("Measured on Linux 6.12.\n"));
        assert!(text.contains("| data_and_ack | 1 | lastmile | 40.0 (39.0 to 41.0) | 0.80 |\n"));
        assert!(
            text.contains("What 30.0 ns for a packet of data and 100.0 ns for an ACK, over 10000")
        );
        // 863,260 segments a second, each a packet at 30 ns, and half as many ACKs at 100 ns.
        assert!(
            text.contains("| 10 Gbit/s | 1 | 1.29 million | 6.9 % |\n"),
            "{text}"
        );
    }

    #[test]
    fn figures_that_are_missing_are_said() {
        assert!(document(["{}"], "Linux").is_err());
        let other = line("reference", ACKS, 1, 50.0);
        let error = document([other.as_str()], "Linux").expect_err("nothing of ours");
        assert!(error.to_string().contains("data of lastmile"));
    }
}
