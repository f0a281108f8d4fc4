//! The video server: nginx with one file a bitrate.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::addresses::VIDEO;
use crate::netns;
use crate::scenario::Video;

/// Port of the video server.
pub const PORT: u16 = 80;

/// Path of a bitrate's chunks; every chunk of a bitrate is the same file.
#[must_use]
pub fn chunk_path(bitrate_kbit: u32) -> String {
    format!("/{bitrate_kbit}k.m4s")
}

/// Size of a chunk: bitrate times playing time.
#[must_use]
pub fn chunk_bytes(bitrate_kbit: u32, chunk_s: f64) -> u64 {
    (f64::from(bitrate_kbit) * 1000.0 / 8.0 * chunk_s).round() as u64
}

/// The running web server.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
}

impl Server {
    /// Writes the chunks and starts nginx in the video host's namespace. nginx goes to the
    /// background once it listens, so that its return is the moment players may connect.
    ///
    /// # Errors
    /// If the folder cannot be written, or nginx is missing or does not start; it says why on
    /// stderr.
    pub fn start(video: &Video, folder: &Path) -> Result<Self> {
        let root = folder.join("chunks");
        fs::create_dir_all(&root).with_context(|| format!("cannot create {}", root.display()))?;
        for &bitrate in video.ladder_kbit.get_ref() {
            let path = root.join(&chunk_path(bitrate)[1..]);
            let bytes = usize::try_from(chunk_bytes(bitrate, video.chunk_s))?;
            fs::write(&path, vec![0x5a; bytes])
                .with_context(|| format!("cannot write {}", path.display()))?;
        }
        let configuration = folder.join("nginx.conf");
        fs::write(&configuration, nginx_configuration(folder))
            .with_context(|| format!("cannot write {}", configuration.display()))?;
        let server = Self {
            folder: folder.to_owned(),
        };
        server.nginx(&[])?;
        Ok(server)
    }

    /// Stops nginx.
    ///
    /// # Errors
    /// If it does not run any more.
    pub fn stop(self) -> Result<()> {
        // nginx notes on its error log that it sends a signal: not for the person who watches.
        self.nginx(&["-e", "nginx.log", "-s", "stop"])
    }

    fn nginx(&self, more: &[&'static str]) -> Result<()> {
        let folder = self.folder.clone();
        let more = more.to_vec();
        let run = netns::enter(VIDEO, move || {
            let status = Command::new("nginx")
                .arg("-p")
                .arg(&folder)
                .args(["-c", "nginx.conf"])
                .args(more)
                .stdin(Stdio::null())
                .status()
                .context("cannot run nginx (Debian package nginx-light)")?;
            ensure!(status.success(), "nginx failed: {status}");
            Ok(())
        })?;
        netns::join(run)
    }
}

fn nginx_configuration(folder: &Path) -> String {
    let folder = folder.display();
    format!(
        "user root root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    sendfile on;
    tcp_nopush on;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
    server {{
        listen {PORT} backlog=1024;
        root {folder}/chunks;
    }}
}}
"
    )
}
