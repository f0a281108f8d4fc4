//! `[path]`: where the way to a client is known from.

use std::fmt;
use std::marker::PhantomData;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use monitor_ebpf::experiment::Marking;
use serde::de::{self, IntoDeserializer};
use serde::{Deserialize, Deserializer, Serialize};

use crate::path::{Community, Connectivity, UNIT_LENGTH_V4, UNIT_LENGTH_V6};

/// A router that restarts is back within minutes (RFC 4724 suggests a restart time below the
/// hold time's usual 90 to 180 s); what it said before that is still the best guess.
pub const DEFAULT_STALE_AFTER_S: u32 = 300;
/// As long as the inputs of verdicts are kept.
pub const DEFAULT_HISTORY_DAYS: u32 = 35;
/// What SNMP pollers and Prometheus commonly use; four of them in a one-minute window.
pub const DEFAULT_PORTS_INTERVAL_S: u32 = 15;

/// `[path]`: where the way to a client is known from.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct PathSources {
    /// CSV file `prefix,origin_asn,isp,interconnect`, relative to the configuration file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefixes_csv: Option<PathBuf>,
    /// The same as TOML.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prefixes_toml: Option<PathBuf>,
    /// CSV file `asn,name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub isp_names: Option<PathBuf>,
    /// MRT files, RIB dumps before the updates that follow them; also .gz and .bz2.
    pub mrt: Vec<PathBuf>,
    /// The MRT files are a route collector's: they tell origins, not our ways.
    pub mrt_origins_only: bool,
    /// Whether this host's own routes tell interface and next hop.
    pub kernel_routes: bool,
    /// Length of the unit in which IPv4 clients are counted.
    pub unit_length_v4: u8,
    /// Length of the unit in which IPv6 clients are counted.
    pub unit_length_v6: u8,
    /// A BMP router silent or away for this long makes its routes stale, s.
    pub stale_after_s: u32,
    /// Routers that send their routes.
    pub bmp: Bmp,
    /// Which route a prefix had when.
    pub history: History,
    /// Counters of our own ports.
    pub ports: Ports,
    /// A share of our own connections that is sent another way.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub experiment: Option<Experiment>,
    /// Interconnects by name, and how to recognise what goes through them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interconnect: Vec<InterconnectRule>,
}

impl Default for PathSources {
    fn default() -> Self {
        Self {
            prefixes_csv: None,
            prefixes_toml: None,
            isp_names: None,
            mrt: Vec::new(),
            mrt_origins_only: false,
            kernel_routes: false,
            unit_length_v4: UNIT_LENGTH_V4,
            unit_length_v6: UNIT_LENGTH_V6,
            stale_after_s: DEFAULT_STALE_AFTER_S,
            bmp: Bmp::default(),
            history: History::default(),
            ports: Ports::default(),
            experiment: None,
            interconnect: Vec::new(),
        }
    }
}

impl PathSources {
    /// Whether anything but the operator's prefix files tells about routes.
    pub fn has_feeds(&self) -> bool {
        self.bmp.listen.is_some() || !self.mrt.is_empty() || self.kernel_routes
    }

    /// Takes relative paths from `folder`.
    pub(super) fn resolve(&mut self, folder: &Path) {
        [
            &mut self.prefixes_csv,
            &mut self.prefixes_toml,
            &mut self.isp_names,
            &mut self.history.file,
            &mut self.ports.csv,
        ]
        .into_iter()
        .flatten()
        .chain(&mut self.mrt)
        .for_each(|file| *file = folder.join(&file));
    }
}

/// `[path.bmp]`: a station for routers that send BMP (RFC 7854).
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Bmp {
    /// Address and port to listen on; absent: no station.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Who may connect. Empty: this host only.
    pub allow: Vec<IpNet>,
}

/// `[path.history]`: which route a prefix had when.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct History {
    /// SQLite file; absent: none is kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// Days after which a change is forgotten.
    pub days: u32,
}

impl Default for History {
    fn default() -> Self {
        Self {
            file: None,
            days: DEFAULT_HISTORY_DAYS,
        }
    }
}

/// `[path.ports]`: counters of our own ports.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Ports {
    /// CSV file that a poller appends to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub csv: Option<PathBuf>,
    /// Base URL of a Prometheus that scrapes snmp_exporter, by plain HTTP.
    #[serde(
        deserialize_with = "plain_http",
        skip_serializing_if = "Option::is_none"
    )]
    pub prometheus: Option<String>,
    /// How often they are read, s.
    pub interval_s: u32,
}

