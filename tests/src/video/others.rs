//! Traffic that is no video: web pages, one long download, and someone who types into SSH.

use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::task::JoinSet;

use crate::addresses::VIDEO;
use crate::netns;
use crate::video::connection::{Connection, Http};
use crate::video::server::{BULK_NAME, BULK_PATH, PAGE, WEB_NAME};
use crate::video::tls::Certificates;

/// A reader looks at a page for so long.
const READING: Duration = Duration::from_millis(1500);
/// Pages on the same connections before the reader goes elsewhere.
const PAGES: usize = 2;
/// HTTP/1.1 browsers open several connections; six at most, two do for a page of eight.
const CONNECTIONS: usize = 2;
/// Between two keys.
const TYPING: [Duration; 4] = [
    Duration::from_millis(110),
    Duration::from_millis(180),
    Duration::from_millis(140),
    Duration::from_millis(420),
];
/// Where SSH listens.
pub const SSH_PORT: u16 = 22;

/// Reads pages until then: every visit opens connections, loads a page with all its parts, looks
/// at it, loads another one, looks, and closes.
///
/// # Errors
/// If a page cannot be loaded.
pub async fn browse(
    server: SocketAddr,
    http: Http,
    until: Instant,
    certificates: &Certificates,
) -> Result<()> {
    while Instant::now() < until {
        let mut connections = Vec::new();
        let count = match http {
            Http::One => CONNECTIONS,
            Http::Two => 1,
        };
        for _ in 0..count {
            let open = Connection::open(server, WEB_NAME, http, certificates).await?;
            connections.push(Arc::new(open));
        }
        for _ in 0..PAGES {
            let (document, parts) = (PAGE[0].0, &PAGE[1..]);
            connections[0].get(document).await?;
            let mut loading = JoinSet::new();
            for (index, (path, _)) in parts.iter().enumerate() {
                let connection = Arc::clone(&connections[index % count]);
                loading.spawn(async move { connection.get(path).await });
            }
            while let Some(part) = loading.join_next().await {
                part.context("a task that loads a part of a page")??;
            }
            tokio::time::sleep(READING).await;
        }
        for connection in connections.into_iter().filter_map(Arc::into_inner) {
            connection.close().await;
        }
        tokio::time::sleep(READING).await;
    }
    Ok(())
}

/// Downloads one large file until then.
///
/// # Errors
/// If it does not begin or is cut short.
pub async fn download(
    server: SocketAddr,
    until: Instant,
    certificates: &Certificates,
) -> Result<()> {
    let connection = Connection::open(server, BULK_NAME, Http::One, certificates).await?;
    match tokio::time::timeout_at(until.into(), connection.get(BULK_PATH)).await {
        Ok(whole) => whole.map(|_| ()),
        // The reader has seen enough of it.
        Err(_) => Ok(()),
    }
}

/// A real SSH server, for root of this machine: only where the machine is the lab's own.
#[derive(Debug)]
pub struct Ssh {
    folder: PathBuf,
}

impl Ssh {
    /// Makes keys and starts dropbear in the video host's namespace. It goes to the background
    /// once it listens.
    ///
    /// # Errors
    /// If it is missing or does not start.
    pub fn start(folder: &Path) -> Result<Self> {
        make_key(&folder.join("host.key"))?;
        let public = make_key(&folder.join("user.key"))?;
        let home = Path::new("/root/.ssh");
        let authorized = home.join("authorized_keys");
        fs::create_dir_all(home)
            .and_then(|()| fs::set_permissions(home, fs::Permissions::from_mode(0o700)))
            .and_then(|()| fs::write(&authorized, public))
            .with_context(|| format!("cannot write {}", authorized.display()))?;
        let ssh = Self {
            folder: folder.to_owned(),
        };
        let folder = folder.to_owned();
        let run = netns::enter(VIDEO, move || {
            let mut dropbear = Command::new("dropbear");
            dropbear.arg("-r").arg(folder.join("host.key"));
            dropbear.arg("-P").arg(folder.join("dropbear.pid"));
            dropbear.args(["-p", &SSH_PORT.to_string(), "-s"]);
            let status = dropbear.stdin(Stdio::null()).stderr(Stdio::null()).status();
            let status = status.context("cannot run dropbear (Debian package dropbear-bin)")?;
            ensure!(status.success(), "dropbear failed: {status}");
            Ok(())
        })?;
        netns::join(run)?;
        Ok(ssh)
    }

    /// Types until then into a remote `cat`, which echoes every key, and waits for every echo;
    /// called inside the home's namespace.
    ///
    /// # Errors
    /// If there is no session, or an echo is not what was typed.
    pub fn type_until(folder: &Path, server: Ipv4Addr, until: Instant) -> Result<()> {
        let mut client = Command::new("dbclient");
        client.args(["-y", "-y", "-p", &SSH_PORT.to_string(), "-i"]);
        client.arg(folder.join("user.key"));
        client.arg(format!("root@{server}")).arg("cat");
        client.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut client = client
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run dbclient")?;
        let typed = type_keys(&mut client, until);
        // No more input: cat ends, and with it the session.
        drop(client.stdin.take());
        let status = client.wait().context("cannot await dbclient")?;
        typed?;
        ensure!(status.success(), "dbclient failed: {status}");
        Ok(())
    }

    /// Stops the server.
    ///
    /// # Errors
    /// If it does not run any more.
    pub fn stop(self) -> Result<()> {
        let path = self.folder.join("dropbear.pid");
        let text =
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let pid = text
            .trim()
            .parse()
            .with_context(|| format!("no pid: {text:?}"))?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot signal dropbear")
    }
}

fn type_keys(client: &mut Child, until: Instant) -> Result<()> {
    let (Some(stdin), Some(stdout)) = (client.stdin.as_mut(), client.stdout.as_mut()) else {
        bail!("dbclient was started without pipes");
    };
    let mut echo = [0];
    let keys = b"uptime; dmesg\n".iter().cycle();
    for (key, pause) in keys.zip(TYPING.iter().cycle()) {
        if Instant::now() >= until {
            break;
        }
        stdin.write_all(&[*key]).context("the session ended")?;
        stdin.flush().context("the session ended")?;
        stdout.read_exact(&mut echo).context("no echo came")?;
        ensure!(echo[0] == *key, "the echo is not what was typed");
        thread::sleep(*pause);
    }
    Ok(())
}

/// Makes a key pair; the public key as a line of an `authorized_keys` file.
fn make_key(path: &Path) -> Result<String> {
    let output = Command::new("dropbearkey")
        .args(["-t", "ed25519", "-f"])
        .arg(path)
        .output()
        .context("cannot run dropbearkey (Debian package dropbear-bin)")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().find(|line| line.starts_with("ssh-"));
    let line = line.with_context(|| format!("dropbearkey made no key: {text}"))?;
    Ok(format!("{line}\n"))
}
