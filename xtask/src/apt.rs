//! Downloads Debian packages and unpacks them, as any user, without installing anything.
//!
//! apt runs with its state and its downloads below the cache root, so it needs no privileges and
//! leaves the machine's own lists and locks alone; it reads the machine's own sources and proxy
//! settings and checks signatures as always.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{cache::Cache, process::output_of, programs::in_path};

/// The variable that names a Debian mirror for what the machine's own sources do not have.
pub const MIRROR_VARIABLE: &str = "LASTMILE_DEBIAN_MIRROR";

const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// The Debian releases that hold what this project needs: Linux 6.1 and rustc-web, and Linux 6.12.
const DEBIAN_SUITES: [&str; 2] = ["bookworm", "trixie"];

/// Whose packages an [`Apt`] sees.
enum Sources {
    /// Those in the machine's own configuration.
    Machine,
    /// The release of Debian with this name, at a mirror.
    Debian(&'static str),
}

/// The places packages can come from, the machine's own sources first. A place is opened, which
/// reads its package lists, only when the ones before it did not have what is wanted.
pub struct Places<'cache> {
    cache: &'cache Cache,
    /// Another architecture, whose packages are seen too.
    foreign: Option<&'static str>,
    /// `None`: it has no lists for the other architecture.
    opened: Vec<Option<Apt>>,
}

impl<'cache> Places<'cache> {
    pub fn new(cache: &'cache Cache) -> Self {
        Self {
            cache,
            foreign: None,
            opened: Vec::new(),
        }
    }

    /// Packages of `architecture` (`NAME:ARCHITECTURE`) beside this machine's own.
    pub fn foreign(cache: &'cache Cache, architecture: &'static str) -> Self {
        Self {
            foreign: Some(architecture),
            ..Self::new(cache)
        }
    }

    /// The first result of `look`; it gets each place until it has found what it wants.
    ///
    /// # Errors
    /// When a place cannot be opened, `look` fails, or no place has `what`.
    pub fn find<T>(
        &mut self,
        what: &str,
        mut look: impl FnMut(&Apt) -> Result<Option<T>>,
    ) -> Result<T> {
        let all = std::iter::once(Sources::Machine)
            .chain(DEBIAN_SUITES.into_iter().map(Sources::Debian))
            .enumerate();
        for (index, sources) in all {
            if index == self.opened.len() {
                let opened = Apt::open(self.cache, &sources, self.foreign)
                    .with_context(|| format!("looking for {what}"));
                self.opened.push(match opened {
                    Err(error) if self.foreign.is_some() => {
                        println!("  {error:#}");
                        None
                    }
                    opened => Some(opened?),
                });
            }
            if let Some(apt) = &self.opened[index]
                && let Some(found) = look(apt)?
            {
                return Ok(found);
            }
        }
        let asked: Vec<_> = self
            .opened
            .iter()
            .flatten()
            .map(|apt| apt.name.as_str())
            .collect();
        bail!(
            "there is no {what} in {}: set {MIRROR_VARIABLE} to the address of a Debian mirror \
             that has it (http://HOST/debian)",
            asked.join(", nor in ")
        )
    }
}

pub struct Apt {
    /// State, lists and downloads.
    folder: PathBuf,
    /// A folder with our own sources file, instead of the machine's.
    sources: Option<PathBuf>,
    /// Another architecture, whose packages are seen too.
    foreign: Option<&'static str>,
    /// For messages.
    name: String,
}

impl Apt {
    /// Whether this machine has apt at all.
    pub fn is_available() -> bool {
        ["apt-get", "apt-cache", "dpkg-deb"]
            .into_iter()
            .all(|program| in_path(program).is_some())
    }

