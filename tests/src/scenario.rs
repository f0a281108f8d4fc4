//! Scenario files: what the small internet looks like, what goes wrong in it, and what is true.
//!
//! Every key is documented for users in `tests/scenarios/README.md`. A key nobody knows, a name
//! nobody defined and a value that makes no sense are refused with the file and the line.

use std::collections::HashSet;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde::{Deserialize, Serialize};
use toml::Spanned;

use crate::plan::{Plan, Port};
use crate::routes::{Move, Source, conflict};

/// The scenarios that come with the program, by name.
pub const BUILT_IN: [(&str, &str); 7] = [
    ("healthy", include_str!("../scenarios/healthy.toml")),
    ("last-mile", include_str!("../scenarios/last-mile.toml")),
    (
        "interconnect",
        include_str!("../scenarios/interconnect.toml"),
    ),
    ("isp", include_str!("../scenarios/isp.toml")),
    ("host", include_str!("../scenarios/host.toml")),
    (
        "moved-prefix",
        include_str!("../scenarios/moved-prefix.toml"),
    ),
    (
        "handover-2014",
        include_str!("../scenarios/handover-2014.toml"),
    ),
];

/// What a damaged link loses at least: below, the proof would call it quiet.
const DAMAGE_MIN: f64 = 0.01;

/// The longest detour: around the earth.
const DETOUR_MAX_MS: f64 = 500.0;

/// One scenario, as its file says it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// Short name; also the name of the folder its results go to.
    pub name: Spanned<String>,
    /// One sentence for people: what happens.
    pub about: String,
    /// How long the scenario runs, in seconds from the first player's start.
    pub duration_s: Spanned<f64>,
    /// Where the daemon learns the routes from.
    #[serde(default)]
    pub routes: Source,
    /// Our own machine.
    pub video_host: VideoHost,
    /// What all of our machines share on the way to our edge router; absent: nothing.
    pub own_network: Option<OwnNetwork>,
    /// Links by which traffic leaves our network, at least one.
    #[serde(rename = "interconnect")]
    pub interconnects: Vec<Interconnect>,
    /// Access networks, each reached through every interconnect, at least one.
    #[serde(rename = "isp")]
    pub isps: Vec<Isp>,
    /// How many homes there are.
    pub homes: Homes,
    /// What the players play.
    pub video: Video,
    /// Laid over the daemon's configuration as it stands: any key `lastmile run` knows.
    #[serde(default)]
    pub daemon: toml::Table,
    /// What goes wrong, and when.
    #[serde(default, rename = "fault")]
    pub faults: Vec<Fault>,
    /// Prefixes that take another way, and when.
    #[serde(default, rename = "move")]
    pub moves: Vec<Move>,
    /// What is true, and when; none means that nothing is wrong.
    #[serde(default, rename = "truth")]
    pub truths: Vec<Truth>,
    /// The text this scenario was read from.
    #[serde(skip)]
    pub source: String,
}

/// The machine that serves the video and runs the daemon.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VideoHost {
    /// Its only way out, toward our edge router.
    pub uplink: Link,
    /// TCP congestion control of the web server, as the kernel names it.
    #[serde(default = "default_congestion_control")]
    pub congestion_control: String,
}

/// Our own network between our machines and our edge router.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnNetwork {
    /// The link to the edge router.
    pub backbone: Link,
}

/// A port of our edge router and the exchange network behind it, where every ISP is a member; or a
/// transit behind it, that leads to every ISP.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interconnect {
    /// The name the daemon is told, too.
    pub name: Spanned<String>,
    /// The queue of our port, toward the neighbours.
    pub port: Link,
    /// The transit that is our neighbour there; absent: the ISPs are, at an exchange.
    pub transit: Option<Transit>,
}

/// A network that carries our traffic to every ISP.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transit {
    /// Its AS number.
    pub asn: u32,
    /// Its link into each ISP.
    pub handover: Link,
}

/// What some homes of an ISP share behind its core.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Node {
    /// So many of the first prefixes of each pair are behind it.
    pub prefixes: usize,
    /// The link to it.
    pub link: Link,
}

