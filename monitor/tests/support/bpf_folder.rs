//! A BPF file system, on which programs and flows stay while a daemon is away.

use std::{
    ffi::CString,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

use super::daemon::Folder;

/// A BPF file system of the test's own, gone when dropped.
pub struct BpfFolder(PathBuf);

impl BpfFolder {
    pub fn new(folder: &Folder) -> Self {
        let path = folder.file("bpf");
        fs::create_dir_all(&path).expect("a folder");
        let name = CString::new(path.as_os_str().as_bytes()).expect("no zero byte");
        // SAFETY: C strings that live during the call.
        let result = unsafe {
            libc::mount(
                c"bpf".as_ptr(),
                name.as_ptr(),
                c"bpf".as_ptr(),
                0,
                std::ptr::null(),
            )
        };
        assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// A configuration with this folder and a flow table of this size.
    pub fn keep(&self, config: &str, flows: u32) -> String {
        format!(
            "{config}[flows]\nmax = {flows}\n[restart]\nbpf_directory = \"{}\"\n",
            self.0.display()
        )
    }

    /// How many devices are noted to have filters, which kernels with links have not.
    pub fn filters_noted(&self) -> usize {
        fs::read_dir(self.0.join("filters")).map_or(0, Iterator::count)
    }

    /// Everything in it, folders apart.
    pub fn pins(&self) -> Vec<PathBuf> {
        fn below(folder: &Path) -> Vec<PathBuf> {
            let entries = fs::read_dir(folder).expect("readable");
            let paths = entries.map(|entry| entry.expect("readable").path());
            paths
                .flat_map(|path| {
                    if path.is_dir() {
                        below(&path)
                    } else {
                        vec![path]
                    }
                })
                .collect()
        }
        // The kernel keeps two files of its own beside what is pinned.
        let mut all = below(&self.0);
        all.retain(|path| path.parent() != Some(&self.0));
        all
    }
}

impl Drop for BpfFolder {
    fn drop(&mut self) {
        let name = CString::new(self.0.as_os_str().as_bytes()).expect("no zero byte");
        // SAFETY: a C string that lives during the call.
        unsafe { libc::umount2(name.as_ptr(), libc::MNT_DETACH) };
    }
}