    fn open(cache: &Cache, sources: &Sources, foreign: Option<&'static str>) -> Result<Self> {
        // Lists of its own: those of one architecture only would be thrown away.
        let suffix = foreign.map_or(String::new(), |architecture| format!("-{architecture}"));
        let apt = match sources {
            Sources::Machine => Self {
                folder: cache.path(&format!("apt/machine{suffix}")),
                sources: None,
                foreign,
                name: "this machine's apt sources".to_owned(),
            },
            Sources::Debian(suite) => {
                let folder = cache.path(&format!("apt/{suite}{suffix}"));
                let parts = folder.join("sources");
                fs::create_dir_all(&parts)
                    .with_context(|| format!("cannot create {}", parts.display()))?;
                let mirror = debian_mirror(cache)?;
                let text = format!(
                    "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n\
                     Signed-By: {}\n",
                    debian_keyring(cache)?.display()
                );
                fs::write(parts.join("debian.sources"), text)
                    .with_context(|| format!("cannot write into {}", parts.display()))?;
                Self {
                    folder,
                    sources: Some(parts),
                    foreign,
                    name: format!("Debian {suite} at {mirror}"),
                }
            }
        };
        for below in ["state/lists/partial", "cache/archives/partial"] {
            let path = apt.folder.join(below);
            fs::create_dir_all(&path)
                .with_context(|| format!("cannot create {}", path.display()))?;
        }
        apt.run(apt.command("apt-get").arg("update"))
            .with_context(|| format!("cannot read the package lists of {}", apt.name))?;
        Ok(apt)
    }

    /// The names of all packages that begin with `prefix`.
    ///
    /// # Errors
    /// When apt fails.
    pub fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let output = self.run(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(output.lines().map(str::to_owned).collect())
    }

    /// The version that would be taken, if there is one.
    ///
    /// # Errors
    /// When apt fails.
    pub fn candidate(&self, package: &str) -> Result<Option<String>> {
        let output = self.run(self.command("apt-cache").args(["policy", package]))?;
        Ok(output
            .lines()
            .find_map(|line| line.trim().strip_prefix("Candidate: "))
            .filter(|version| *version != "(none)")
            .map(str::to_owned))
    }

    /// Unpacks `packages` and whatever they depend on that this machine does not have into `folder`.
    ///
    /// # Errors
    /// When a package cannot be had or unpacked.
    pub fn unpack_with_dependencies(&self, packages: &[&str], folder: &Path) -> Result<()> {
        let archives = self.archives()?;
        let mut command = self.command("apt-get");
        command
            .args([
                "--yes",
                "--no-install-recommends",
                "--download-only",
                "install",
            ])
            .args(packages);
        self.run(&mut command)?;
        unpack_all(&archives, folder)
    }

    /// Unpacks one package, alone, into `folder`.
    ///
    /// # Errors
    /// When the package cannot be had or unpacked.
    pub fn unpack_alone(&self, package: &str, folder: &Path) -> Result<()> {
        let archives = self.archives()?;
        let mut command = self.command("apt-get");
        command.args(["download", package]).current_dir(&archives);
        self.run(&mut command)?;
        unpack_all(&archives, folder)
    }

    /// The folder for downloads, emptied.
    fn archives(&self) -> Result<PathBuf> {
        let archives = self.folder.join("cache/archives");
        for package in debs(&archives)? {
            fs::remove_file(&package)
                .with_context(|| format!("cannot remove {}", package.display()))?;
        }
        Ok(archives)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let mut option = |key: &str, value: OsString| {
            let mut text = OsString::from(format!("{key}="));
            text.push(value);
            command.arg("-o").arg(text);
        };
        option("Dir::State", self.folder.join("state").into());
        option("Dir::Cache", self.folder.join("cache").into());
        // The lock protects the system's package database, which is only read here.
        option("Debug::NoLocking", "1".into());
        // Root would otherwise download as a user who cannot write into root's cache.
        option("APT::Sandbox::User", "root".into());
        option("Acquire::Languages", "none".into());
        for unused in ["DEP-11", "DEP-11-icons-small", "DEP-11-icons", "CNF"] {
            let key = format!("Acquire::IndexTargets::deb::{unused}::DefaultEnabled");
            option(&key, "false".into());
        }
        option("Acquire::Retries", "3".into());
        if let Some(foreign) = self.foreign {
            // Set-up is for x86-64 only.
            for architecture in ["amd64", foreign] {
                option("APT::Architectures::", architecture.into());
            }
        }
        if let Some(sources) = &self.sources {
            option("Dir::Etc::sourcelist", "/dev/null".into());
            option("Dir::Etc::sourceparts", sources.into());
        }
        command
            .env("LC_ALL", "C")
            .env("DEBIAN_FRONTEND", "noninteractive");
        command
    }

    fn run(&self, command: &mut Command) -> Result<String> {
        output_of(command)
    }
}

fn debs(folder: &Path) -> Result<Vec<PathBuf>> {
    Ok(fs::read_dir(folder)
        .with_context(|| format!("cannot read {}", folder.display()))?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .collect())
}

