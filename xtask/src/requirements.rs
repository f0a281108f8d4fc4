//! What this project needs beyond Rust and a C linker, and how each thing is found and obtained.

use std::env;

use anyhow::{Context, Result};

use crate::{
    apt::Places,
    bpf_toolchain::BpfToolchain,
    cache::Cache,
    conformance::{self, CAPTURES_VARIABLE},
    kernel::Kernel,
    ladder,
    programs::{self, Bundle},
    toolchain,
};

/// One thing that has to be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Requirement {
    /// A Rust compiler with the source of `core`, and bpf-linker.
    BpfToolchain,
    Programs(Bundle),
    /// What our figures are held against.
    Analysers,
    /// The video that is played.
    Ladder,
    Kernel(Kernel),
}

impl Requirement {
    /// Everything that building, running and testing need here.
    pub fn all() -> Vec<Self> {
        let captures = env::var_os(CAPTURES_VARIABLE).map(|_| Self::Analysers);
        [Self::BpfToolchain]
            .into_iter()
            .chain(Bundle::ALL.map(Self::Programs))
            .chain([Self::Ladder])
            .chain(captures)
            .chain(Kernel::ALL.map(Self::Kernel))
            .collect()
    }

    pub fn name(self) -> String {
        match self {
            Self::BpfToolchain => "BPF toolchain".to_owned(),
            Self::Programs(Bundle::Machine) => "programs".to_owned(),
            Self::Programs(Bundle::Routing) => "BGP daemons and Prometheus".to_owned(),
            Self::Programs(Bundle::Video) => "ffmpeg and dropbear".to_owned(),
            Self::Analysers => "analysers".to_owned(),
            Self::Ladder => "video".to_owned(),
            Self::Kernel(kernel) => format!("Linux {}", kernel.version()),
        }
    }

    /// What it is for and where it comes from, for someone who decides whether to let it happen.
    pub fn explanation(self, cache: &Cache) -> String {
        match self {
            Self::BpfToolchain => format!(
                "compiles the kernel side: Debian's rustc-web, rust-web-src and libllvm, and \
                 bpf-linker {} by cargo install, built here",
                toolchain::LINKER_VERSION
            ),
            Self::Programs(bundle) => format!(
                "{}: {}",
                match bundle {
                    Bundle::Machine => "for the virtual machine",
                    Bundle::Routing => "for tests, and for scenarios with live routes",
                    Bundle::Video => "for tests with real video, and with SSH beside it",
                },
                programs::packages(bundle.missing(cache)).join(", ")
            ),
            Self::Analysers => format!(
                "for captures, whose figures ours are held against: {}",
                conformance::programs::missing(cache).join(", ")
            ),
            Self::Ladder => format!(
                "{} s of HLS at {} bitrates, encoded here by ffmpeg",
                ladder::LENGTH_S,
                ladder::RENDITIONS.len()
            ),
            Self::Kernel(_) => "boots in the virtual machine: Debian's cloud kernel".to_owned(),
        }
    }

    /// What it takes to download, in megabytes (measured on Debian 12).
    pub fn download_mb(self) -> u32 {
        match self {
            Self::BpfToolchain => 140,
            Self::Programs(Bundle::Machine) => 19,
            Self::Programs(Bundle::Routing) => 38,
            Self::Programs(Bundle::Video) => 58,
            Self::Analysers => 22,
            Self::Ladder => 0,
            Self::Kernel(kernel) => kernel.download_mb(),
        }
    }

    /// What it takes on disk, in megabytes (measured on Debian 12).
    pub fn disk_mb(self) -> u32 {
        match self {
            Self::BpfToolchain => 550,
            Self::Programs(Bundle::Machine) => 90,
            Self::Programs(Bundle::Routing) => 172,
            Self::Programs(Bundle::Video) => 161,
            Self::Analysers => 124,
            Self::Ladder => 47,
            Self::Kernel(Kernel::V6_1) => 106,
            Self::Kernel(Kernel::V6_12) => 37,
        }
    }

    /// Quick: looks at files only.
    ///
    /// # Errors
    /// When a file that says what is there cannot be read.
    pub fn is_met(self, cache: &Cache) -> Result<bool> {
        match self {
            Self::BpfToolchain => Ok(BpfToolchain::read(cache.root())
                .with_context(|| BpfToolchain::file(cache.root()).display().to_string())?
                .is_some()),
            Self::Programs(bundle) => Ok(bundle.missing(cache).is_empty()),
            Self::Analysers => Ok(conformance::programs::missing(cache).is_empty()),
            Self::Ladder => Ok(ladder::is_there(cache)),
            Self::Kernel(kernel) => Ok(kernel.files(cache).is_ok()),
        }
    }

    /// Downloads, unpacks and builds it.
    ///
    /// # Errors
    /// When that fails; then nothing of it counts as present.
    pub fn obtain(self, cache: &Cache, places: &mut Places<'_>) -> Result<()> {
        match self {
            Self::BpfToolchain => toolchain::obtain(cache, places),
            Self::Programs(bundle) => bundle.obtain(cache, places),
            Self::Analysers => conformance::programs::obtain(cache, places),
            Self::Ladder => ladder::encode(cache),
            Self::Kernel(kernel) => kernel.obtain(cache, places),
        }
    }

    /// Whether [`Self::obtain`] would ask apt.
    pub fn needs_apt(self) -> bool {
        match self {
            Self::BpfToolchain => toolchain::nightly().is_none(),
            Self::Ladder => false,
            Self::Programs(_) | Self::Analysers | Self::Kernel(_) => true,
        }
    }

    /// What to type where [`Self::obtain`] cannot work because there is no apt.
    pub fn commands_without_apt(self, cache: &Cache) -> String {
        match self {
            Self::BpfToolchain => "rustup toolchain install nightly --component rust-src\n\
                 cargo install bpf-linker   # its README says which LLVM it needs"
                .to_owned(),
            Self::Programs(bundle) => {
                let programs: Vec<_> = bundle
                    .missing(cache)
                    .into_iter()
                    .map(|program| program.name)
                    .collect();
                format!(
                    "# with your package manager, the packages that hold: {}",
                    programs.join(" ")
                )
            }
            Self::Analysers => format!(
                "# with your package manager: {}",
                conformance::programs::missing(cache).join(", ")
            ),
            Self::Ladder => "# encoded by ffmpeg, once that is there".to_owned(),
            Self::Kernel(kernel) => format!(
                "# from any Debian mirror: linux-image-{}*-cloud-amd64_*.deb\n\
                 mkdir -p {folder} && ar p FILE.deb data.tar.xz | tar -xJ -C {folder}",
                kernel.version(),
                folder = cache.path(&kernel.cache_name()).display()
            ),
        }
    }
}
