//! Route experiments: the program at the sockets. What it has marked the packet path tells of each
//! flow (`SocketFigures::mark`).

use std::{
    fs::{self, File},
    mem,
    net::UdpSocket,
    os::fd::AsRawFd as _,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::{
    Pod,
    maps::{Array, Map, MapData},
    programs::{CgroupAttachMode, SockOps},
};
use monitor_ebpf::experiment::Experiment;

use super::load::{Live, explain};
use crate::config;

const PROGRAM: &str = "lastmile_experiment";

#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct PodExperiment(Experiment);
// SAFETY: integers without padding.
unsafe impl Pod for PodExperiment {}

/// The experiment, as the loaded program sees it.
pub(super) struct Route {
    settings: Array<MapData, PodExperiment>,
    /// The secret by which connections are chosen.
    key: u64,
    attached: bool,
}

impl Route {
    /// `kept`: the map is an earlier run's, whose choices stay as they are; else `key` is the secret.
    pub(super) fn new(settings: Map, kept: bool, key: u64) -> Result<Self> {
        let settings: Array<_, PodExperiment> = Array::try_from(settings)?;
        let PodExperiment(before) = settings
            .get(&0, 0)
            .context("cannot read the experiment of the last run")?;
        let goes_on = kept && before.key != 0;
        Ok(Self {
            settings,
            key: if goes_on { before.key } else { key },
            attached: false,
        })
    }
}

impl Live {
    /// From now on this share of the connections that are accepted is marked; `None`: none is. Those
    /// that were marked stay so.
    ///
    /// # Errors
    /// There is no cgroup2 file system, or the kernel does not let the program run there.
    pub fn run_experiment(&mut self, experiment: Option<&config::Experiment>) -> Result<()> {
        let is_attached = self.route.attached;
        let settings = match experiment {
            None if !is_attached => return Ok(()),
            None => Experiment {
                key: self.route.key,
                ..Experiment::default()
            },
            Some(experiment) => Experiment {
                key: self.route.key,
                namespace: namespace_cookie()?,
                threshold: (experiment.share * f64::from(u32::MAX)) as u32,
                reserved: 0,
                marking: experiment.marking(),
            },
        };
        // Before it is attached: kept maps have the last run's.
        self.route
            .settings
            .set(0, PodExperiment(settings), 0)
            .context("cannot set which connections are sent another way")?;
        if is_attached {
            return Ok(());
        }
        self.attach_experiment()
            .context("[path.experiment] cannot be run")
    }

    /// Loads the program for the kernel's verifier, and attaches it nowhere.
    pub fn load_experiment(&mut self) -> Result<&mut SockOps> {
        let program: &mut SockOps = self
            .ebpf
            .program_mut(PROGRAM)
            .with_context(|| format!("the BPF object has no program {PROGRAM}"))?
            .try_into()?;
        if program.fd().is_err() {
            program.load().map_err(|error| explain(PROGRAM, error))?;
        }
        Ok(program)
    }

    fn attach_experiment(&mut self) -> Result<()> {
        let folder = control_groups()?;
        let group = File::open(&folder).with_context(|| folder.display().to_string())?;
        // A link lets others attach theirs beside it, and knows no other mode.
        self.load_experiment()?
            .attach(group, CgroupAttachMode::Single)
            .with_context(|| format!("cannot attach the program to {}", folder.display()))?;
        self.route.attached = true;
        Ok(())
    }
}

/// Where the cgroup2 file system is.
pub(super) fn control_groups() -> Result<PathBuf> {
    const MOUNTS: &str = "/proc/self/mounts";
    let mounts = fs::read_to_string(MOUNTS).context(MOUNTS)?;
    let mut folders = mounts.lines().filter_map(|mount| {
        let mut fields = mount.split(' ').skip(1);
        let folder = fields.next()?;
        (fields.next()? == "cgroup2").then_some(folder)
    });
    match folders.next() {
        Some(folder) => Ok(Path::new(folder).to_owned()),
        None => bail!("no cgroup2 file system is mounted (mount -t cgroup2 none /sys/fs/cgroup)"),
    }
}

/// The kernel's number for this thread's network namespace.
fn namespace_cookie() -> Result<u64> {
    /// asm-generic/socket.h; Linux 5.14.
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let socket = UdpSocket::bind("127.0.0.1:0")
        .or_else(|_| UdpSocket::bind("[::]:0"))
        .context("cannot open a socket")?;
    let mut cookie = 0_u64;
    let mut length = mem::size_of::<u64>() as libc::socklen_t;
    // SAFETY: the option's value is an integer of eight bytes, as large as `length` says.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(std::io::Error::last_os_error())
            .context("cannot ask which network namespace this is");
    }
    Ok(cookie)
}
