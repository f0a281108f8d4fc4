//! What stays in the kernel while no daemon runs: maps and links pinned on a BPF file system.
//!
//! ```text
//! FOLDER/maps-HASH/NAME    the maps of one layout, and MEMORY
//! FOLDER/links/NAMESPACE-INDEX-in|out    one link for each hook, whatever the layout
//! FOLDER/filters/NAMESPACE-INDEX    before 6.6, a device with filters instead: no more than its name
//! FOLDER/filters-elsewhere/NAMESPACE-INDEX    the same, of filters that count into other maps by now
//! ```
//!
//! A hook has one link (or, before 6.6, one filter), and a new daemon swaps its program for its
//! own: at no moment is there none, or two. Where the maps of the two have another layout the new
//! program begins with empty ones, and the old ones go once no hook uses them any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    fs::{self, File},
    io,
    os::{fd::AsRawFd as _, unix::ffi::OsStrExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapInfo;

use crate::{config::DEFAULT_BPF_DIRECTORY, netlink::namespace};

/// `statfs` of a BPF file system (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

const LINKS: &str = "links";
const FILTERS: &str = "filters";
const ELSEWHERE: &str = "filters-elsewhere";
const MAPS: &str = "maps-";

/// Raise it when a field of [`Memory`] changes.
const MEMORY_VERSION: u32 = 2;

/// What one daemon leaves for the next. All zero: there was none before.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Keys the ids of flows, so that a flow keeps its own.
    pub secret: [u64; 2],
    /// Since when counters count, µs since 1970.
    pub start_us: u64,
    /// Monotonic times, ns: flows that began before were seen ...
    pub swept_ns: u64,
    /// ... and flows that had ended before were closed, with all that was observed of them.
    pub closed_ns: u64,
    pub reports_received: u64,
    pub flows_removed: u64,
    /// Totals at `closed_ns`, of which the next window takes the difference.
    pub before: [u64; 7],
}

/// A map as this build would create it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    pub map_type: u32,
    pub key_size: u32,
    pub value_size: u32,
    pub max_entries: u32,
    pub flags: u32,
}

/// One daemon's folder on a BPF file system; nobody else uses it meanwhile.
#[derive(Debug)]
pub struct Pins {
    folder: PathBuf,
    maps: PathBuf,
    /// Tells the devices of this network namespace from those of another.
    namespace: u64,
    /// Whether the maps of an earlier run are used.
    resumed: bool,
    _lock: File,
}

/// The folder is another process's.
#[derive(Debug, thiserror::Error)]
#[error("another lastmile uses {}", .0.display())]
pub struct InUse(PathBuf);

impl Pins {
    /// Takes the folder, or where none is configured the usual one, if that is there.
    ///
    /// # Errors
    /// When it is on no BPF file system, cannot be written, or another daemon has it ([`InUse`]).
    pub fn open(configured: Option<&Path>) -> Result<Option<Self>> {
        let usual = Path::new(DEFAULT_BPF_DIRECTORY);
        match configured {
            Some(folder) => Self::take(folder).map(Some),
            None if is_bpf_file_system(usual).unwrap_or(false) => Self::take(usual).map(Some),
            None => Ok(None),
        }
    }

    fn take(folder: &Path) -> Result<Self> {
        if !is_bpf_file_system(folder)
            .with_context(|| format!("restart.bpf_directory: {}", folder.display()))?
        {
            bail!(
                "restart.bpf_directory: {} is on no BPF file system: mount one there \
                 (`mount -t bpf bpf {}`; lastmile-bpf.service does it)",
                folder.display(),
                folder.display()
            );
        }
        let lock = File::open(folder).with_context(|| format!("{}", folder.display()))?;
        // SAFETY: a descriptor that is open.
        if unsafe { libc::flock(lock.as_raw_fd(), libc::LOCK_EX | libc::LOCK_NB) } != 0 {
            let error = io::Error::last_os_error();
            if error.kind() == io::ErrorKind::WouldBlock {
                return Err(InUse(folder.to_owned()).into());
            }
            return Err(error).with_context(|| format!("cannot lock {}", folder.display()));
        }
        Ok(Self {
            folder: folder.to_owned(),
            maps: PathBuf::new(),
            namespace: namespace::current()?,
            resumed: false,
            _lock: lock,
        })
    }