/// An access network: a border router, one core link, and an access line to every home.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Isp {
    /// The name the daemon is told, too.
    pub name: Spanned<String>,
    /// Origin AS number of its prefixes.
    pub asn: u32,
    /// The link between border and access that all of the ISP's traffic shares.
    pub core: Link,
    /// The line to each home, toward the home.
    pub access: Link,
    /// What some of its homes share between core and lines; absent: nothing.
    pub node: Option<Node>,
    /// The core's way back, which everything shares that its homes send; absent: without limits.
    pub back: Option<Link>,
    /// Round trip without any queue, from the first home to the last, in milliseconds.
    pub base_rtt_ms: [u32; 2],
}

/// How many homes live where.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Homes {
    /// Prefixes (/24) on each pair of interconnect and ISP.
    pub prefixes_per_pair: usize,
    /// Homes in each prefix.
    pub per_prefix: usize,
}

/// The video and the player.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Video {
    /// Playing time of one chunk, in seconds.
    pub chunk_s: f64,
    /// Bitrates on offer, in kbit/s, rising.
    pub ladder_kbit: Spanned<Vec<u32>>,
    /// Seconds of video a player holds before it pauses fetching.
    pub buffer_s: f64,
    /// The players start one after the other within this many seconds.
    pub start_within_s: f64,
}

/// A link's rate and the queue in front of it.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Link {
    /// What the link carries, in Mbit/s.
    pub rate_mbit: f64,
    /// How packets wait for it.
    pub queue: Queue,
}

/// How packets wait.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Queue {
    /// First in, first out; what does not fit is dropped.
    Fifo {
        /// How much fits, as milliseconds of the link's rate.
        limit_ms: f64,
    },
    /// Random early detection (Floyd and Jacobson, 1993): drops begin at a quarter of the limit and
    /// are certain at three quarters.
    Red {
        /// As of a `fifo`.
        limit_ms: f64,
    },
    /// None: what exceeds the rate for longer than that is dropped.
    Policer {
        /// What may pass at once, as milliseconds of the link's rate.
        burst_ms: f64,
    },
    /// The kernel's `codel` (RFC 8289): one queue, kept to 5 ms.
    Codel {},
    /// The kernel's `fq_codel` with its default target (5 ms) and interval (100 ms).
    FqCodel {},
    /// The kernel's `cake`, which shapes by itself.
    Cake {},
}

/// Traffic that fills one link for a while.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Which link, and by what traffic's way: see [`Place`].
    pub fills: Spanned<Place>,
    /// The interconnect's or ISP's name, or the home's address; absent for what is our own.
    pub name: Option<Spanned<String>>,
    /// Seconds after the start.
    pub from_s: f64,
    /// Seconds after the start.
    pub to_s: Spanned<f64>,
    /// What fills it.
    pub traffic: Traffic,
}

impl Fault {
    /// Its name; empty for what is our own.
    #[must_use]
    pub fn name(&self) -> &str {
        self.name.as_ref().map_or("", |name| name.get_ref())
    }
}

/// The link a fault fills.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    /// Other traffic of our own machine leaves by the same uplink.
    Host,
    /// Another machine of ours sends through the same backbone.
    OwnNetwork,
    /// Another server of ours sends to another network through the same port.
    Interconnect,
    /// Another network sends into the ISP through every transit of ours.
    Handover,
    /// Another network sends into the ISP, past all interconnects of ours.
    Isp,
    /// The ISP's cache sends to that node of its.
    AccessNode,
    /// The ISP's cache sends to another network, the way that the homes' acknowledgements take.
    IspBack,
    /// The home downloads from a cache inside its ISP.
    Home,
}

/// What fills a link.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Traffic {
    /// Bulk transfers that take what they can get.
    Tcp {
        /// How many at once.
        flows: usize,
        /// Their congestion control, as the kernel names it.
        #[serde(default = "default_congestion_control")]
        congestion_control: String,
    },
    /// A constant stream that yields to nobody.
    Udp {
        /// Its rate on the wire, in Mbit/s.
        rate_mbit: f64,
    },
    /// Nothing fills it: the link is damaged, and loses packets at random.
    Damage {
        /// Which share of them.
        loss_share: f64,
    },
    /// Nothing is wrong with it: it takes a longer way.
    Detour {
        /// By how much, in milliseconds.
        longer_ms: f64,
    },
}

