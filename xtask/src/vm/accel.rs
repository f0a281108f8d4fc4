//! Hardware acceleration where it works, emulation where it does not.
//!
//! `/dev/kvm` can be there and still hang every guest (some nested clouds), which `accel=kvm:tcg`
//! does not notice. So a machine is booted once, with a time limit, and the answer is kept.

use std::{env, fs, path::Path, time::Duration};

use anyhow::{Context, Result, bail};

use super::{Init, VmSpec};
use crate::{cache::Cache, kernel::Kernel, process::output_of};

/// The variable that overrides the probe: `kvm` or `tcg`.
const VARIABLE: &str = "LASTMILE_ACCEL";

/// A machine with KVM is in userspace within 2 s on a slow host; one that hangs stays silent.
const PROBE_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Accelerator {
    Kvm,
    /// QEMU's own translator.
    Tcg,
}

impl Accelerator {
    pub fn qemu_arguments(self) -> [&'static str; 4] {
        match self {
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
            // A kernel that sees ERMS copies memory with `rep movsb`, which is translated byte by
            // byte: without it copies take half the time. SMAP's stac and clac end translated blocks.
            Self::Tcg => [
                "-accel",
                "tcg,thread=multi",
                "-cpu",
                "max,-erms,-fsrm,-smap",
            ],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Kvm => "kvm",
            Self::Tcg => "tcg",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Kvm, Self::Tcg]
            .into_iter()
            .find(|accelerator| accelerator.name() == name)
    }
}

/// What [`VARIABLE`] says, else what the probe said on this host with its present kernel.
///
/// # Errors
/// When the variable is wrong or the answer cannot be kept.
pub fn choose(cache: &Cache, kernel: Kernel) -> Result<Accelerator> {
    if let Ok(name) = env::var(VARIABLE) {
        return match Accelerator::from_name(&name) {
            Some(accelerator) => Ok(accelerator),
            None => bail!("{VARIABLE}={name}: it can be `kvm` or `tcg`"),
        };
    }
    if !Path::new("/dev/kvm").exists() {
        return Ok(Accelerator::Tcg);
    }
    let host = output_of(std::process::Command::new("uname").args(["-nr"]))?;
    let file = cache.path("accelerator");
    if let Some(accelerator) = kept(&file, &host) {
        return Ok(accelerator);
    }
    // Machines start side by side, and one probe is enough.
    let _lock = cache.lock()?;
    if let Some(accelerator) = kept(&file, &host) {
        return Ok(accelerator);
    }
    let accelerator = probe(cache, kernel)?;
    fs::write(&file, format!("{} {host}", accelerator.name()))
        .with_context(|| format!("cannot write {}", file.display()))?;
    Ok(accelerator)
}

/// What the probe said on this host before.
fn kept(file: &Path, host: &str) -> Option<Accelerator> {
    let kept = fs::read_to_string(file).ok()?;
    let (name, for_host) = kept.split_once(' ')?;
    Accelerator::from_name(name).filter(|_| for_host == host)
}

fn probe(cache: &Cache, kernel: Kernel) -> Result<Accelerator> {
    let spec = VmSpec {
        kernel,
        init: Init::Script,
        kernel_arguments: Vec::new(),
        command: vec!["busybox".to_owned(), "true".to_owned()],
        environment: Vec::new(),
        binaries: Vec::new(),
        files: Vec::new(),
        routers: false,
        video: false,
        streams: Vec::new(),
        alone: true,
        time_limit: PROBE_LIMIT,
        out_dir: cache.path("kvm-probe"),
    };
    // Any failure means the same: it cannot be relied on.
    let works = matches!(
        super::run_with(cache, &spec, Accelerator::Kvm, &mut |_| ()),
        Ok(0)
    );
    fs::remove_dir_all(&spec.out_dir)
        .with_context(|| format!("cannot remove {}", spec.out_dir.display()))?;
    let accelerator = if works {
        Accelerator::Kvm
    } else {
        println!("KVM does not work here: virtual machines are emulated.");
        Accelerator::Tcg
    };
    Ok(accelerator)
}