    /// Chooses the folder for maps like these. Pinned maps are reused without a check by aya, so
    /// that each is held to what it should be here.
    pub(super) fn use_layout(&mut self, expected: &BTreeMap<String, Expected>) -> Result<()> {
        self.maps = self.folder.join(format!("{MAPS}{:016x}", hash(expected)));
        make_folder(&self.maps)?;
        for below in [LINKS, FILTERS, ELSEWHERE] {
            make_folder(&self.folder.join(below))?;
        }
        let mut foreign = entries(&self.folder.join(FILTERS))?;
        foreign.retain(|note| {
            parse_note(note).is_some_and(|(namespace, _)| namespace != self.namespace)
        });
        if !foreign.is_empty() {
            // They go on counting, into maps that are nobody's then.
            tracing::warn!(
                "an earlier run left filters in another network namespace, and this one begins \
                 anew; `lastmile detach`, as root, removes them"
            );
            remove_folder(&self.maps)?;
            make_folder(&self.maps)?;
            for note in foreign {
                if let Some(name) = note.file_name() {
                    make_folder(&self.folder.join(ELSEWHERE).join(name))?;
                }
                remove_folder(&note)?;
            }
        }
        let fits = |(name, expected): (&String, &Expected)| match MapInfo::from_pin(self.map(name))
        {
            Ok(info) => {
                info.key_size() == expected.key_size
                    && info.value_size() == expected.value_size
                    && info.max_entries() == expected.max_entries
                    && info.map_flags() == expected.flags
            }
            Err(_) => false,
        };
        self.resumed = expected.iter().all(fits);
        if self.resumed {
            tracing::info!("the flows of the last run go on");
            return Ok(());
        }
        if !is_empty(&self.maps)? {
            // A start that did not get that far, or another hand in our folder.
            tracing::warn!(
                "{}: what is there is not whole; it begins anew",
                self.maps.display()
            );
            remove_folder(&self.maps)?;
            make_folder(&self.maps)?;
        }
        if !self.other_layouts()?.is_empty() {
            tracing::warn!(
                "the flow table has another layout than the last run's: every flow begins anew"
            );
        }
        Ok(())
    }

    /// Whether the maps are those of an earlier run.
    pub fn resumed(&self) -> bool {
        self.resumed
    }

    pub(super) fn map(&self, name: &str) -> PathBuf {
        self.maps.join(name)
    }

    /// Where the link of one hook is pinned.
    pub(super) fn link(&self, index: u32, egress: bool) -> PathBuf {
        let direction = if egress { "out" } else { "in" };
        let name = format!("{}-{index}-{direction}", self.namespace);
        self.folder.join(LINKS).join(name)
    }

    fn filters(&self, index: u32) -> PathBuf {
        let name = format!("{}-{index}", self.namespace);
        self.folder.join(FILTERS).join(name)
    }

    /// Notes that a device has filters of ours, which stay when this folder goes.
    pub(super) fn note_filters(&self, index: u32) -> Result<PathBuf> {
        let note = self.filters(index);
        make_folder(&note)?;
        Ok(note)
    }

    /// The devices that may have filters of ours, by index, of each network namespace, by inode
    /// number.
    pub fn filters_noted(&self) -> Result<BTreeMap<u64, BTreeSet<u32>>> {
        let mut noted: BTreeMap<u64, BTreeSet<u32>> = BTreeMap::new();
        for note in self.notes()? {
            if let Some((namespace, index)) = parse_note(&note) {
                noted.entry(namespace).or_default().insert(index);
            }
        }
        Ok(noted)
    }

    fn notes(&self) -> Result<Vec<PathBuf>> {
        let mut notes = entries_if_there(&self.folder.join(FILTERS))?;
        notes.extend(entries_if_there(&self.folder.join(ELSEWHERE))?);
        Ok(notes)
    }

    /// Removes the links of every device that is not in `watched`, and the maps of other layouts.
    /// Once every watched device has our programs: before, they are in use.
    pub fn forget_others(&self, watched: &BTreeSet<u32>) -> Result<()> {
        let ours: BTreeSet<PathBuf> = watched
            .iter()
            .flat_map(|&index| [self.link(index, false), self.link(index, true)])
            .collect();
        for link in entries(&self.folder.join(LINKS))? {
            if !ours.contains(&link) {
                remove_file(&link)?;
                tracing::info!("removed {}, which an earlier run had left", link.display());
            }
        }
        let with_filters: BTreeSet<PathBuf> =
            watched.iter().map(|&index| self.filters(index)).collect();
        for note in self.notes()? {
            // Filters of another namespace are `lastmile detach`'s: this may not go there.
            let namespace = parse_note(&note).map(|(namespace, _)| namespace);
            if namespace == Some(self.namespace) && !with_filters.contains(&note) {
                remove_folder(&note)?;
            }
        }
        for maps in self.other_layouts()? {
            remove_folder(&maps)?;
            tracing::info!("removed {}, which an earlier run had left", maps.display());
        }
        Ok(())
    }

