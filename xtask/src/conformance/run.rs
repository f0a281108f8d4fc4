//! The run: every capture, one after the other.

use std::{
    collections::BTreeMap,
    env, fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Instant,
};

use anyhow::{Context, Result, bail};

use super::{
    against_tcptrace, against_tshark,
    captures::{self, Capture, Unpacked},
    difference::Difference,
    join, ours,
    programs::Analysers,
    reference_output,
    report::{self, Report},
    rules::Reference,
    segment::Tuple,
    tcptrace, tshark,
};
use crate::{cargo, requirements::Requirement, setup};

/// The folder of captures.
pub const CAPTURES_VARIABLE: &str = "LASTMILE_CAPTURES";

/// Folders in it that hold TCP with known answers; the others are routing data.
const FOLDERS: [&str; 6] = ["tcp", "tcptrace", "ndt7", "policing", "sni", "bmp"];

/// What `lastmile replay` says of a link type it does not know.
const NOT_UNDERSTOOD: &str = "of link type";

/// What was asked for.
#[derive(Debug, Default)]
pub struct Request {
    /// `None`: [`FOLDERS`] of [`CAPTURES_VARIABLE`].
    pub folder: Option<PathBuf>,
    /// The command to compare with them; `None`: what cargo builds.
    pub lastmile: Option<PathBuf>,
    /// Put the tables into docs/measurement.md.
    pub write_docs: bool,
}

/// What came of one capture.
#[derive(Debug)]
pub enum Outcome {
    /// It says nothing about TCP, for this reason.
    Skipped(String),
    Compared(Box<Compared>),
}

/// The comparison of one capture.
#[derive(Debug, Default)]
pub struct Compared {
    pub segments: usize,
    pub flows: usize,
    /// Figures held against each reference, by the order of [`Reference::ALL`].
    pub figures: [u64; 2],
    pub differences: Vec<Difference>,
    /// Why a reference has nothing to say, or stopped early.
    pub remarks: Vec<String>,
    /// Where we and a reference do not even agree what can be read.
    pub unexplained: Vec<String>,
}

