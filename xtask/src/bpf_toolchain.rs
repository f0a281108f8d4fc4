//! Where the BPF toolchain is: one small file below the cache root.
//!
//! `cargo xtask setup` writes it last, after everything it names is in place; `monitor/build.rs`
//! includes this same source file and reads it, so that a plain `cargo build` needs no environment
//! variable.

use std::{
    env, fs, io,
    path::{Path, PathBuf},
};

/// The variable that moves the cache root.
pub const CACHE_VARIABLE: &str = "LASTMILE_CACHE";

/// Everything that is downloaded lives below this folder: `LASTMILE_CACHE`, else
/// `$XDG_CACHE_HOME/lastmile`, else `$HOME/.cache/lastmile`. `None` where none of the three is set.
pub fn cache_root() -> Option<PathBuf> {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set(CACHE_VARIABLE)
        .map(PathBuf::from)
        .or_else(|| set("XDG_CACHE_HOME").map(|dir| Path::new(&dir).join("lastmile")))
        .or_else(|| set("HOME").map(|dir| Path::new(&dir).join(".cache/lastmile")))
}

/// What turns an ordinary cargo into one that can build for `bpfel-unknown-none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BpfToolchain {
    /// A compiler whose sysroot holds the source of `core`.
    pub rustc: PathBuf,
    /// The cargo that goes with it; `None`: the one that runs the build.
    pub cargo: Option<PathBuf>,
    /// `bpf-linker`, built for the same LLVM or a later one.
    pub linker: PathBuf,
    /// Folders of shared libraries that `rustc` and `linker` need and the system does not have.
    pub libraries: Vec<PathBuf>,
}

impl BpfToolchain {
    /// The file below the cache root.
    pub fn file(cache_root: &Path) -> PathBuf {
        cache_root.join("bpf-toolchain")
    }

    /// Reads the file; `None` if it is not there or names something that has gone.
    ///
    /// # Errors
    /// When the file is there but cannot be read or understood.
    pub fn read(cache_root: &Path) -> io::Result<Option<Self>> {
        let text = match fs::read_to_string(Self::file(cache_root)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let value = |key: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
        };
        let (Some(rustc), Some(linker)) = (value("rustc"), value("linker")) else {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "it must name `rustc=` and `linker=`",
            ));
        };
        let toolchain = Self {
            rustc: rustc.into(),
            cargo: value("cargo").map(PathBuf::from),
            linker: linker.into(),
            libraries: value("libraries")
                .map(|paths| env::split_paths(paths).collect())
                .unwrap_or_default(),
        };
        let complete = [&toolchain.rustc, &toolchain.linker]
            .into_iter()
            .chain(&toolchain.cargo)
            .all(|path| path.is_file());
        Ok(complete.then_some(toolchain))
    }
}
