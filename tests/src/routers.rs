//! The lab's BGP routers: FRR (`zebra`, `bgpd` with BMP) on our edge, BIRD on the ISPs' borders.
//!
//! They run in the namespaces of the plan and forward by what BGP told them: the edge's kernel has
//! no other route to a home.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::addresses::{EDGE, border};
use crate::fib;
use crate::netns;
use crate::plan::Plan;
use crate::router_files::{border_bird, edge_bgpd};
use crate::routes::Ways;

/// Programs start, sessions come up and routes settle within this, emulated on a busy machine.
const CONVERGED_WITHIN: Duration = Duration::from_secs(60);
/// A change of one announcement is in the kernel within this.
const REROUTED_WITHIN: Duration = Duration::from_secs(10);
/// How often a socket that a program makes is looked for: the file system tells nobody.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Where FRR's daemons keep things, however they are configured.
const FRR_FOLDERS: [&str; 2] = ["/var/run/frr", "/var/tmp/frr"];

/// `bgpd` logs this when the whole table was sent on a BMP session.
const TABLE_SENT: &str = "table completed (EoR)";

/// The running routers.
#[derive(Debug)]
pub struct Routers {
    processes: Vec<(String, Child)>,
    /// BIRD on each ISP's border: its configuration file, and its process.
    borders: Vec<(PathBuf, Pid)>,
    /// What `bgpd` logs.
    bgpd: Receiver<String>,
    /// The file with what all of them say on standard error.
    errors: PathBuf,
}

