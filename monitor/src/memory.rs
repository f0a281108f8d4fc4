//! What `flows.max` takes, and what this process may have.

use std::{fs, path::Path};

/// What the kernel's maps take for each flow of `flows.max`, bytes, from the start ...
const KERNEL_BYTES: u64 = 1_700;
/// ... and the daemon for each that it remembers, when a window ends (`cargo xtask bench daemon`
/// measures both).
const DAEMON_BYTES: u64 = 8_200;
/// Ring buffers, records before and in the log, the program itself; routes come on top of it.
const REST_BYTES: u64 = 64 << 20;

/// Where control groups are (cgroup2).
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";

/// The most that `flows` flows take in the kernel, and in all, bytes. The daemon remembers a flow
/// until its window ends, and hardly more than `flows` new ones a minute are admitted
/// ([`crate::flow::admission`]).
pub fn needed(flows: u32, window_s: u32) -> (u64, u64) {
    let kernel = u64::from(flows) * KERNEL_BYTES;
    let remembered = u64::from(flows) * u64::from(window_s.max(60)) / 60;
    (kernel, kernel + remembered * DAEMON_BYTES + REST_BYTES)
}

/// The most that this process's control group may take, bytes; `None`: no limit is known.
pub fn allowed() -> Option<u64> {
    let groups = fs::read_to_string("/proc/self/cgroup").ok()?;
    let below = groups.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new(CONTROL_GROUPS).join(below);
    let limits = group
        .ancestors()
        .take_while(|folder| folder.starts_with(CONTROL_GROUPS))
        .filter_map(|folder| fs::read_to_string(folder.join("memory.max")).ok());
    least(limits)
}

/// The least of some `memory.max`, which may say `max`.
fn least(limits: impl Iterator<Item = String>) -> Option<u64> {
    limits.filter_map(|text| text.trim().parse().ok()).min()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;

    #[test]
    fn the_unit_allows_what_its_default_number_of_flows_takes() {
        let unit = include_str!("../../packaging/lastmile.service");
        assert!(unit.contains("\nMemoryMax=1G\n"));
        let config = Config::default();
        let (_, minutes) = needed(config.flows.max, config.window.length_s);
        assert!(minutes < 1 << 30, "{minutes}");
        let (_, hours) = needed(config.flows.max, 3_600);
        assert!(hours > 10 * minutes, "{hours}");
    }

    #[test]
    fn the_least_limit_of_a_group_and_those_it_is_in_counts() {
        let of = |limits: &[&str]| least(limits.iter().map(|&limit| limit.to_owned()));
        assert_eq!(
            of(&["max\n", "1073741824\n", "2147483648\n"]),
            Some(1 << 30)
        );
        assert_eq!(of(&["max\n"]), None);
    }
}
