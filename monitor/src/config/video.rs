//! `[video]`: which flows are video.

use std::path::PathBuf;

use crate::flow::transition::SixRd;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// `[video]`: which flows are video. Without this table everything that is watched is.
///
/// What the operator says wins (ports, addresses, units); then what the client asks for; then,
/// where that is not to be seen, how the flow behaves.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Video {
    /// Everything that these ports of servers send.
    pub ports: Vec<u16>,
    /// Everything that this host sends from these addresses.
    pub local_addresses: Vec<IpNet>,
    /// Everything from servers in these prefixes, ours or not.
    pub prefixes: Vec<IpNet>,
    /// Everything that processes of these systemd units, or of these control groups (with a
    /// slash, from the root of the cgroup2 file system), send from this host.
    pub units: Vec<String>,
    /// Server names and HTTP requests are matched with the list of services.
    pub names: bool,
    /// Replaces the list of services that comes with the program.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub services_csv: Option<PathBuf>,
    /// Flows without a name are judged by their volume over time.
    pub behaviour: bool,
    /// Flows that are not video are logged and judged too.
    pub report_all: bool,
    /// ISPs whose customers' IPv4 addresses are in their IPv6 ones: sessions over both are joined.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub six_rd: Vec<SixRd>,
}

impl Default for Video {
    fn default() -> Self {
        Self {
            ports: Vec::new(),
            local_addresses: Vec::new(),
            prefixes: Vec::new(),
            units: Vec::new(),
            names: true,
            services_csv: None,
            behaviour: true,
            report_all: false,
            six_rd: Vec::new(),
        }
    }
}
