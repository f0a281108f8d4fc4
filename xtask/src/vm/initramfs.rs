//! What is in a machine: busybox, bash, iproute2, nginx, modules, and what the caller adds.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::OsStr,
    fs::{self, File},
    io::BufWriter,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};

use super::{Init, VIDEO, VmSpec, archive::Archive, modules, systemd};
use crate::{
    cache::Cache,
    kernel::KernelFiles,
    ladder,
    process::output_of,
    programs::{self, FoundProgram},
};

const INIT: &str = include_str!("init");
const RUN_COMMAND: &str = include_str!("run-command");

/// Folders that exist before anything is put into them.
const FOLDERS: [&str; 18] = [
    "/bin",
    "/dev",
    "/etc",
    "/lib",
    "/lib/x86_64-linux-gnu",
    "/lib64",
    "/mnt",
    "/modules",
    "/out",
    "/proc",
    "/root",
    "/run",
    "/sys",
    "/tmp",
    "/usr",
    "/usr/lib",
    "/var",
    "/var/log",
];

/// Programs that come from the cache or this machine, besides busybox.
const PROGRAMS: [&str; 5] = ["bash", "ip", "tc", "ss", "nginx"];

/// What a router of the lab runs: one by FRR, whose `bgpd` speaks BMP, or one by BIRD.
const ROUTER_PROGRAMS: [&str; 3] = ["zebra", "bgpd", "bird"];

/// SSH, as a user of it has it.
const SSH_PROGRAMS: [&str; 3] = ["dropbear", "dropbearkey", "dbclient"];

/// The part of FRR's `bgpd` that speaks BMP, where it looks for it.
const BMP_MODULE: &str = "usr/lib/x86_64-linux-gnu/frr/modules/bgpd_bmp.so";

/// Where the loader looks without being told.
const LIBRARIES: &str = "/lib/x86_64-linux-gnu";

/// Users that web servers drop their privileges to. FRR's daemons want a group whose members may
/// use their terminals, and root in it.
const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/var/www:/bin/false\n\
    nobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\nwww-data:x:33:\nnogroup:x:65534:\nnobody:x:65534:\n\
    frrvty:x:990:root\n";

/// Writes the archive to `to`.
///
/// # Errors
/// When something that goes into it cannot be read.
pub fn build(cache: &Cache, kernel: &KernelFiles, spec: &VmSpec, to: &Path) -> Result<()> {
    let busybox = programs::find(cache, "busybox")?;
    let mut contents = Contents::default();
    contents.program(&busybox)?;
    for applet in output_of(busybox.command().arg("--list"))?.lines() {
        contents
            .links
            .insert(format!("/bin/{applet}"), "busybox".to_owned());
    }
    for name in PROGRAMS {
        contents.program(&programs::find(cache, name)?)?;
    }
    if spec.routers {
        for name in ROUTER_PROGRAMS {
            contents.program(&programs::find(cache, name)?)?;
        }
        contents.bmp_module(&programs::find(cache, "bgpd")?)?;
    }
    if spec.video {
        for name in SSH_PROGRAMS {
            contents.program(&programs::find(cache, name)?)?;
        }
        for (from, to) in ladder::files(cache, Path::new(VIDEO))? {
            contents.files.insert(guest_path(&to)?, from);
        }
    }
    // busybox's own shell prefers its applets to the programs in PATH.
    contents
        .links
        .insert("/bin/sh".to_owned(), "bash".to_owned());
    for path in &spec.binaries {
        contents.program(&FoundProgram {
            path: path.clone(),
            root: None,
        })?;
    }
    if spec.init == Init::Systemd {
        systemd::add(&mut contents, cache)?;
    }
    contents.delay_distributions(&programs::find(cache, "tc")?);
    for module in modules::load(&kernel.modules, &busybox)? {
        let line = format!("{} {}\n", module.name, module.parameters);
        contents.order.push_str(&line);
        contents
            .bytes
            .insert(format!("/modules/{}.ko", module.name), module.contents);
    }
    for (from, to) in &spec.files {
        contents.files.insert(guest_path(to)?, from.clone());
    }
    contents.text("/etc/passwd", PASSWD);
    contents.text("/etc/group", GROUP);
    contents.text("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n");
    contents.write(spec, to)
}

fn guest_path(path: &Path) -> Result<String> {
    let text = path
        .to_str()
        .with_context(|| format!("{}: not UTF-8", path.display()))?;
    Ok(format!("/{}", text.trim_start_matches('/')))
}

/// What a machine will hold.
#[derive(Default)]
pub(super) struct Contents {
    /// Guest path to the file here.
    files: BTreeMap<String, PathBuf>,
    bytes: BTreeMap<String, Vec<u8>>,
    links: BTreeMap<String, String>,
    /// The names of the modules and their parameters, in the order in which they load.
    order: String,
}

impl Contents {
    pub(super) fn text(&mut self, path: &str, text: &str) {
        self.bytes.insert(path.to_owned(), text.as_bytes().to_vec());
    }

    pub(super) fn file(&mut self, path: &str, from: &Path) {
        self.files.insert(path.to_owned(), from.to_owned());
    }

    pub(super) fn link(&mut self, path: &str, target: &str) {
        self.links.insert(path.to_owned(), target.to_owned());
    }

    /// Puts a program into /bin, in place of an applet of that name, and its libraries beside it.
    pub(super) fn program(&mut self, program: &FoundProgram) -> Result<()> {
        let name = program
            .path
            .file_name()
            .and_then(OsStr::to_str)
            .with_context(|| format!("{} has no name", program.path.display()))?;
        self.program_at(program, &format!("/bin/{name}"))
    }