impl Routers {
    /// Starts all of them and waits until the edge's kernel has every route. Their files are in
    /// `folder`, the edge's log in `out`.
    ///
    /// # Errors
    /// If a program is missing or ends, or the routes do not come.
    pub fn start(plan: &Plan, ways: &Ways, folder: &Path, out: &Path) -> Result<Self> {
        let folder = folder.join("routers");
        let folders = FRR_FOLDERS.map(Path::new);
        for folder in folders.into_iter().chain([folder.as_path()]) {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        let path = |name: &str| folder.join(name);
        let text = |path: PathBuf| path.to_string_lossy().into_owned();

        write(&path("zebra.conf"), "log stdout\n")?;
        let zebra_socket = path("zebra.api");
        let common = |name: &str| {
            let mut words = ["-u", "root", "-g", "root", "-P", "0", "--vty_socket"]
                .map(str::to_owned)
                .to_vec();
            words.push(text(folder.clone()));
            words.extend(["-f".to_owned(), text(path(&format!("{name}.conf")))]);
            words.extend(["-i".to_owned(), text(path(&format!("{name}.pid")))]);
            words.extend(["-z".to_owned(), text(zebra_socket.clone())]);
            words
        };
        let mut routers = Self {
            processes: Vec::new(),
            borders: Vec::new(),
            bgpd: channel().1,
            errors: out.join("routers.log"),
        };
        routers.run(EDGE, "zebra", common("zebra"), Stdio::null())?;
        // bgpd looks for it once and then only every ten seconds.
        let deadline = Instant::now() + CONVERGED_WITHIN;
        while !zebra_socket.exists() {
            if Instant::now() > deadline {
                bail!("zebra did not start within {CONVERGED_WITHIN:?}");
            }
            thread::sleep(LOOK_EVERY);
        }
        write(&path("bgpd.conf"), &edge_bgpd(plan))?;
        let mut words = common("bgpd");
        words.extend(["-M", "bmp", "--log", "stdout"].map(str::to_owned));
        let bgpd = routers.run(EDGE, "bgpd", words, Stdio::piped())?;
        let stdout = bgpd.stdout.take().context("bgpd has no output")?;
        routers.bgpd = copy(stdout, &out.join("edge-bgpd.log"))?;

        for isp in 0..plan.isps.len() {
            let file = path(&format!("bird-{}.conf", isp + 1));
            write(&file, &border_bird(plan, ways, isp))?;
            let words = [
                "-f".to_owned(),
                "-c".to_owned(),
                text(file.clone()),
                "-s".to_owned(),
                text(path(&format!("bird-{}.ctl", isp + 1))),
            ];
            let child = routers.run(&border(isp), "bird", words.to_vec(), Stdio::null())?;
            let pid = Pid::from_raw(i32::try_from(child.id())?);
            routers.borders.push((file, pid));
        }
        let converged = fib::await_gateways(EDGE, ways.next_hops(plan), CONVERGED_WITHIN);
        if converged.is_err() {
            // That one is gone tells more.
            routers.ensure_alive()?;
        }
        converged.map(|()| routers)
    }

    fn ensure_alive(&mut self) -> Result<()> {
        for (name, child) in &mut self.processes {
            let ended = child.try_wait();
            if let Some(status) = ended.with_context(|| format!("cannot await {name}"))? {
                let said = fs::read_to_string(&self.errors).unwrap_or_default();
                bail!("{name} ended by itself: {status}; the routers said:\n{said}");
            }
        }
        Ok(())
    }

    /// Waits until the edge has told its whole table to the daemon.
    ///
    /// # Errors
    /// If it does not.
    pub fn await_bmp(&self) -> Result<()> {
        let deadline = Instant::now() + CONVERGED_WITHIN;
        loop {
            let rest = deadline.saturating_duration_since(Instant::now());
            let line = self
                .bgpd
                .recv_timeout(rest)
                .context("our edge router did not tell its routes by BMP: see edge-bgpd.log")?;
            if line.contains(TABLE_SENT) {
                return Ok(());
            }
        }
    }

    /// Lets an ISP announce its prefixes for the ways as they are now, and waits until our edge
    /// forwards so.
    ///
    /// # Errors
    /// If the ISP's router is gone, or nothing comes of it.
    pub fn announce(&self, plan: &Plan, ways: &Ways, isp: usize) -> Result<()> {
        let (file, pid) = &self.borders[isp];
        write(file, &border_bird(plan, ways, isp))?;
        kill(*pid, Signal::SIGHUP).context("cannot signal an ISP's router")?;
        fib::await_gateways(EDGE, ways.next_hops(plan), REROUTED_WITHIN)
    }

    /// Ends them.
    ///
    /// # Errors
    /// If one has ended by itself.
    pub fn stop(mut self) -> Result<()> {
        self.ensure_alive()?;
        for (name, mut child) in self.processes.drain(..) {
            child.kill().with_context(|| format!("cannot end {name}"))?;
            child
                .wait()
                .with_context(|| format!("cannot await {name}"))?;
        }
        Ok(())
    }

    fn run(
        &mut self,
        namespace: &str,
        program: &'static str,
        words: Vec<String>,
        stdout: Stdio,
    ) -> Result<&mut Child> {
        let errors = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.errors)
            .with_context(|| format!("cannot write {}", self.errors.display()))?;
        let start = netns::enter(namespace, move || {
            Command::new(program)
                .args(words)
                .stdin(Stdio::null())
                .stdout(stdout)
                .stderr(errors)
                .spawn()
                .with_context(|| format!("cannot run {program}"))
        })?;
        let child = netns::join(start)?;
        let name = format!("{program} in {namespace}");
        self.processes.push((name, child));
        let (_, child) = self.processes.last_mut().context("it was just pushed")?;
        Ok(child)
    }
}

/// What a program prints, line by line, and in a file as well.
fn copy(from: impl std::io::Read + Send + 'static, to: &Path) -> Result<Receiver<String>> {
    let mut file = File::create(to).with_context(|| format!("cannot create {}", to.display()))?;
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            // A log that cannot be kept must not stop the router, nor a listener that has left.
            let _ = writeln!(file, "{line}");
            let _ = sender.send(line);
        }
    });
    Ok(lines)
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
