//! The numbers of control groups, by the names that operators know.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where systemd mounts the cgroup2 file system.
const ROOT: &str = "/sys/fs/cgroup";

/// Groups looked at: a host has some hundreds.
const GROUPS_MAX: usize = 65_536;

/// The kernel's numbers of `units`, and of all groups in them: on a 64-bit kernel the inodes of
/// their folders (`kernfs_node.id`, since Linux 5.5). A unit that is not there has none.
pub fn ids(units: &[String]) -> Vec<u64> {
    ids_below(Path::new(ROOT), units)
}

fn ids_below(root: &Path, units: &[String]) -> Vec<u64> {
    let mut ids = Vec::new();
    let mut waiting = vec![(root.to_owned(), false)];
    let mut looked_at = 0;
    while let Some((folder, inside)) = waiting.pop() {
        looked_at += 1;
        if looked_at > GROUPS_MAX {
            tracing::warn!("more than {GROUPS_MAX} control groups: not all were looked at");
            return ids;
        }
        let wanted = inside || units.iter().any(|unit| is(&folder, root, unit));
        if wanted && let Ok(metadata) = fs::metadata(&folder) {
            ids.push(metadata.ino());
        }
        // A group may go while it is looked at.
        let Ok(entries) = fs::read_dir(&folder) else {
            continue;
        };
        let folders = entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|entry| (entry.path(), wanted));
        waiting.extend(folders);
    }
    ids
}

/// Whether `folder` is what `unit` names: a path from the root, or the last part of one.
fn is(folder: &Path, root: &Path, unit: &str) -> bool {
    match unit.strip_prefix('/') {
        Some(path) => folder == [root, Path::new(path)].iter().collect::<PathBuf>(),
        None => folder.file_name().is_some_and(|name| name == unit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_unit_is_found_anywhere_with_all_in_it() {
        let root = std::env::temp_dir().join(format!("lastmile-cgroups-{}", std::process::id()));
        for folder in ["system.slice/a.service/worker", "user.slice/b.service", "c"] {
            fs::create_dir_all(root.join(folder)).expect("a folder");
        }
        let number = |folder: &str| fs::metadata(root.join(folder)).expect("there").ino();
        let found = |unit: &str| {
            let mut ids = ids_below(&root, &[unit.to_owned()]);
            ids.sort_unstable();
            ids
        };
        let mut service = vec![
            number("system.slice/a.service"),
            number("system.slice/a.service/worker"),
        ];
        service.sort_unstable();
        assert_eq!(found("a.service"), service);
        assert_eq!(found("/system.slice/a.service"), service);
        assert!(found("/a.service").is_empty());
        assert_eq!(found("/c"), [number("c")]);
        assert!(found("missing.service").is_empty());
        fs::remove_dir_all(&root).expect("it is ours");
    }
}