    fn other_layouts(&self) -> Result<Vec<PathBuf>> {
        let mut folders = map_folders(&self.folder)?;
        folders.retain(|folder| *folder != self.maps);
        Ok(folders)
    }

    /// Removes everything: links, and with them the programs, then the maps. Of filters the notes of
    /// network namespaces that have none any more, by inode number.
    pub fn remove(self, clean: &BTreeSet<u64>) -> Result<u64> {
        let mut removed = 0;
        for link in entries_if_there(&self.folder.join(LINKS))? {
            remove_file(&link)?;
            removed += 1;
        }
        for note in self.notes()? {
            if parse_note(&note).is_none_or(|(namespace, _)| clean.contains(&namespace)) {
                remove_folder(&note)?;
            }
        }
        for below in [LINKS, FILTERS, ELSEWHERE] {
            let folder = self.folder.join(below);
            if folder.is_dir() && is_empty(&folder)? {
                remove_folder(&folder)?;
            }
        }
        for maps in map_folders(&self.folder)? {
            remove_folder(&maps)?;
        }
        Ok(removed)
    }

    /// The same when every device of this network namespace was let go.
    pub fn remove_here(self) -> Result<u64> {
        let here = self.namespace;
        self.remove(&[here].into())
    }
}

/// Whether `folder` is on a BPF file system.
///
/// # Errors
/// When it cannot be looked at.
pub fn is_bpf_file_system(folder: &Path) -> io::Result<bool> {
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes())?;
    // SAFETY: a structure of plain integers.
    let mut about: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are valid during the call.
    if unsafe { libc::statfs(path.as_ptr(), &raw mut about) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The type of the field differs between architectures; the number has 32 bits.
    Ok(about.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC)
}

/// A hash of what the contents of the maps depend on.
fn hash(expected: &BTreeMap<String, Expected>) -> u64 {
    let mut text = format!("{} {MEMORY_VERSION}", env!("LASTMILE_LAYOUT"));
    for (name, map) in expected {
        let _ = write!(text, " {name} {map:?}");
    }
    // FNV-1a (Fowler, Noll, Vo): the same in every build, and only accidents matter.
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// The namespace and the device that a note of filters is about.
fn parse_note(note: &Path) -> Option<(u64, u32)> {
    let (namespace, index) = note.file_name()?.to_str()?.split_once('-')?;
    Some((namespace.parse().ok()?, index.parse().ok()?))
}

fn map_folders(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = entries(folder)?;
    folders.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        name.as_bytes().starts_with(MAPS.as_bytes())
    });
    Ok(folders)
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", folder.display());
    fs::read_dir(folder)
        .with_context(context)?
        .map(|entry| Ok(entry.with_context(context)?.path()))
        .collect()
}

/// Where there is no such folder, nothing.
fn entries_if_there(folder: &Path) -> Result<Vec<PathBuf>> {
    if folder.is_dir() {
        entries(folder)
    } else {
        Ok(Vec::new())
    }
}

fn is_empty(folder: &Path) -> Result<bool> {
    Ok(entries(folder)?.is_empty())
}

fn make_folder(folder: &Path) -> Result<()> {
    match fs::create_dir(folder) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("cannot make {}", folder.display()))
        }
        _ => Ok(()),
    }
}

fn remove_file(file: &Path) -> Result<()> {
    fs::remove_file(file).with_context(|| format!("cannot remove {}", file.display()))
}

fn remove_folder(folder: &Path) -> Result<()> {
    fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(value_size: u32) -> BTreeMap<String, Expected> {
        let expected = Expected {
            map_type: 9,
            key_size: 40,
            value_size,
            max_entries: 1_024,
            flags: 0,
        };
        [("FLOWS".to_owned(), expected)].into()
    }

    #[test]
    fn another_layout_is_another_folder_and_the_same_one_is_the_same() {
        assert_eq!(hash(&maps(1_152)), hash(&maps(1_152)));
        assert_ne!(hash(&maps(1_152)), hash(&maps(1_216)));
    }

    #[test]
    fn an_ordinary_folder_is_refused_with_what_would_be_right() {
        let error = Pins::open(Some(&std::env::temp_dir())).expect_err("no BPF file system");
        assert!(error.to_string().contains("mount -t bpf"), "{error}");
    }
}