impl Default for Ports {
    fn default() -> Self {
        Self {
            csv: None,
            prometheus: None,
            interval_s: DEFAULT_PORTS_INTERVAL_S,
        }
    }
}

/// `[path.experiment]`: a share of the connections that this host accepts is marked, so that the
/// operator's routing sends them through another interconnect than the rest.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Experiment {
    /// Share of the connections, chosen by a keyed hash; 0: no more of them.
    pub share: f64,
    /// What they are known by here, and what this host's routing rules may go by (`SO_MARK`, `ip rule
    /// add fwmark`).
    pub mark: u32,
    /// What routers may go by: a DSCP (RFC 2474).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<u8>,
    /// The interconnect through which they are sent then: one of `[[path.interconnect]]`, which says
    /// what it has in common with others.
    pub interconnect: String,
    /// The neighbour's AS there, where its table does not tell it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_asn: Option<u32>,
}

/// An experiment is for a small share: whoever is in it may be worse off.
pub const EXPERIMENT_SHARE_MAX: f64 = 0.1;

impl Experiment {
    /// How the connections are marked.
    pub fn marking(&self) -> Marking {
        Marking {
            mark: self.mark,
            traffic_class: u32::from(self.dscp.unwrap_or(0)) << 2,
        }
    }
}

/// `[[path.interconnect]]`: an interconnect, and what a route must show to go through it. Each
/// key that is present must match; a list means any of it. Without such a key it only describes
/// an interconnect that a prefix file names.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct InterconnectRule {
    pub name: String,
    /// Egress interface of this host.
    #[serde(
        default,
        deserialize_with = "any_of",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub interface: Vec<String>,
    /// BGP next hop, or this host's own.
    #[serde(
        default,
        deserialize_with = "any_of",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub next_hop: Vec<IpAddr>,
    #[serde(
        default,
        deserialize_with = "any_of",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peer_asn: Vec<u32>,
    /// The neighbour's address on the BGP session.
    #[serde(
        default,
        deserialize_with = "any_of",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub peer_address: Vec<IpAddr>,
    #[serde(
        default,
        deserialize_with = "any_of",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub community: Vec<Community>,
    /// Name of the router that told: its BMP sysName, else its address.
    #[serde(
        default,
        deserialize_with = "any_of",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub router: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connectivity: Option<Connectivity>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub site: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capacity_mbit_s: Option<u64>,
    /// What it shares with others: router, port, fabric, reseller.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub risk_groups: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortName>,
}

impl InterconnectRule {
    /// Whether it only describes an interconnect.
    pub fn matches_nothing(&self) -> bool {
        self.interface.is_empty()
            && self.next_hop.is_empty()
            && self.peer_asn.is_empty()
            && self.peer_address.is_empty()
            && self.community.is_empty()
            && self.router.is_empty()
    }
}

/// A port under the names that its counters carry.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PortName {
    pub device: String,
    pub interface: String,
}

/// The URL of a server that can be asked: TLS is not built in.
fn plain_http<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let uri: Option<ureq::http::Uri> = text.parse().ok();
    match uri.as_ref().map(|uri| (uri.scheme_str(), uri.host())) {
        Some((Some("http"), Some(host))) if !host.is_empty() => Ok(Some(text)),
        Some((Some("https"), _)) => Err(de::Error::custom(format!(
            "`{text}` needs TLS, which is not built in: name an http:// address, such as a proxy \
             on this host"
        ))),
        _ => Err(de::Error::custom(format!(
            "`{text}` is no URL of a Prometheus: write one such as \"http://127.0.0.1:9090\""
        ))),
    }
}

/// One value, or a list of them.
fn any_of<'de, D, T>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de>,
{
    struct AnyOf<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> de::Visitor<'de> for AnyOf<T> {
        type Value = Vec<T>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a value or a list of them")
        }

        fn visit_i64<E: de::Error>(self, value: i64) -> Result<Vec<T>, E> {
            T::deserialize(value.into_deserializer()).map(|value| vec![value])
        }

        fn visit_u64<E: de::Error>(self, value: u64) -> Result<Vec<T>, E> {
            T::deserialize(value.into_deserializer()).map(|value| vec![value])
        }

        fn visit_str<E: de::Error>(self, value: &str) -> Result<Vec<T>, E> {
            T::deserialize(value.into_deserializer()).map(|value| vec![value])
        }

        fn visit_seq<A: de::SeqAccess<'de>>(self, mut items: A) -> Result<Vec<T>, A::Error> {
            let mut values = Vec::new();
            while let Some(value) = items.next_element()? {
                values.push(value);
            }
            Ok(values)
        }
    }

    deserializer.deserialize_any(AnyOf(PhantomData))
}
