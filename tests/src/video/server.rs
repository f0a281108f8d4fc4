//! nginx as video services run it: TLS 1.3, HTTP/1.1 and HTTP/2, several names on one address; and
//! what its access log says.

use std::collections::BTreeMap;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use serde::Deserialize;

use crate::addresses::VIDEO;
use crate::netns;
use crate::video::tls::Certificates;

/// Port of everything but SSH.
pub const PORT: u16 = 443;
/// The names it goes by: SNI tells them apart.
pub const VIDEO_NAME: &str = "edge-1.video.example";
/// Pages.
pub const WEB_NAME: &str = "www.news.example";
/// Downloads.
pub const BULK_NAME: &str = "dl.software.example";
/// All of them.
pub const NAMES: [&str; 3] = [VIDEO_NAME, WEB_NAME, BULK_NAME];

/// Largest plaintext of one record, nginx's `ssl_buffer_size`.
const RECORD_KIB: u32 = 4;
/// What a socket holds that was not sent yet (`tcp_notsent_lowat`): with it nginx knows within a
/// few packets what has left, so that the end of a request in its log is not the moment when
/// megabytes went into a socket.
const NOT_SENT_BYTES: &str = "4096";
/// The large download.
pub const BULK_PATH: &str = "/image.iso";
const BULK_BYTES: usize = 24 << 20;
/// Objects of a page: a document, styles, scripts, pictures; bytes.
pub const PAGE: [(&str, usize); 8] = [
    ("/index.html", 28_000),
    ("/style.css", 9_000),
    ("/app.js", 61_000),
    ("/logo.svg", 3_000),
    ("/a.jpg", 42_000),
    ("/b.jpg", 18_000),
    ("/c.jpg", 75_000),
    ("/beacon", 400),
];

/// The running web server; stopped when dropped.
#[derive(Debug)]
pub struct Server {
    folder: PathBuf,
    runs: bool,
}

/// One line of the access log.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Entry {
    /// When the last byte was handed to the socket, seconds since 1970.
    pub end: f64,
    /// From the request's first byte until then, seconds.
    pub request_time: f64,
    /// The client's address.
    pub client: Ipv4Addr,
    /// The client's port.
    pub port: u16,
    /// The connection's number.
    pub connection: u64,
    /// SNI.
    pub name: String,
    /// `HTTP/1.1` or `HTTP/2.0`.
    pub protocol: String,
    /// What was asked for.
    pub uri: String,
    /// What was answered.
    pub status: u16,
    /// Head and body; with HTTP/2 the stream's frames.
    pub bytes_sent: u64,
    /// Body.
    pub body_bytes: u64,
    /// The socket's smoothed RTT at the end, µs.
    pub rtt_us: u64,
}

impl Entry {
    /// When the request's first byte came, seconds since 1970.
    #[must_use]
    pub fn begin(&self) -> f64 {
        self.end - self.request_time
    }

    /// What was asked for, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.uri.split('?').next().unwrap_or_default()
    }
}

impl Server {
    /// Writes what is served beside the ladder and starts nginx in the video host's namespace.
    /// It goes to the background once it listens, so that its return is the moment players may
    /// connect.
    ///
    /// # Errors
    /// If the folder cannot be written, or nginx is missing or does not start.
    pub fn start(ladder: &Path, folder: &Path, certificates: &Certificates) -> Result<Self> {
        let pages = folder.join("pages");
        let bulk = folder.join("bulk");
        let mut files = BTreeMap::from([
            (
                folder.join("chain.pem"),
                certificates.chain_pem.as_bytes().to_vec(),
            ),
            (
                folder.join("key.pem"),
                certificates.key_pem.as_bytes().to_vec(),
            ),
            (
                folder.join("nginx.conf"),
                configuration(folder, ladder).into_bytes(),
            ),
            (bulk.join(&BULK_PATH[1..]), vec![0x5a; BULK_BYTES]),
        ]);
        for (path, bytes) in PAGE {
            files.insert(pages.join(&path[1..]), vec![0x5a; bytes]);
        }
        for folder in [&pages, &bulk] {
            fs::create_dir_all(folder)
                .with_context(|| format!("cannot create {}", folder.display()))?;
        }
        for (path, bytes) in files {
            fs::write(&path, bytes).with_context(|| format!("cannot write {}", path.display()))?;
        }
        netns::set_sysctl(VIDEO, "net/ipv4/tcp_notsent_lowat", NOT_SENT_BYTES)?;
        let mut server = Self {
            folder: folder.to_owned(),
            runs: false,
        };
        server.nginx(&[])?;
        server.runs = true;
        Ok(server)
    }

