//! Two devices without a link header in two hosts, and a cable between them.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::fd::AsRawFd as _,
    process::{Command, Stdio},
    thread,
};

use super::net::{Internet, ip};

/// `ip tuntap` of the hosts' namespaces; packets go from one to the other until they are removed.
pub struct Tunnel {
    hosts: [String; 2],
}

const NAME: &str = "tun0";
/// Larger than any packet of it.
const PACKET_BYTES: usize = 64 << 10;

impl Tunnel {
    /// `tun0` in the server, 10.7.0.1, and in the client, 10.7.0.2.
    pub fn new(internet: &Internet) -> Self {
        let hosts = [internet.server.clone(), internet.client.clone()];
        let [first, second] = [0, 1].map(|number: usize| {
            let opened = internet.on(&hosts[number], open);
            let file = lastmile_lab::netns::join(opened).expect("the namespace is there");
            let host = &hosts[number];
            ip(&format!(
                "-n {host} address add 10.7.0.{}/24 dev {NAME}",
                number + 1
            ));
            ip(&format!("-n {host} link set {NAME} up"));
            file
        });
        let copy = |file: &File| file.try_clone().expect("a descriptor more");
        carry(copy(&first), copy(&second));
        carry(second, first);
        Self { hosts }
    }
}

impl Drop for Tunnel {
    fn drop(&mut self) {
        for host in &self.hosts {
            // It may have gone by itself: a packet that the other one took no more ended the threads.
            let _ = Command::new("ip")
                .args(["-n", host, "link", "del", NAME])
                .stderr(Stdio::null())
                .status();
        }
    }
}

/// A new device of this thread's namespace.
fn open() -> File {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/net/tun")
        .expect("/dev/net/tun");
    // SAFETY: a structure of plain integers.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(NAME.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TUN | libc::IFF_NO_PI) as libc::c_short;
    // SAFETY: both live during the call.
    let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
    assert_eq!(result, 0, "{}", std::io::Error::last_os_error());
    file
}

/// Until one of the two has gone.
fn carry(mut from: File, mut to: File) {
    thread::spawn(move || {
        let mut packet = vec![0; PACKET_BYTES];
        while let Ok(length) = from.read(&mut packet) {
            if to.write(&packet[..length]).is_err() {
                return;
            }
        }
    });
}