/// One thing that is true: who was congested, and from when to when.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Truth {
    /// The segment, in the words of the log (`interconnect`, `isp`, `last_mile`, `host`); or those
    /// that nobody can tell apart, where only the set of all of them is right.
    #[serde(rename = "segment")]
    pub segments: Segments,
    /// The interconnect it is about, where it is about one.
    pub interconnect: Option<Spanned<String>>,
    /// The ISP it is about, where it is about one.
    pub isp: Option<Spanned<String>>,
    /// The client prefix it is about, where it is about one.
    pub prefix: Option<Spanned<String>>,
    /// Seconds after the start.
    pub from_s: f64,
    /// Seconds after the start.
    pub to_s: Spanned<f64>,
}

/// One segment, or several that nobody can tell apart.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum Segments {
    /// One.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Segments {
    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(segment) => std::slice::from_ref(segment),
            Self::Several(segments) => segments,
        }
    }
}

fn default_congestion_control() -> String {
    "cubic".to_owned()
}

impl Scenario {
    /// Loads a built-in scenario by name, or any other by its path.
    ///
    /// # Errors
    /// If there is neither such a name nor such a file, or the file does not hold a scenario; the
    /// message names file and line.
    pub fn load(name_or_path: &str) -> Result<Self> {
        if let Some((name, text)) = BUILT_IN.iter().find(|(name, _)| *name == name_or_path) {
            return Self::parse(text, &format!("built-in scenario {name}"));
        }
        let path = Path::new(name_or_path);
        if !path.exists() && !name_or_path.contains(['/', '.']) {
            let names: Vec<&str> = BUILT_IN.iter().map(|(name, _)| *name).collect();
            return Err(anyhow!(
                "no scenario is called {name_or_path:?}: it is one of {}, or the path of a scenario file",
                names.join(", ")
            ));
        }
        let text = std::fs::read_to_string(path)
            .with_context(|| format!("cannot read the scenario {name_or_path}"))?;
        Self::parse(&text, name_or_path)
    }

    /// Parses and checks a scenario; `origin` is what messages call the text.
    ///
    /// # Errors
    /// If a key is unknown or missing or a value is not possible; the message names the line.
    pub fn parse(text: &str, origin: &str) -> Result<Self> {
        let mut scenario: Self =
            toml::from_str(text).map_err(|error| anyhow!("{origin}: {error}"))?;
        scenario.source = text.to_owned();
        scenario.check().map_err(|problem| {
            let line = text[..problem.at.start.min(text.len())]
                .matches('\n')
                .count()
                + 1;
            anyhow!("{origin}:{line}: {}", problem.what)
        })?;
        Ok(scenario)
    }

