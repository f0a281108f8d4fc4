//! Compiles `monitor-ebpf`'s TC programs and leaves the object at `$OUT_DIR/lastmile-ebpf`.
//!
//! A second cargo does it, with the toolchain that `cargo xtask setup` put below the cache root
//! (stable Rust has neither `core` for BPF nor a linker for it).

#[path = "../xtask/src/bpf_toolchain.rs"]
mod bpf_toolchain;

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, ExitCode},
};

use bpf_toolchain::{BpfToolchain, CACHE_VARIABLE, cache_root};

const PROGRAM: &str = "lastmile-ebpf";
const TARGET: &str = "bpfel-unknown-none";
/// What decides verdicts.
const RULES: &str = "src/verdict";

fn main() -> ExitCode {
    match build() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("\nerror: {message}\n");
            ExitCode::FAILURE
        }
    }
}

fn build() -> Result<(), String> {
    for variable in [CACHE_VARIABLE, "XDG_CACHE_HOME", "HOME"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    for input in ["build.rs", RULES, "../monitor-ebpf", "../Cargo.lock"] {
        println!("cargo::rerun-if-changed={input}");
    }
    println!("cargo::rerun-if-changed=../xtask/src/bpf_toolchain.rs");
    println!(
        "cargo::rustc-env=LASTMILE_LAYOUT={:016x}",
        layout(Path::new("../monitor-ebpf/src"))?
    );
    println!("cargo::rustc-env=LASTMILE_RULES={:016x}", rules()?);

    let cache = cache_root()
        .ok_or_else(|| format!("no cache folder: set {CACHE_VARIABLE} or HOME to a folder"))?;
    let file = BpfToolchain::file(&cache);
    println!("cargo::rerun-if-changed={}", file.display());
    let toolchain = BpfToolchain::read(&cache)
        .map_err(|error| {
            format!(
                "{}: {error}. Run `cargo xtask setup` to write it anew.",
                file.display()
            )
        })?
        .ok_or_else(|| {
            format!(
                "there is no toolchain for the kernel side of lastmile ({} is missing or names \
                 files that have gone).\nRun `cargo xtask setup`: it says what it needs and \
                 downloads it below that folder.",
                file.display()
            )
        })?;

    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    let target_dir = target_dir(&out_dir);
    let cargo = match &toolchain.cargo {
        Some(cargo) => cargo.clone(),
        None => PathBuf::from(variable("CARGO")?),
    };
    let mut command = Command::new(&cargo);
    // What this build was told about the host must not reach a build for another target.
    for (name, _) in env::vars_os() {
        let leaks = name.to_str().is_some_and(|name| {
            name.starts_with("RUST") && !name.starts_with("RUSTUP_HOME")
                || name.starts_with("CARGO_BUILD_")
                || name.starts_with("CARGO_CFG_")
                || name.starts_with("CARGO_PROFILE_")
                || matches!(name, "CARGO_ENCODED_RUSTFLAGS" | "CARGO_TARGET_DIR")
        });
        if leaks {
            command.env_remove(name);
        }
    }
    let architecture = variable("CARGO_CFG_TARGET_ARCH")?;
    let flags = [
        format!("--cfg=bpf_target_arch=\"{architecture}\""),
        // 32-bit registers and jumps (Linux 5.1): sequence numbers need no shifts.
        "-Ctarget-cpu=v3".to_owned(),
        // The types of maps and the line numbers in verifier logs come from debug information.
        "-Cdebuginfo=2".to_owned(),
        "-Clink-arg=--btf".to_owned(),
        // Else every memset and memcpy is a loop over bytes, which the verifier gives up on.
        "-Clink-arg=--disable-expand-memcpy-in-order".to_owned(),
    ];
    command
        .current_dir(variable("CARGO_MANIFEST_DIR")?)
        .envs(environment(&toolchain)?)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        // Incremental builds cut the programs into parts that the verifier refuses.
        .env("CARGO_INCREMENTAL", "0")
        .args(["build", "--quiet", "--release", "--package", "monitor-ebpf"])
        .args(["--bin", PROGRAM, "--target", TARGET, "-Zbuild-std=core"])
        .arg("--target-dir")
        .arg(&target_dir);
    let output = command
        .output()
        .map_err(|error| format!("cannot run {}: {error}", cargo.display()))?;
    let messages = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!(
            "{messages}\nthe kernel side (package monitor-ebpf) does not build for {TARGET}; the \
             compiler's messages are above"
        ));
    }
    for line in messages.lines() {
        println!("cargo::warning={line}");
    }
    let object = target_dir.join(TARGET).join("release").join(PROGRAM);
    fs::copy(&object, out_dir.join(PROGRAM))
        .map_err(|error| format!("cannot copy {}: {error}", object.display()))?;
    Ok(())
}