/// Compares every capture that was asked for. Exit code 1: something is not explained.
///
/// # Errors
/// When there is nothing to compare, or a program cannot be had or run.
pub fn run(request: &Request) -> Result<ExitCode> {
    let captures = wanted(request)?;
    let cache = setup::ensure(&[Requirement::BpfToolchain, Requirement::Analysers])?;
    let analysers = Analysers::find(&cache)?;
    let lastmile = match &request.lastmile {
        Some(built) => built.clone(),
        None => lastmile()?,
    };
    let scratch = Scratch::new()?;
    let start = Instant::now();
    let mut report = Report::new(analysers.versions()?);
    for capture in &captures {
        let outcome = compare(capture, &lastmile, &analysers, &scratch)
            .with_context(|| capture.name.clone())?;
        print!("{}", report::lines(capture, &outcome));
        report.add(capture, outcome);
    }
    println!();
    print!("{}", report.summary());
    println!("{:.0} s", start.elapsed().as_secs_f64());
    if request.write_docs {
        let path = cargo::workspace().join(report::DOCUMENT);
        report.write_into(&path)?;
        println!("wrote {}", path.display());
    }
    Ok(if report.is_explained() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

fn wanted(request: &Request) -> Result<Vec<Capture>> {
    let captures = match &request.folder {
        Some(folder) => captures::files(folder)?,
        None => {
            let root = env::var_os(CAPTURES_VARIABLE).with_context(|| {
                format!("name a folder of captures, or set {CAPTURES_VARIABLE} to one")
            })?;
            let root = Path::new(&root);
            let all = captures::files(root)?.into_iter();
            all.filter(|capture| FOLDERS.contains(&capture.folder()))
                .collect()
        }
    };
    if captures.is_empty() {
        bail!("there is no file to read");
    }
    Ok(captures)
}

/// Builds the daemon's own command.
fn lastmile() -> Result<PathBuf> {
    let built = cargo::build(&["build", "--package", "lastmile", "--bin", "lastmile"])?;
    cargo::binary(&built, "lastmile")
}

/// A folder for copies and graphs, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self> {
        let folder = cargo::workspace().join("target/conformance");
        let scratch = Self(folder.join(std::process::id().to_string()));
        scratch.empty("home")?;
        Ok(scratch)
    }

    /// An empty folder with this name.
    fn empty(&self, name: &str) -> Result<PathBuf> {
        let folder = self.0.join(name);
        if folder.exists() {
            fs::remove_dir_all(&folder)
                .with_context(|| format!("cannot empty {}", folder.display()))?;
        }
        fs::create_dir_all(&folder)
            .with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(folder)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What is left lies in target, where cargo clean finds it.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn compare(
    capture: &Capture,
    lastmile: &Path,
    analysers: &Analysers,
    scratch: &Scratch,
) -> Result<Outcome> {
    let folder = scratch.empty("capture")?;
    let plain = match captures::unpack(&capture.path, &folder.join("unpacked"))? {
        Unpacked::At(plain) => plain,
        Unpacked::NoCapture => return Ok(Outcome::Skipped("no pcap or pcapng".to_owned())),
        Unpacked::Damaged(reason) => {
            return Ok(Outcome::Skipped(format!("cannot be unpacked: {reason}")));
        }
    };
    let plain =
        fs::canonicalize(&plain).with_context(|| format!("cannot find {}", plain.display()))?;
    // We read compressed captures ourselves.
    let ours = ours::read(lastmile, &capture.path)?;
    let not_understood = |error: &&String| ours.flows.is_empty() && error.contains(NOT_UNDERSTOOD);
    if let Some(error) = ours.error.as_ref().filter(not_understood) {
        return Ok(Outcome::Skipped(error.clone()));
    }
    let theirs = tshark::read(analysers, &plain, &scratch.0.join("home"))?;
    let graphs = scratch.empty("graphs")?;
    let traced = tcptrace::read(analysers, &plain, &graphs)?;
    let disagreement = traced
        .as_ref()
        .ok()
        .and_then(|traced| reference_output::disagreement(&capture.path, traced));
    let mut compared = compared(&ours, &theirs, traced);
    compared.remarks.extend(disagreement);
    Ok(Outcome::Compared(Box::new(compared)))
}

fn compared(
    ours: &ours::Reading,
    theirs: &tshark::Reading,
    traced: Result<Vec<tcptrace::Connection>, String>,
) -> Compared {
    let mut compared = Compared {
        segments: theirs.segments.len(),
        flows: ours.flows.len(),
        ..Compared::default()
    };
    match (&ours.error, &theirs.error) {
        (Some(ours), Some(theirs)) => {
            compared.remarks.push(format!("{ours} (tshark: {theirs})"));
        }
        (Some(ours), None) => compared.unexplained.push(format!("only we stop: {ours}")),
        (None, Some(theirs)) => compared
            .remarks
            .push(format!("only tshark stops: {theirs}")),
        (None, None) => {}
    }
    if theirs.cut > 0 {
        let cut = theirs.cut;
        compared
            .remarks
            .push(format!("{cut} TCP headers too short to say more"));
    }
    let connections = join::connections(&ours.flows, &theirs.segments);
    let flows = ours.flows.len() as u64;
    // Flow count, and five figures of each direction and the handshake of each flow.
    compared.figures[0] = connections.len() as u64 + 11 * flows;
    for connection in &connections {
        compared
            .differences
            .extend(against_tshark::differences(connection));
    }
    match traced {
        Ok(mut traced) => {
            traced.sort_by_key(|traced| traced.start_us);
            let mut by_tuple: BTreeMap<Tuple, Vec<tcptrace::Connection>> = BTreeMap::new();
            for traced in traced {
                let (tuple, _) = Tuple::of(traced.a, traced.b);
                by_tuple.entry(tuple).or_default().push(traced);
            }
            for connection in &connections {
                let mut between = by_tuple.remove(&connection.tuple).unwrap_or_default();
                compared.figures[1] += 1 + 11 * connection.flows.len() as u64;
                compared
                    .differences
                    .extend(against_tcptrace::differences(connection, &mut between));
            }
            let mut extended = theirs.segments.iter().filter(|segment| segment.extended);
            let reads_extensions = extended.next().is_none();
            for Tuple { low, high } in by_tuple.into_keys() {
                if low.is_ipv6() && !reads_extensions {
                    compared.remarks.push(format!(
                        "tcptrace takes an IPv6 extension header for TCP's: {low} - {high}"
                    ));
                    continue;
                }
                compared
                    .unexplained
                    .push(format!("only tcptrace has a connection {low} - {high}"));
            }
        }
        Err(reason) => compared.remarks.push(format!(
            "not held against {}: {reason}",
            Reference::Tcptrace.name()
        )),
    }
    compared
}