    /// Stops nginx; its access log is whole then.
    ///
    /// # Errors
    /// If it does not run any more.
    pub fn stop(mut self) -> Result<()> {
        self.runs = false;
        self.nginx(&["-e", "nginx.log", "-s", "stop"])
    }

    /// Where the access log is.
    #[must_use]
    pub fn access_log(&self) -> PathBuf {
        self.folder.join("access.jsonl")
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
                .context("cannot run nginx (Debian package nginx)")?;
            ensure!(status.success(), "nginx failed: {status}");
            Ok(())
        })?;
        netns::join(run)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.runs
            && let Err(error) = self.nginx(&["-e", "nginx.log", "-s", "stop"])
        {
            eprintln!("nginx could not be stopped: {error:#}");
        }
    }
}

fn configuration(folder: &Path, ladder: &Path) -> String {
    let (folder, ladder) = (folder.display(), ladder.display());
    let mut servers = String::new();
    for (name, root) in [
        (VIDEO_NAME, ladder.to_string()),
        (WEB_NAME, format!("{folder}/pages")),
        (BULK_NAME, format!("{folder}/bulk")),
    ] {
        servers.push_str(&format!(
            "    server {{ listen {PORT} ssl http2 backlog=1024; server_name {name}; root {root}; }}\n"
        ));
    }
    // One socket has one backlog.
    let servers = servers.replacen(" backlog=1024", "", NAMES.len() - 1);
    format!(
        "user root root;
worker_processes 1;
pid {folder}/nginx.pid;
error_log stderr warn;
events {{ worker_connections 1024; }}
http {{
    log_format lab escape=json '{{\"end\":$msec,\"request_time\":$request_time,\
\"client\":\"$remote_addr\",\"port\":$remote_port,\"connection\":$connection,\
\"name\":\"$ssl_server_name\",\"protocol\":\"$server_protocol\",\"uri\":\"$request_uri\",\
\"status\":$status,\"bytes_sent\":$bytes_sent,\"body_bytes\":$body_bytes_sent,\
\"rtt_us\":$tcpinfo_rtt}}';
    access_log {folder}/access.jsonl lab;
    ssl_certificate {folder}/chain.pem;
    ssl_certificate_key {folder}/key.pem;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_buffer_size {RECORD_KIB}k;
    tcp_nodelay on;
    keepalive_timeout 600s;
    keepalive_requests 1000000;
    types {{ application/vnd.apple.mpegurl m3u8; video/mp4 mp4 m4s; text/html html; }}
    client_body_temp_path {folder}/nginx-body;
    proxy_temp_path {folder}/nginx-proxy;
    fastcgi_temp_path {folder}/nginx-fastcgi;
    uwsgi_temp_path {folder}/nginx-uwsgi;
    scgi_temp_path {folder}/nginx-scgi;
{servers}}}
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_begins_its_request_time_before_its_end() {
        let line = r#"{"end":1700000000.250,"request_time":0.200,"client":"198.18.0.10","port":40000,"connection":7,"name":"edge-1.video.example","protocol":"HTTP/1.1","uri":"/3/0000.m4s","status":200,"bytes_sent":1000,"body_bytes":700,"rtt_us":20000}"#;
        let entry: Entry = serde_json::from_str(line).unwrap();
        assert!((entry.begin() - 1_700_000_000.05).abs() < 1e-6);
    }

    #[test]
    fn one_listening_socket_has_one_backlog() {
        let text = configuration(Path::new("/w"), Path::new("/v"));
        assert_eq!(text.matches("backlog=").count(), 1);
        assert_eq!(text.matches("listen 443 ssl http2").count(), 3);
    }
}