    /// How long the scenario runs.
    #[must_use]
    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(*self.duration_s.get_ref())
    }

    /// The same with routes from elsewhere.
    ///
    /// # Errors
    /// If they cannot come from there.
    pub fn with_routes(mut self, routes: Source) -> Result<Self> {
        self.routes = routes;
        let plan = Plan::new(&self)?;
        match conflict(&plan) {
            Some(why) => Err(anyhow!("{why}")),
            None => Ok(self),
        }
    }

    /// Name, duration and whether BGP daemons run in it, as one JSON object for whoever starts the
    /// machine.
    #[must_use]
    pub fn description(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name.get_ref(),
            "duration_s": self.duration_s.get_ref(),
            "routers": self.routes == Source::Bgp,
        })
    }

    /// Length of the daemon's windows, in seconds: `[daemon.window] length_s`, or its default.
    #[must_use]
    pub fn window_s(&self) -> f64 {
        /// What the daemon takes when nobody says otherwise (design: windows are 60 s).
        const DAEMON_DEFAULT_S: f64 = 60.0;
        let length = self
            .daemon
            .get("window")
            .and_then(|window| window.get("length_s"));
        match length {
            Some(toml::Value::Integer(seconds)) => *seconds as f64,
            Some(toml::Value::Float(seconds)) => *seconds,
            _ => DAEMON_DEFAULT_S,
        }
    }

    fn check(&self) -> Result<(), Problem> {
        let duration_s = *self.duration_s.get_ref();
        if !(duration_s > 0.0 && duration_s.is_finite()) {
            return refuse(&self.duration_s, "duration_s must be more than 0 s");
        }
        let name = self.name.get_ref();
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if name.is_empty() || !name.chars().all(plain) {
            return refuse(
                &self.name,
                "a scenario's name is letters, digits and hyphens: it names a folder",
            );
        }
        if self.interconnects.is_empty() || self.isps.is_empty() {
            return refuse(
                &self.name,
                "a scenario needs at least one [[interconnect]] and one [[isp]]",
            );
        }
        check_names(
            "[[interconnect]]",
            self.interconnects.iter().map(|i| &i.name),
        )?;
        check_names("[[isp]]", self.isps.iter().map(|isp| &isp.name))?;
        if !(self.video.chunk_s > 0.0 && self.video.buffer_s >= self.video.chunk_s) {
            return refuse(
                &self.video.ladder_kbit,
                "[video] chunk_s must be more than 0, and buffer_s at least as long",
            );
        }
        let ladder = self.video.ladder_kbit.get_ref();
        if ladder.is_empty() || ladder[0] == 0 || ladder.windows(2).any(|pair| pair[0] >= pair[1]) {
            return refuse(
                &self.video.ladder_kbit,
                "ladder_kbit must hold at least one bitrate above 0, in rising order",
            );
        }
        let links = std::iter::once(&self.video_host.uplink)
            .chain(self.own_network.iter().map(|own| &own.backbone))
            .chain(self.interconnects.iter().map(|i| &i.port))
            .chain(self.transits().map(|transit| &transit.handover))
            .chain(self.isps.iter().flat_map(|isp| [&isp.core, &isp.access]))
            .chain(self.isps.iter().filter_map(|isp| isp.back.as_ref()))
            .chain(self.nodes().map(|node| &node.link));
        for link in links {
            if link.rate_mbit.is_nan() || link.rate_mbit <= 0.0 {
                return refuse(&self.name, "every link's rate_mbit must be more than 0");
            }
        }
        let plan = Plan::new(self).map_err(|why| Problem {
            at: self.name.span(),
            what: why.to_string(),
        })?;
        if let Some(why) = conflict(&plan) {
            return refuse(&self.name, why);
        }
        for isp in &self.isps {
            let all = self.homes.prefixes_per_pair;
            if isp
                .node
                .is_some_and(|node| !(1..all).contains(&node.prefixes))
            {
                return refuse(
                    &isp.name,
                    format!("node: prefixes must be 1 to less than the {all} of a pair"),
                );
            }
        }
        for moved in &self.moves {
            self.check_move(moved, &plan)?;
        }
        for fault in &self.faults {
            check_times(fault.from_s, &fault.to_s, duration_s)?;
            self.check_fault(fault, &plan)?;
        }
        for truth in &self.truths {
            check_times(truth.from_s, &truth.to_s, duration_s)?;
            self.check_truth(truth, &plan)?;
        }
        Ok(())
    }

    fn check_fault(&self, fault: &Fault, plan: &Plan) -> Result<(), Problem> {
        let place = *fault.fills.get_ref();
        match (place, &fault.name) {
            (Place::Host | Place::OwnNetwork, None) => Ok(()),
            (Place::Host | Place::OwnNetwork, Some(name)) => {
                refuse(name, "a fault of our own has no name: there is one of us")
            }
            (_, None) => refuse(
                &fault.fills,
                "say which one: name = the interconnect, the ISP or the home's address",
            ),
            (Place::Interconnect, Some(name)) => self.check_interconnect(name),
            (Place::Handover | Place::Isp | Place::AccessNode | Place::IspBack, Some(name)) => {
                self.check_isp(name)
            }
            (Place::Home, Some(name)) => {
                let known = plan
                    .homes
                    .iter()
                    .any(|home| home.address.to_string() == *name.get_ref());
                if known {
                    return Ok(());
                }
                refuse(
                    name,
                    format!(
                        "no home has the address {:?}; the first one has {}",
                        name.get_ref(),
                        plan.homes[0].address
                    ),
                )
            }
        }?;
        let ports: Vec<_> = plan.filled(place, fault.name()).collect();
        if ports.is_empty() {
            let missing = match place {
                Place::OwnNetwork => "[own_network] backbone",
                Place::Handover => "[[interconnect]] transit",
                Place::AccessNode => "[[isp]] node",
                _ => "[[isp]] back",
            };
            return refuse(
                &fault.fills,
                format!("there is no such link: {missing} is not given"),
            );
        }
        match fault.traffic {
            Traffic::Damage { loss_share } if !(DAMAGE_MIN..=1.0).contains(&loss_share) => {
                return refuse(
                    &fault.fills,
                    format!("loss_share must be {DAMAGE_MIN} to 1: less is no congestion"),
                );
            }
            Traffic::Detour { longer_ms } if !(1.0..=DETOUR_MAX_MS).contains(&longer_ms) => {
                return refuse(
                    &fault.fills,
                    format!("longer_ms must be 1 to {DETOUR_MAX_MS}"),
                );
            }
            Traffic::Damage { .. } | Traffic::Detour { .. } => {}
            Traffic::Tcp { .. } | Traffic::Udp { .. } => return Ok(()),
        }
        let is_cake = |port: &&Port| matches!(port.link.queue, Queue::Cake {});
        match ports.into_iter().find(is_cake) {
            Some(_) => refuse(
                &fault.fills,
                "a link with the queue cake cannot be damaged or lengthened",
            ),
            None => Ok(()),
        }
    }

    fn transits(&self) -> impl Iterator<Item = &Transit> {
        let transits = self.interconnects.iter();
        transits.filter_map(|interconnect| interconnect.transit.as_ref())
    }

    fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.isps.iter().filter_map(|isp| isp.node.as_ref())
    }

    fn check_truth(&self, truth: &Truth, plan: &Plan) -> Result<(), Problem> {
        if truth.segments.all().is_empty() {
            return refuse(&truth.to_s, "a truth needs at least one segment");
        }
        if let Some(name) = &truth.interconnect {
            self.check_interconnect(name)?;
        }
        if let Some(name) = &truth.isp {
            self.check_isp(name)?;
        }
        if let Some(prefix) = &truth.prefix {
            check_prefix(prefix, plan)?;
        }
        Ok(())
    }

    fn check_move(&self, moved: &Move, plan: &Plan) -> Result<(), Problem> {
        check_prefix(&moved.prefix, plan)?;
        self.check_interconnect(&moved.to)?;
        let (at_s, duration_s) = (*moved.at_s.get_ref(), *self.duration_s.get_ref());
        if (0.0..duration_s).contains(&at_s) {
            return Ok(());
        }
        refuse(
            &moved.at_s,
            format!("at_s must be within 0 to {duration_s} s"),
        )
    }

    fn check_interconnect(&self, name: &Spanned<String>) -> Result<(), Problem> {
        let known = self.interconnects.iter().map(|i| i.name.get_ref().as_str());
        check_known(name, "[[interconnect]]", known.collect())
    }

    fn check_isp(&self, name: &Spanned<String>) -> Result<(), Problem> {
        let known = self.isps.iter().map(|isp| isp.name.get_ref().as_str());
        check_known(name, "[[isp]]", known.collect())
    }
}

