//! Finds the kernel modules a machine needs, in the order in which they can be loaded.
//!
//! The unpacked kernel package has no `modules.dep` (that is made when it is installed), so the
//! dependencies are read from the modules themselves, as depmod does.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use crate::{process::output_of, programs::FoundProgram};

/// What the lab and the tests use, where it is not built into the kernel, with parameters: some
/// would make devices that nobody asked for.
const WANTED: [&str; 34] = [
    // The ways out of the machine, needed first.
    "virtio_pci",
    "virtio_console",
    // Links.
    "veth",
    "macvlan",
    "dummy numdummies=0",
    "ifb numifbs=0",
    "8021q",
    "bridge",
    "bonding max_bonds=0",
    "tun",
    "ipip",
    "ip_gre",
    "ppp_generic",
    "pppoe",
    "mpls_router",
    "mpls_iptunnel",
    // Queues, filters and actions.
    "sch_tbf",
    "sch_htb",
    "sch_prio",
    "sch_netem",
    "sch_red",
    "sch_codel",
    "sch_fq",
    "sch_fq_codel",
    "sch_cake",
    "sch_ingress",
    "cls_bpf",
    "cls_u32",
    "cls_flower",
    "cls_matchall",
    "act_gact",
    "act_police",
    "act_mirred",
    // Congestion control.
    "tcp_bbr",
];

/// A module, ready to be loaded.
pub struct Module {
    pub name: String,
    pub parameters: &'static str,
    pub contents: Vec<u8>,
}

/// Reads the wanted modules, each after those it depends on. `folder` is `lib/modules/RELEASE`.
///
/// # Errors
/// When a module cannot be read.
pub fn load(folder: &Path, busybox: &FoundProgram) -> Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(&folder.join("kernel"), &mut files)?;
    let mut modules = Vec::new();
    let mut seen = BTreeSet::new();
    for wanted in WANTED {
        let (name, parameters) = wanted.split_once(' ').unwrap_or((wanted, ""));
        add(name, parameters, &files, busybox, &mut seen, &mut modules)?;
    }
    Ok(modules)
}

/// Maps the names of all modules below `folder` to their files.
fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> Result<()> {
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let path = entry
            .with_context(|| format!("cannot read {}", folder.display()))?
            .path();
        if path.is_dir() {
            index(&path, files)?;
        } else if let Some(name) = path.file_name().and_then(|name| name.to_str())
            && let Some((name, _)) = name.split_once(".ko")
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

fn add(
    name: &str,
    parameters: &'static str,
    files: &BTreeMap<String, PathBuf>,
    busybox: &FoundProgram,
    seen: &mut BTreeSet<String>,
    modules: &mut Vec<Module>,
) -> Result<()> {
    // A name without a file is built into the kernel, or this kernel does not have it.
    let Some(path) = files.get(name) else {
        return Ok(());
    };
    if !seen.insert(name.to_owned()) {
        return Ok(());
    }
    let contents = read(path, busybox)?;
    for dependency in dependencies(&contents) {
        add(&dependency, "", files, busybox, seen, modules)?;
    }
    modules.push(Module {
        name: name.to_owned(),
        parameters,
        contents,
    });
    Ok(())
}

/// The module's bytes; 6.1's are plain, 6.12's compressed with xz, which busybox knows.
fn read(path: &Path, busybox: &FoundProgram) -> Result<Vec<u8>> {
    if path.extension().is_some_and(|extension| extension == "ko") {
        return fs::read(path).with_context(|| format!("cannot read {}", path.display()));
    }
    let mut command = busybox.command();
    let output = command
        .arg("xzcat")
        .arg(path)
        .output()
        .context("cannot run busybox xzcat")?;
    if output.status.success() {
        Ok(output.stdout)
    } else {
        output_of(&mut command).map(String::into_bytes)
    }
}

/// The modules named by the `depends=` string in the section `.modinfo`.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_dependencies_of_a_module() {
        let module = b"\x7fELF...\0license=GPL\0depends=mii,cfg80211\0name=x\0";
        assert_eq!(dependencies(module), ["mii", "cfg80211"]);
        assert!(dependencies(b"\0license=GPL\0depends=\0name=x\0").is_empty());
        assert!(dependencies(b"no module").is_empty());
    }
}