/// A hash of everything that the maps' contents depend on: names, order and types of the fields
/// that the kernel side shares with the daemon, and its constants. Two builds with the same hash
/// understand each other's maps. (Comments and code do not count.)
fn layout(folder: &Path) -> Result<u64, String> {
    let mut hash = Hash::default();
    for file in sources(folder)? {
        let mut shared = false;
        for line in read(&file)?.lines().map(str::trim) {
            if line.starts_with("//") || line.is_empty() {
                continue;
            }
            shared |= line.starts_with("#[repr(");
            if shared || line.starts_with("pub const ") && !line.contains("fn ") {
                hash.add(line);
            }
            shared &= line != "}" && !line.ends_with(");");
        }
    }
    Ok(hash.0)
}

/// A hash of the rules' code: two builds with the same one decide alike.
fn rules() -> Result<u64, String> {
    let mut hash = Hash::default();
    for file in sources(Path::new(RULES))? {
        let text = read(&file)?;
        let lines = text.lines().map(str::trim);
        for line in lines.take_while(|line| *line != "mod tests {") {
            if !line.starts_with("//") {
                hash.add(line);
            }
        }
    }
    Ok(hash.0)
}

/// FNV-1a (Fowler, Noll, Vo): only accidents matter here.
struct Hash(u64);

impl Default for Hash {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hash {
    fn add(&mut self, text: &str) {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
        }
    }
}

/// The Rust files of a folder, not of those below it, in order.
fn sources(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .map_err(unreadable)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    files.retain(|file| file.extension().is_some_and(|kind| kind == "rs"));
    files.sort();
    Ok(files)
}

fn read(file: &Path) -> Result<String, String> {
    fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))
}

/// What makes an ordinary cargo one that can build for BPF.
fn environment(toolchain: &BpfToolchain) -> Result<Vec<(&'static str, OsString)>, String> {
    let path = env::var_os("PATH").unwrap_or_default();
    let programs = [&toolchain.linker, &toolchain.rustc]
        .into_iter()
        .filter_map(|program| program.parent().map(Path::to_path_buf))
        .chain(env::split_paths(&path));
    let joined = |paths: Vec<PathBuf>| env::join_paths(paths).map_err(|error| error.to_string());
    let mut variables = vec![
        ("RUSTC", toolchain.rustc.clone().into_os_string()),
        // `-Z build-std` on a compiler that calls itself stable.
        ("RUSTC_BOOTSTRAP", "1".into()),
        ("PATH", joined(programs.collect())?),
    ];
    if !toolchain.libraries.is_empty() {
        variables.push(("LD_LIBRARY_PATH", joined(toolchain.libraries.clone())?));
    }
    Ok(variables)
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error} (cargo sets it for build scripts)"))
}

/// A target folder of its own, so that the two cargos never wait for each other's lock: below the
/// workspace's target folder, because debug and release builds share the same BPF object.
fn target_dir(out_dir: &Path) -> PathBuf {
    out_dir
        .ancestors()
        .find(|directory| directory.join("CACHEDIR.TAG").is_file())
        .unwrap_or(out_dir)
        .join("ebpf")
}