/// What is wrong with a scenario, and where in its text.
struct Problem {
    at: Range<usize>,
    what: String,
}

fn refuse<T>(at: &Spanned<T>, what: impl fmt::Display) -> Result<(), Problem> {
    Err(Problem {
        at: at.span(),
        what: what.to_string(),
    })
}

/// Names go into the daemon's table, a CSV file, and must tell things apart.
fn check_names<'a>(
    table: &str,
    names: impl Iterator<Item = &'a Spanned<String>>,
) -> Result<(), Problem> {
    let mut known = HashSet::new();
    for name in names {
        let text = name.get_ref();
        let plain = |c: char| !c.is_control() && c != ',' && c != '"';
        if text.trim().is_empty() || !text.chars().all(plain) {
            return refuse(
                name,
                format!("{table} name: some text without commas and quotes"),
            );
        }
        if !known.insert(text) {
            return refuse(name, format!("there is already an {table} called {text:?}"));
        }
    }
    Ok(())
}

fn check_prefix(prefix: &Spanned<String>, plan: &Plan) -> Result<(), Problem> {
    let mut homes = plan.homes.iter();
    if homes.any(|home| home.prefix() == *prefix.get_ref()) {
        return Ok(());
    }
    refuse(
        prefix,
        format!(
            "no home lives in {:?}; the first prefix is {}",
            prefix.get_ref(),
            plan.homes[0].prefix()
        ),
    )
}

fn check_known(name: &Spanned<String>, table: &str, known: Vec<&str>) -> Result<(), Problem> {
    if known.contains(&name.get_ref().as_str()) {
        return Ok(());
    }
    refuse(
        name,
        format!(
            "no {table} is called {:?}: there is {}",
            name.get_ref(),
            known.join(", ")
        ),
    )
}