/// Unpacks the packages in `archives` and removes them; their names, which tell the versions, are
/// left in a file beside what they held.
fn unpack_all(archives: &Path, folder: &Path) -> Result<()> {
    let packages = debs(archives)?;
    let names: String = packages
        .iter()
        .filter_map(|path| path.file_name())
        .map(|name| format!("{}\n", name.display()))
        .collect();
    fs::create_dir_all(folder)
        .and_then(|()| fs::write(folder.join("packages"), names))
        .with_context(|| format!("cannot write into {}", folder.display()))?;
    for package in packages {
        output_of(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&package)
                .arg(folder),
        )?;
        fs::remove_file(&package)
            .with_context(|| format!("cannot remove {}", package.display()))?;
    }
    Ok(())
}

/// The mirror named by [`MIRROR_VARIABLE`], else the one this machine gets its own Debian from,
/// else (Ubuntu) the one in the package of the machine's own archive that knows Debian's.
fn debian_mirror(cache: &Cache) -> Result<String> {
    if let Some(mirror) = env::var_os(MIRROR_VARIABLE).filter(|mirror| !mirror.is_empty()) {
        return Ok(mirror.to_string_lossy().trim_end_matches('/').to_owned());
    }
    let machine = Apt {
        folder: cache.path("apt/machine"),
        sources: None,
        foreign: None,
        name: String::new(),
    };
    let targets = machine.run(machine.command("apt-get").args([
        "indextargets",
        "--format",
        "$(ORIGIN) $(LABEL) $(REPO_URI)",
        "Created-By: Packages",
    ]))?;
    if let Some(uri) = targets
        .lines()
        .find_map(|line| line.strip_prefix("Debian Debian "))
    {
        return Ok(uri.trim_end_matches('/').to_owned());
    }
    mirror_of_template(&template(cache)?).with_context(|| {
        format!(
            "this machine's apt knows no Debian mirror, and Debian's builds of the kernels are \
             needed: set {MIRROR_VARIABLE} to the address of one (http://HOST/debian)"
        )
    })
}

/// What python-apt, and so every Ubuntu, knows about Debian's archive.
fn template(cache: &Cache) -> Result<String> {
    const FILE: &str = "usr/share/python-apt/templates/Debian.info";
    let installed = Path::new("/").join(FILE);
    let folder = cache.path("apt/debian-template");
    let path = if installed.is_file() {
        installed
    } else {
        Apt::open(cache, &Sources::Machine, None)?
            .unpack_alone("python-apt-common", &folder)
            .with_context(|| format!("no Debian mirror is known; {MIRROR_VARIABLE} names one"))?;
        folder.join(FILE)
    };
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The archive of Debian's releases in a template of python-apt.
fn mirror_of_template(text: &str) -> Option<String> {
    let uri = text
        .lines()
        .find_map(|line| line.strip_prefix("BaseURI:"))?
        .trim()
        .trim_end_matches('/');
    // A minimal system cannot check certificates; apt checks signatures either way.
    Some(match uri.strip_prefix("https://") {
        Some(rest) => format!("http://{rest}"),
        None => uri.to_owned(),
    })
}

/// Debian's keys: the machine's, else (Ubuntu) those in the package of the machine's own archive.
fn debian_keyring(cache: &Cache) -> Result<PathBuf> {
    if Path::new(KEYRING).is_file() {
        return Ok(KEYRING.into());
    }
    let folder = cache.path("apt/debian-keys");
    let keyring = folder.join(KEYRING.trim_start_matches('/'));
    if !keyring.is_file() {
        let machine = Apt::open(cache, &Sources::Machine, None)?;
        machine
            .unpack_alone("debian-archive-keyring", &folder)
            .context("Debian's signatures cannot be checked without its keys")?;
    }
    Ok(keyring)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_suite_of_a_template_tells_the_mirror() {
        let template = "X-Exclude-Suites: buzz\n\nSuite: {series}\nRepositoryType: deb\n\
            BaseURI: https://archive.example/debian/\nMirrorsFile: Debian.mirrors\n\n\
            Suite: {series}-security\nBaseURI: https://security.example/\n";
        let mirror = mirror_of_template(template);
        assert_eq!(mirror.as_deref(), Some("http://archive.example/debian"));
        assert_eq!(mirror_of_template("Suite: x\n"), None);
    }
}
