//! Which values are possible, and what would be right instead of one that is not.

use super::chunks::LADDER_MAX;
use super::{Config, EXPERIMENT_SHARE_MAX, InterconnectRule, MIN_MAX_FLOWS};
use crate::flow::transition::SixRd;
use crate::path::Connectivity;
use crate::path::experiment::neighbour;

/// The DSCP of class selector 1: scavenger traffic in many networks (RFC 3662).
const CS1: u8 = 8;

/// Every value out of its range, in the order of the file's sections.
pub(super) fn mistakes(config: &Config) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    let mut check = |holds: bool, key: &'static [&'static str], right: &str| {
        if !holds {
            mistakes.push(Mistake {
                key,
                right: right.to_owned(),
            });
        }
    };
    let share = |value: f64| value > 0.0 && value < 1.0;
    let millis = |value: f64| value > 0.0 && value <= 10_000.0;
    let (watch, flows, verdict) = (&config.watch, &config.flows, &config.verdict);
    let (baseline, path) = (&config.baseline, &config.path);

    check(
        watch.interfaces.iter().all(|name| !name.is_empty()),
        &["watch", "interfaces"],
        "names or patterns such as [\"eth0\", \"ens*\"]; leave the key out for the interfaces with a default route",
    );
    check(
        watch.ports.iter().all(|&port| port != 0),
        &["watch", "ports"],
        "TCP ports from 1 to 65535, such as [80, 443]",
    );
    check(
        watch.prefixes.iter().all(|net| net.trunc() == *net),
        &["watch", "prefixes"],
        "prefixes without host bits, such as [\"192.0.2.0/24\", \"2001:db8::/32\"]",
    );
    check(
        watch.sample_one_in >= 1,
        &["watch", "sample_one_in"],
        "1 for every flow, N for one flow in N",
    );
    check(
        (MIN_MAX_FLOWS..=16_777_216).contains(&flows.max),
        &["flows", "max"],
        "1024 to 16777216 flows (1.5 KiB of kernel memory each)",
    );
    check(
        (100..=60_000).contains(&flows.report_interval_ms),
        &["flows", "report_interval_ms"],
        "100 to 60000 ms",
    );
    check(
        (1..=86_400).contains(&flows.idle_s),
        &["flows", "idle_s"],
        "1 to 86400 s",
    );
    check(
        (1..=10_000_000).contains(&config.chunks.hd_kbit_s),
        &["chunks", "hd_kbit_s"],
        "1 to 10000000 kbit/s",
    );
    let ladder = &config.chunks.ladder_kbit_s;
    check(
        ladder.len() < LADDER_MAX && ladder.iter().all(|rate| (1..=10_000_000).contains(rate)),
        &["chunks", "ladder_kbit_s"],
        "at most 15 rates of 1 to 10000000 kbit/s, such as [800, 1400, 5000]",
    );
    check(
        (8..=32).contains(&path.unit_length_v4),
        &["path", "unit_length_v4"],
        "8 to 32 bits",
    );
    check(
        (16..=128).contains(&path.unit_length_v6),
        &["path", "unit_length_v6"],
        "16 to 128 bits",
    );
    check(
        (10..=604_800).contains(&path.stale_after_s),
        &["path", "stale_after_s"],
        "10 to 604800 s",
    );
    check(
        path.bmp.allow.iter().all(|net| net.trunc() == *net),
        &["path", "bmp", "allow"],
        "prefixes without host bits, such as [\"192.0.2.1/32\", \"2001:db8::/64\"]",
    );
    check(
        config
            .restart
            .baselines
            .as_ref()
            .is_none_or(|file| file.is_absolute()),
        &["restart", "baselines"],
        "the absolute path of a file that lastmile may write",
    );
    check(
        config
            .restart
            .bpf_directory
            .as_ref()
            .is_none_or(|folder| folder.is_absolute()),
        &["restart", "bpf_directory"],
        "the absolute path of a folder on a BPF file system",
    );
    check(
        config
            .evidence
            .file
            .as_ref()
            .is_none_or(|file| file.is_absolute()),
        &["evidence", "file"],
        "the absolute path of a file that lastmile may write",
    );
    check(
        (1..=3_660).contains(&config.evidence.days),
        &["evidence", "days"],
        "1 to 3660 days",
    );
    check(
        (1..=1_048_576).contains(&config.evidence.max_mb),
        &["evidence", "max_mb"],
        "1 to 1048576 MiB",
    );
    check(
        (1..=3_660).contains(&path.history.days),
        &["path", "history", "days"],
        "1 to 3660 days",
    );
    check(
        (1..=3_600).contains(&path.ports.interval_s),
        &["path", "ports", "interval_s"],
        "1 to 3600 s",
    );
    check(
        path.interconnect.iter().all(|rule| !rule.name.is_empty()),
        &["path", "interconnect"],
        "[[path.interconnect]] tables, each with a name that is not empty",
    );
    check(
        path.interconnect
            .iter()
            .all(|rule| rule.capacity_mbit_s != Some(0)),
        &["path", "interconnect"],
        "[[path.interconnect]] tables with a capacity_mbit_s of at least 1, or without one",
    );
    if let Some(experiment) = &path.experiment {
        check(
            (0.0..=EXPERIMENT_SHARE_MAX).contains(&experiment.share),
            &["path", "experiment", "share"],
            "a share of the connections such as 0.01, at most 0.1",
        );
        check(
            experiment.mark != 0,
            &["path", "experiment", "mark"],
            "a mark other than 0, which every unmarked packet has",
        );
        check(
            experiment
                .dscp
                .is_none_or(|dscp| (2..64).contains(&dscp) && dscp != CS1),
            &["path", "experiment", "dscp"],
            "a DSCP of 2 to 63 that does not ask for worse service, as 1 (RFC 8622) and 8 do",
        );
        let described = || {
            let rules = path.interconnect.iter();
            rules.filter(|rule| rule.name == experiment.interconnect)
        };
        check(
            described().next().is_some(),
            &["path", "experiment", "interconnect"],
            "the name of a [[path.interconnect]], which says what it shares with others",
        );
        let is_transit = |rule: &InterconnectRule| rule.connectivity == Some(Connectivity::Transit);
        check(
            neighbour(path, experiment).is_some() || described().any(is_transit),
            &["path", "experiment"],
            "a peer_asn, or a [[path.interconnect]] of that name with one or with connectivity = \"transit\": \
             whether it leads to an ISP itself decides who can be named",
        );
    }
    if let Some(video) = &config.video {
        check(
            video.ports.iter().all(|&port| port != 0),
            &["video", "ports"],
            "ports of servers from 1 to 65535, such as [8080]",
        );
        let whole = |nets: &[ipnet::IpNet]| nets.iter().all(|net| net.trunc() == *net);
        check(
            whole(&video.local_addresses),
            &["video", "local_addresses"],
            "prefixes without host bits, such as [\"192.0.2.1/32\", \"2001:db8::/64\"]",
        );
        check(
            whole(&video.prefixes),
            &["video", "prefixes"],
            "prefixes without host bits, such as [\"192.0.2.0/24\", \"2001:db8::/32\"]",
        );
        check(
            video
                .units
                .iter()
                .all(|unit| !unit.is_empty() && !unit.contains("..")),
            &["video", "units"],
            "units or control groups, such as [\"nginx.service\", \"/system.slice/caddy.service\"]",
        );
        check(
            video.six_rd.iter().all(SixRd::is_possible),
            &["video", "six_rd"],
            "[[video.six_rd]] tables such as ipv6 = \"2001:db8::/32\", ipv4 = \"0.0.0.0/0\": no host \
             bits, and with what is left of an IPv4 address at most 64 bits",
        );
    }
    check(
        (1..=3_600).contains(&config.window.length_s),
        &["window", "length_s"],
        "1 to 3600 s",
    );
    check(
        u64::from(flows.report_interval_ms) <= u64::from(config.window.length_s) * 1_000,
        &["flows", "report_interval_ms"],
        "at most the length of a window (window.length_s)",
    );
    check(
        (3..=1_000_000).contains(&baseline.min_windows),
        &["baseline", "min_windows"],
        "3 to 1000000 windows",
    );
    check(
        (1..=100_000).contains(&baseline.slot_windows),
        &["baseline", "slot_windows"],
        "1 to 100000 windows",
    );
    check(
        (1..=64).contains(&baseline.best_slots),
        &["baseline", "best_slots"],
        "1 to 64 slots",
    );
    check(
        (baseline.best_slots..=100_000).contains(&baseline.span_slots),
        &["baseline", "span_slots"],
        "at least best_slots, at most 100000",
    );
    check(
        u64::from(baseline.best_slots) * u64::from(baseline.slot_windows) >= 3,
        &["baseline", "best_slots"],
        "best_slots x slot_windows of at least 3 windows, or the spread is unknown",
    );
    check(
        verdict.false_discovery_share > 0.0 && verdict.false_discovery_share <= 0.2,
        &["verdict", "false_discovery_share"],
        "above 0, at most 0.2",
    );
    check(
        millis(verdict.rtt_excess_ms),
        &["verdict", "rtt_excess_ms"],
        "above 0, at most 10000 ms",
    );
    check(
        share(verdict.rtt_excess_share),
        &["verdict", "rtt_excess_share"],
        SHARE,
    );
    check(
        share(verdict.loss_excess_share),
        &["verdict", "loss_excess_share"],
        SHARE,
    );
    check(
        share(verdict.ce_excess_share),
        &["verdict", "ce_excess_share"],
        SHARE,
    );
    check(
        share(verdict.rate_drop_share),
        &["verdict", "rate_drop_share"],
        SHARE,
    );
    check(
        verdict.min_rtt_samples >= 3,
        &["verdict", "min_rtt_samples"],
        "at least 3: fewer have no low quantile",
    );
    check(
        verdict.min_segments >= 20,
        &["verdict", "min_segments"],
        "at least 20: fewer have no share of losses",
    );
    check(
        verdict.min_chunks_per_prefix >= 1,
        &["verdict", "min_chunks_per_prefix"],
        "at least 1",
    );
    check(
        verdict.min_prefixes_per_isp >= 2,
        &["verdict", "min_prefixes_per_isp"],
        "at least 2: one prefix is no vote of an ISP",
    );
    check(
        (0.6..=1.0).contains(&verdict.bad_share),
        &["verdict", "bad_share"],
        "0.6 to 1: with less, two places could be at fault for the same packets",
    );
    check(
        share(verdict.max_missed_share),
        &["verdict", "max_missed_share"],
        SHARE,
    );
    check(
        (0.0..1.0).contains(&verdict.min_tcp_share),
        &["verdict", "min_tcp_share"],
        "0 to 1",
    );
    check(
        share(verdict.host_drop_share),
        &["verdict", "host_drop_share"],
        SHARE,
    );
    check(
        millis(verdict.host_backlog_ms),
        &["verdict", "host_backlog_ms"],
        "above 0, at most 10000 ms",
    );
    check(
        (0.8..=1.0).contains(&verdict.port_full_share),
        &["verdict", "port_full_share"],
        "0.8 to 1: a port that sends less is not full",
    );
    check(
        share(verdict.port_busy_share) && verdict.port_busy_share < verdict.port_full_share,
        &["verdict", "port_busy_share"],
        "a share above 0 and below port_full_share",
    );
    check(
        share(verdict.port_drop_share),
        &["verdict", "port_drop_share"],
        SHARE,
    );
    mistakes
}

const SHARE: &str = "a share above 0 and below 1";

/// A value that TOML accepts and we do not.
#[derive(Debug)]
pub(super) struct Mistake {
    /// Section and key.
    pub(super) key: &'static [&'static str],
    /// What would be right.
    pub(super) right: String,
}