fn check_times(from_s: f64, to_s: &Spanned<f64>, duration_s: f64) -> Result<(), Problem> {
    let end = *to_s.get_ref();
    if from_s >= 0.0 && from_s < end && end <= duration_s {
        return Ok(());
    }
    refuse(
        to_s,
        format!("from_s ({from_s}) must come before to_s ({end}), both within 0 to {duration_s} s"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_loads_under_its_own_name() {
        for (name, _) in BUILT_IN {
            let scenario = Scenario::load(name).unwrap();
            assert_eq!(scenario.name.get_ref(), name);
        }
    }

    #[test]
    fn built_in_scenarios_differ_only_in_what_goes_wrong() {
        let stage = |text: &str| {
            let mut table: toml::Table = text.parse().unwrap();
            for key in ["name", "about", "routes", "fault", "move", "truth"] {
                table.remove(key);
            }
            table
        };
        let mut with_exchanges = stage(BUILT_IN[0].1);
        for (name, text) in BUILT_IN {
            let mut table = stage(text);
            if name == "handover-2014" {
                // Its transits are what it is about.
                table.remove("interconnect");
                with_exchanges.remove("interconnect");
            }
            assert_eq!(table, with_exchanges, "{name}");
        }
    }

    #[test]
    fn every_built_in_fault_has_its_truth() {
        for (name, _) in BUILT_IN {
            let scenario = Scenario::load(name).unwrap();
            assert_eq!(scenario.faults.len(), scenario.truths.len(), "{name}");
            for (fault, truth) in scenario.faults.iter().zip(&scenario.truths) {
                assert_eq!(fault.from_s, truth.from_s, "{name}");
                assert_eq!(fault.to_s.get_ref(), truth.to_s.get_ref(), "{name}");
            }
        }
    }

    #[test]
    fn a_name_nobody_defined_is_refused_with_its_line() {
        let text = BUILT_IN[2].1.replace(
            "fills = \"interconnect\"\nname = \"ix-east\"",
            "fills = \"interconnect\"\nname = \"ix-north\"",
        );
        let line = 1 + text
            .lines()
            .position(|line| line == "name = \"ix-north\"")
            .unwrap();
        let error = Scenario::parse(&text, "mine.toml").unwrap_err().to_string();
        assert_eq!(
            error,
            format!(
                "mine.toml:{line}: no [[interconnect]] is called \"ix-north\": there is ix-east, ix-west"
            )
        );
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line() {
        let text = format!("surprise = 1\n{}", BUILT_IN[0].1);
        let error = Scenario::parse(&text, "mine.toml").unwrap_err().to_string();
        assert!(
            error.starts_with("mine.toml: TOML parse error at line 1"),
            "{error}"
        );
        assert!(error.contains("surprise"), "{error}");
    }

    #[test]
    fn two_interconnects_of_one_name_are_refused() {
        let text = BUILT_IN[0].1.replace("ix-west", "ix-east");
        let error = Scenario::parse(&text, "mine.toml").unwrap_err().to_string();
        assert!(
            error.ends_with("there is already an [[interconnect]] called \"ix-east\""),
            "{error}"
        );
    }

    #[test]
    fn a_move_to_an_interconnect_that_nobody_defined_is_refused() {
        let scenario = BUILT_IN[5].1;
        let text = scenario.replace("to = \"ix-west\"", "to = \"ix-north\"");
        assert_ne!(text, scenario);
        let error = Scenario::parse(&text, "mine.toml").unwrap_err().to_string();
        assert!(
            error
                .ends_with("no [[interconnect]] is called \"ix-north\": there is ix-east, ix-west"),
            "{error}"
        );
    }

    #[test]
    fn an_isp_with_our_own_number_is_refused_where_routes_come_by_bgp() {
        let text = BUILT_IN[0].1.replace("asn = 64501", "asn = 64500");
        let scenario = Scenario::parse(&text, "mine.toml").unwrap();
        let error = scenario.with_routes(Source::Bgp).unwrap_err().to_string();
        assert!(error.contains("Northnet has asn 64500"), "{error}");
    }

    #[test]
    fn a_fault_that_ends_after_the_scenario_is_refused() {
        let text = BUILT_IN[2].1.replace("to_s = ", "to_s = 1000");
        let error = Scenario::parse(&text, "mine.toml").unwrap_err().to_string();
        assert!(error.contains("must come before to_s"), "{error}");
    }
}