    /// Puts a program where `path` says, and its libraries where the loader looks.
    pub(super) fn program_at(&mut self, program: &FoundProgram, path: &str) -> Result<()> {
        self.links.remove(path);
        self.files.insert(path.to_owned(), program.path.clone());
        for library in libraries(program)? {
            let name = library
                .file_name()
                .and_then(OsStr::to_str)
                .unwrap_or_default();
            // The loader's path is fixed in every program, the libraries' are not.
            let folder = if name.starts_with("ld-linux") {
                "/lib64"
            } else {
                LIBRARIES
            };
            self.files.insert(format!("{folder}/{name}"), library);
        }
        Ok(())
    }

    fn bmp_module(&mut self, bgpd: &FoundProgram) -> Result<()> {
        let root = bgpd.root.as_deref().unwrap_or(Path::new("/"));
        let module = bgpd.beside(root.join(BMP_MODULE));
        self.program_at(&module, &format!("/{BMP_MODULE}"))
    }

    /// The tables behind `netem delay ... distribution normal`, where tc looks for them.
    fn delay_distributions(&mut self, tc: &FoundProgram) {
        const FOLDER: &str = "usr/lib/x86_64-linux-gnu/tc";
        let root = tc.root.as_deref().unwrap_or(Path::new("/"));
        for entry in fs::read_dir(root.join(FOLDER))
            .into_iter()
            .flatten()
            .flatten()
        {
            let name = entry.file_name();
            self.files
                .insert(format!("/{FOLDER}/{}", name.display()), entry.path());
        }
    }

    fn write(&self, spec: &VmSpec, to: &Path) -> Result<()> {
        let failed = || format!("cannot write {}", to.display());
        let file = File::create(to).with_context(failed)?;
        let mut archive = Archive::new(BufWriter::new(file));
        let mut folders: BTreeSet<String> = FOLDERS.map(str::to_owned).into();
        let paths = self.files.keys().chain(self.bytes.keys());
        for path in paths.chain(self.links.keys()) {
            folders.extend(parents(path));
        }
        for folder in &folders {
            archive.directory(folder).with_context(failed)?;
        }
        // Where /init's messages go before it has mounted /dev.
        archive
            .character_device("/dev/console", [5, 1])
            .with_context(failed)?;
        archive.link("/sbin", "bin").with_context(failed)?;
        for (path, target) in &self.links {
            archive.link(path, target).with_context(failed)?;
        }
        for (path, from) in &self.files {
            let bytes =
                fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
            archive.file(path, 0o755, &bytes).with_context(failed)?;
        }
        for (path, bytes) in &self.bytes {
            archive.file(path, 0o644, bytes).with_context(failed)?;
        }
        archive
            .file("/modules/order", 0o644, self.order.as_bytes())
            .with_context(failed)?;
        archive
            .file("/command", 0o755, script(spec).as_bytes())
            .with_context(failed)?;
        archive
            .file("/run-command", 0o755, RUN_COMMAND.as_bytes())
            .with_context(failed)?;
        archive
            .file("/init", 0o755, INIT.as_bytes())
            .with_context(failed)?;
        archive.finish().with_context(failed)?;
        Ok(())
    }
}

/// The command as a script, so that /init need not know about words and quotes.
fn script(spec: &VmSpec) -> String {
    let mut script = String::from("#!/bin/bash\n");
    for (name, value) in &spec.environment {
        script.push_str(&format!("export {name}={}\n", quoted(value)));
    }
    script.push_str("cd /root\nexec");
    for word in &spec.command {
        script.push(' ');
        script.push_str(&quoted(word));
    }
    script.push('\n');
    script
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// `/a` and `/a/b` for `/a/b/c`.
fn parents(path: &str) -> impl Iterator<Item = String> + '_ {
    path.match_indices('/')
        .filter(|(at, _)| *at > 0)
        .map(|(at, _)| path[..at].to_owned())
}

/// The shared libraries a program loads, the loader among them.
fn libraries(program: &FoundProgram) -> Result<Vec<PathBuf>> {
    let mut ldd = std::process::Command::new("ldd");
    ldd.arg(&program.path);
    if let Some(paths) = program.library_path() {
        ldd.env("LD_LIBRARY_PATH", paths);
    }
    let output = ldd.output().context("cannot run ldd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // ldd fails for a static program, and says so.
    parse_ldd(&text).with_context(|| format!("ldd {}", program.path.display()))
}

/// Reads `libc.so.6 => /lib/.../libc.so.6 (0x...)` and `/lib64/ld-linux-x86-64.so.2 (0x...)`.
fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let target = line.split_once(" => ").map_or(line, |(_, target)| target);
        if target == "not found" {
            anyhow::bail!("{line}");
        }
        if let Some((path, _)) = target.split_once(" (")
            && path.starts_with('/')
        {
            found.push(path.into());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ldd_prints() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\
            \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f00)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f01)\n";
        let expected: [PathBuf; 2] = [
            "/lib/x86_64-linux-gnu/libc.so.6".into(),
            "/lib64/ld-linux-x86-64.so.2".into(),
        ];
        assert_eq!(parse_ldd(text).unwrap(), expected);
        assert!(parse_ldd("\tstatically linked\n").unwrap().is_empty());
        assert!(parse_ldd("\tlibz.so.1 => not found\n").is_err());
    }

    #[test]
    fn words_keep_their_quotes_and_spaces() {
        assert_eq!(quoted("it's here"), r"'it'\''s here'");
    }
}
