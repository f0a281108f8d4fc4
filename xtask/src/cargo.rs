//! Runs the cargo that runs us.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{cache::Cache, process::output_of};

/// The root of this repository.
pub fn workspace() -> &'static Path {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package)
}

/// A cargo that does not inherit what the outer one told this process about its own package.
pub fn command() -> Command {
    let cargo = env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace());
    for (name, _) in env::vars_os() {
        if name.as_encoded_bytes().starts_with(b"CARGO_PKG_")
            || name.as_encoded_bytes().starts_with(b"CARGO_MANIFEST_")
        {
            command.env_remove(name);
        }
    }
    command
}

/// One executable that a build left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executable {
    /// The name of the binary, test or example.
    pub name: String,
    pub package: String,
    pub path: PathBuf,
    /// Whether it is a test harness.
    pub test: bool,
    /// Whether it is one of the files in a package's tests folder.
    pub integration: bool,
}

/// Runs `cargo ARGUMENTS --message-format=json-render-diagnostics` and returns what it built.
///
/// # Errors
/// When the build fails; its messages are on standard error.
pub fn build(arguments: &[&str]) -> Result<Vec<Executable>> {
    build_with(arguments, [])
}

/// The same with these variables in its environment.
///
/// # Errors
/// As [`build`].
pub fn build_with(
    arguments: &[&str],
    variables: impl IntoIterator<Item = (&'static str, OsString)>,
) -> Result<Vec<Executable>> {
    let mut command = command();
    command
        .args(arguments)
        .envs(variables)
        .arg("--message-format=json-render-diagnostics")
        .stderr(Stdio::inherit());
    let output = command.output().context("cannot run cargo")?;
    if !output.status.success() {
        bail!("cargo {} failed ({})", arguments.join(" "), output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .filter_map(|message: Value| executable(&message))
        .collect())
}

/// Builds an example of package `lastmile`, optimised.
///
/// # Errors
/// When the build fails.
pub fn example(name: &str) -> Result<PathBuf> {
    let built = build(&[
        "build",
        "--release",
        "--package",
        "lastmile",
        "--example",
        name,
    ])?;
    binary(&built, name)
}

/// The program of this name that a build left.
///
/// # Errors
/// When it left none.
pub fn binary(built: &[Executable], name: &str) -> Result<PathBuf> {
    built
        .iter()
        .find(|executable| executable.name == name && !executable.test)
        .map(|executable| executable.path.clone())
        .with_context(|| format!("cargo built no {name}"))
}

/// A program of crates.io in the cache; built there if it is missing.
///
/// # Errors
/// When it cannot be built.
pub fn installed(cache: &Cache, name: &str, version: &str) -> Result<PathBuf> {
    let folder = format!("{name}-{version}");
    let program = cache.path(&folder).join("bin").join(name);
    if program.is_file() {
        return Ok(program);
    }
    let _lock = cache.lock()?;
    println!(
        "Building {name} {version} by cargo install, into {}",
        cache.root().display()
    );
    let staged = cache.stage(&folder)?;
    let status = command()
        .args(["install", name, "--version", version])
        .args(["--locked", "--root"])
        .arg(&staged)
        .current_dir(&staged)
        .status()
        .context("cannot run cargo")?;
    if !status.success() {
        bail!("cargo install {name} failed ({status}); its messages are above");
    }
    cache.publish(&staged, &folder)?;
    Ok(program)
}

/// A copy of an executable in `folder` without debug information, which is nine tenths of it and
/// would only fill a virtual machine's memory.
///
/// # Errors
/// When it cannot be made.
pub fn without_debug_information(executable: &Path, folder: &Path) -> Result<PathBuf> {
    let name = executable
        .file_name()
        .with_context(|| format!("{} has no name", executable.display()))?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let copy = folder.join(name);
    let mut strip = Command::new("strip");
    strip
        .arg("--strip-debug")
        .arg("-o")
        .arg(&copy)
        .arg(executable);
    output_of(&mut strip)?;
    Ok(copy)
}

/// The executable in one of cargo's JSON messages, if it announces one.
fn executable(message: &Value) -> Option<Executable> {
    let package_id = message.get("package_id")?.as_str()?;
    // path+file:///folder/monitor#lastmile@0.1.0, or path+file:///folder/xtask#0.1.0
    let (url, fragment) = package_id.rsplit_once('#')?;
    let package = match fragment.split_once('@') {
        Some((name, _)) => name,
        None => url.rsplit('/').next()?,
    };
    Some(Executable {
        name: message.pointer("/target/name")?.as_str()?.to_owned(),
        package: package.to_owned(),
        path: message.get("executable")?.as_str()?.into(),
        test: message.pointer("/profile/test")?.as_bool()?,
        integration: message.pointer("/target/kind/0")? == "test",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_executable_in_a_message() {
        let message = serde_json::json!({
            "reason": "compiler-artifact",
            "package_id": "path+file:///somewhere/monitor#lastmile@0.1.0",
            "target": {"name": "veth", "kind": ["test"]},
            "profile": {"test": true},
            "executable": "/somewhere/target/debug/deps/veth-0123"
        });
        let found = executable(&message).unwrap();
        assert_eq!(
            (found.package.as_str(), found.name.as_str()),
            ("lastmile", "veth")
        );
        assert!(found.test && found.integration);
    }

    #[test]
    fn a_library_is_no_executable() {
        let message = serde_json::json!({
            "package_id": "path+file:///somewhere/xtask#0.1.0",
            "target": {"name": "lib", "kind": ["lib"]}, "profile": {"test": false}, "executable": null
        });
        assert_eq!(executable(&message), None);
    }
}
