//! `lastmile replay` of a capture: what we say of every flow.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use serde_json::Value;

use super::segment::{Direction, Tuple};

/// One flow, from its `close` record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flow {
    pub tuple: Tuple,
    /// First and last packet, µs since 1970 UTC.
    pub start_us: u64,
    pub last_us: u64,
    pub handshake_rtt_us: Option<u64>,
    /// By [`Direction::index`].
    pub directions: [Figures; 2],
}

/// What we say of one direction's data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    pub bytes: u64,
    pub frames: u64,
    pub retransmitted: u64,
    pub reordered: u64,
    pub rtt_min_us: Option<u64>,
}

/// What `lastmile replay` made of a capture.
#[derive(Debug, Default)]
pub struct Reading {
    pub flows: Vec<Flow>,
    /// Its message, where it could not read the capture to the end.
    pub error: Option<String>,
}

/// Runs `lastmile replay`.
///
/// # Errors
/// When it cannot be run, or prints what is no record.
pub fn read(lastmile: &Path, capture: &Path) -> Result<Reading> {
    let output = Command::new(lastmile)
        .arg("replay")
        .arg(capture)
        .output()
        .with_context(|| format!("cannot run {}", lastmile.display()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let mut flows = Vec::new();
    for line in stdout.lines() {
        let record: Value = serde_json::from_str(line)
            .with_context(|| format!("lastmile replay printed `{line:.60}`"))?;
        if record["event"] == "close" {
            let flow = flow(&record)
                .with_context(|| format!("lastmile replay printed a record `{line:.200}`"))?;
            flows.push(flow);
        }
    }
    flows.sort_by_key(|flow| (flow.tuple, flow.start_us));
    let error = (!output.status.success())
        .then(|| String::from_utf8_lossy(&output.stderr).trim().to_owned());
    Ok(Reading { flows, error })
}

/// A `close` record, as far as it is compared.
fn flow(record: &Value) -> Option<Flow> {
    let endpoint = |who: &str| -> Option<SocketAddr> {
        let address: IpAddr = record[format!("{who}_ip")].as_str()?.parse().ok()?;
        let port = record[format!("{who}_port")].as_u64()?;
        Some(SocketAddr::new(
            address.to_canonical(),
            u16::try_from(port).ok()?,
        ))
    };
    let (tuple, to_server) = Tuple::of(endpoint("client")?, endpoint("server")?);
    let mut directions = [Figures::default(); 2];
    let to_client = match to_server {
        Direction::LowToHigh => Direction::HighToLow,
        Direction::HighToLow => Direction::LowToHigh,
    };
    directions[to_server.index()] = figures(&record["to_server"])?;
    directions[to_client.index()] = figures(&record["to_client"])?;
    let start_us = unix_us(record["start_time"].as_str()?)?;
    Some(Flow {
        tuple,
        start_us,
        last_us: start_us + record["duration_us"].as_u64()?,
        handshake_rtt_us: record["handshake_rtt_us"].as_u64(),
        directions,
    })
}

fn figures(direction: &Value) -> Option<Figures> {
    let count = |name: &str| direction[name].as_u64();
    Some(Figures {
        bytes: count("bytes")?,
        frames: count("frames")?,
        retransmitted: count("retransmitted_segments")?,
        reordered: count("reordered_segments")?,
        rtt_min_us: count("rtt_min_us"),
    })
}

/// `2026-01-31T23:59:59.999999Z` as µs since 1970 (Hinnant, "chrono-compatible low-level date
/// algorithms", `days_from_civil`).
fn unix_us(text: &str) -> Option<u64> {
    let number = |from: usize, to: usize| text.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let of_day = number(11, 13)? * 3_600 + number(14, 16)? * 60 + number(17, 19)?;
    let year = year.checked_sub(u64::from(month <= 2))?;
    let (era, of_era) = (year / 400, year % 400);
    let shifted_month = (month + 9) % 12;
    let of_year = (153 * shifted_month + 2) / 5 + day.checked_sub(1)?;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year;
    let seconds = days.checked_sub(719_468)? * 86_400 + of_day;
    Some(seconds * 1_000_000 + number(20, 26)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_a_flow() {
        let direction = |bytes: u64| {
            serde_json::json!({
                "bytes": bytes, "frames": 2, "retransmitted_segments": 1,
                "reordered_segments": 0, "rtt_min_us": null
            })
        };
        let record = serde_json::json!({
            "client_ip": "198.51.100.7", "client_port": 40000,
            "server_ip": "192.0.2.1", "server_port": 443,
            "start_time": "2014-04-24T18:08:22.971438Z", "duration_us": 5,
            "handshake_rtt_us": 71_000,
            "to_client": direction(100), "to_server": direction(7)
        });
        let flow = flow(&record).unwrap();
        assert_eq!(flow.tuple.low, "192.0.2.1:443".parse().unwrap());
        assert_eq!(flow.directions.map(|direction| direction.bytes), [100, 7]);
        assert_eq!(flow.directions[0].rtt_min_us, None);
        assert_eq!(flow.start_us, 1_398_362_902_971_438);
        assert_eq!(flow.last_us - flow.start_us, 5);
    }

    #[test]
    fn times_before_and_after_a_leap_day() {
        assert_eq!(unix_us("1970-01-01T00:00:00.000001Z"), Some(1));
        assert_eq!(
            unix_us("2000-03-01T00:00:00.000000Z"),
            Some(951_868_800_000_000)
        );
        assert_eq!(unix_us("yesterday"), None);
    }
}
