//! One host's `cell` record as a part of a cell.

use std::net::{IpAddr, Ipv6Addr};

use crate::cell::{CellKey, ClientTotals};
use crate::export::record::{CellRecord, CellWayRecord, ClientRecord};
use crate::flow::Totals;
use crate::flow::histogram::RttHistogram;

/// More than any client has in a window: 100 Gbit/s for an hour are 45 TB. It keeps sums over any
/// number of hosts from overflowing.
const MAX_FIGURE: u64 = 1 << 46;
/// Flows of one client.
const MAX_OBSERVATIONS: u64 = 1 << 24;

/// What one host saw of a cell.
#[derive(Clone, Debug)]
pub struct Part {
    pub host: String,
    pub key: CellKey,
    pub way: CellWayRecord,
    pub route_changed: bool,
    pub route_stale: bool,
    pub clients: Vec<(IpAddr, ClientTotals)>,
    /// Toward the clients.
    pub tcp_bytes: u64,
    pub quic_bytes: u64,
}

impl Part {
    /// # Errors
    /// What is wrong with the record, or missing in it.
    pub fn of(record: CellRecord) -> Result<Self, String> {
        if record.clients > 0 && record.client_list.is_empty() {
            return Err(
                "the cell has no `client_list`: it was written by a version that could not be \
                 judged from its log"
                    .to_owned(),
            );
        }
        let quic_bytes = record.quic.map_or(0, |quic| quic.bytes);
        // Versions that admitted every flow made no estimate.
        let tcp_bytes = record.to_client.bytes.max(record.estimated_bytes);
        if tcp_bytes > MAX_FIGURE || quic_bytes > MAX_FIGURE {
            return Err("more bytes than a window can have".to_owned());
        }
        let clients = record.client_list.into_iter().map(client);
        Ok(Self {
            host: record.host,
            key: CellKey {
                interconnect: record.interconnect.into(),
                isp: record.isp.into(),
                origin_asn: record.origin_asn,
                prefix: record.prefix,
                direct: record.direct,
            },
            way: record.way.unwrap_or_default(),
            route_changed: record.route_changed,
            route_stale: record.route_stale,
            clients: clients.collect::<Result<_, _>>()?,
            tcp_bytes,
            quic_bytes,
        })
    }

    /// Bytes that decide which way is the cell's where hosts differ.
    pub fn acked_bytes(&self) -> u64 {
        let of = |(_, client): &(IpAddr, ClientTotals)| client.to_client.acked_bytes;
        self.clients.iter().map(of).sum()
    }
}

fn client(record: ClientRecord) -> Result<(IpAddr, ClientTotals), String> {
    let name = &record.client;
    let address = address(name).ok_or_else(|| {
        format!("client `{name}` is neither an address nor 16 hexadecimal digits")
    })?;
    let figures = [
        record.segments,
        record.lost_segments,
        record.ce_marked_segments,
        record.rwnd_limited_segments,
        record.acked_bytes,
        record.busy_us,
        record.bursts,
        record.rtt_sum_us,
    ];
    let arms = &record.arms;
    let arms = [arms.other_way, arms.default_way, arms.waiting];
    if figures.iter().any(|figure| *figure > MAX_FIGURE)
        || record.observations > MAX_OBSERVATIONS
        || arms.iter().any(|flows| *flows > record.observations)
    {
        return Err(format!("client `{name}` has more than a window can have"));
    }
    let rtt = RttHistogram::from_bins(record.rtt_bins)
        .map_err(|edge| format!("client `{name}`: {edge} is no bin of RTTs"))?;
    let totals = Totals {
        segments: record.segments,
        lost_downstream_segments: record.lost_segments,
        ce_marked_segments: record.ce_marked_segments,
        rwnd_limited_segments: record.rwnd_limited_segments,
        acked_bytes: record.acked_bytes,
        busy_us: record.busy_us,
        bursts: record.bursts,
        rtt_samples: rtt.samples(),
        rtt_sum_us: record.rtt_sum_us,
        rtt,
        rtt_min_us: record.rtt_min_us,
        rtt_max_us: record.rtt_max_us,
        ..Totals::default()
    };
    let client = ClientTotals {
        to_client: totals,
        observations: record.observations,
        arms: record.arms,
        handshake_rtt_us: record.handshake_rtt_min_us,
        ..ClientTotals::default()
    };
    Ok((address, client))
}

/// A client's address, or one that stands for it: hosts with different secrets have different
/// names for the same client, who is several then.
fn address(name: &str) -> Option<IpAddr> {
    if let Ok(address) = name.parse() {
        return Some(address);
    }
    let digits = name.len() == 16 && name.bytes().all(|it| it.is_ascii_hexdigit());
    let number = u64::from_str_radix(name, 16).ok().filter(|_| digits)?;
    Some(stand_in(number))
}

/// An address that stands for a client of which only the pseudonym is known.
pub fn stand_in(pseudonym: u64) -> IpAddr {
    /// From fc00::/7 (RFC 4193), so that it is nobody's address.
    const PSEUDONYMS: u128 = 0xfd6c_6173_746d_0001 << 64;
    Ipv6Addr::from(PSEUDONYMS | u128::from(pseudonym)).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_an_address_or_its_pseudonym() {
        assert_eq!(address("192.0.2.7"), Some([192, 0, 2, 7].into()));
        let one = address("00000000000000ff").expect("a pseudonym");
        assert_eq!(one.to_string(), "fd6c:6173:746d:1::ff");
        for wrong in [
            "",
            "ff",
            "000000000000000g",
            "+00000000000000f",
            "0".repeat(17).as_str(),
        ] {
            assert_eq!(address(wrong), None, "{wrong}");
        }
    }

    fn record() -> ClientRecord {
        ClientRecord {
            client: "192.0.2.7".to_owned(),
            observations: 1,
            arms: Default::default(),
            segments: 10,
            lost_segments: 1,
            ce_marked_segments: 0,
            rwnd_limited_segments: 0,
            acked_bytes: 14_480,
            busy_us: 1_000,
            bursts: 1,
            handshake_rtt_min_us: None,
            rtt_min_us: Some(85),
            rtt_max_us: Some(90),
            rtt_sum_us: 261,
            rtt_bins: [(80, 3)].into(),
        }
    }

    #[test]
    fn figures_that_no_window_has_are_refused() {
        assert!(client(record()).is_ok());
        let many = ClientRecord {
            acked_bytes: u64::MAX,
            ..record()
        };
        assert!(client(many).is_err());
        let flows = ClientRecord {
            observations: u64::MAX,
            ..record()
        };
        assert!(client(flows).is_err());
        let bins = ClientRecord {
            rtt_bins: [(81, 3)].into(),
            ..record()
        };
        let said = client(bins).expect_err("no bin");
        assert!(said.contains("81 is no bin"), "{said}");
    }
}
