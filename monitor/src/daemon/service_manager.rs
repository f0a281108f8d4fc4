//! What systemd is told, where it listens (sd_notify(3)).

use std::{
    env, io,
    os::{
        linux::net::SocketAddrExt as _,
        unix::{
            ffi::OsStrExt as _,
            net::{SocketAddr, UnixDatagram},
        },
    },
};

use sd_notify::NotifyState;

/// Where systemd says that it listens.
const VARIABLE: &str = "NOTIFY_SOCKET";

/// Tells systemd. Only the start waits for a manager that takes nothing, because it waits for us
/// too; what comes later is lost then, and another beat of the watchdog comes a second later.
pub fn notify(states: &[NotifyState<'_>]) {
    let is_ready = |state: &NotifyState<'_>| matches!(state, NotifyState::Ready);
    let told = if states.iter().any(is_ready) {
        sd_notify::notify(states)
    } else {
        env::var_os(VARIABLE).map_or(Ok(()), |name| {
            let lines: String = states.iter().map(|state| format!("{state}\n")).collect();
            send(name.as_bytes(), lines.as_bytes())
        })
    };
    match told {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            tracing::debug!("the service manager takes nothing now");
        }
        Err(error) => tracing::warn!("cannot notify the service manager: {error}"),
    }
}

/// Sends a datagram to a path, or to an abstract name, which begins with `@`; never waits.
fn send(name: &[u8], message: &[u8]) -> io::Result<()> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?,
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    socket.send_to_addr(message, &address).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manager_that_reads_nothing_holds_nobody_up() {
        let name = format!("lastmile-notify-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let manager = UnixDatagram::bind_addr(&address).expect("bound");
        let name = format!("@{name}");
        let beat = NotifyState::Watchdog.to_string();
        // Its queue holds net.unix.max_dgram_qlen of them.
        let refused = (0..1_000_000)
            .find_map(|_| send(name.as_bytes(), beat.as_bytes()).err())
            .expect("its queue is full some day");
        assert_eq!(refused.kind(), io::ErrorKind::WouldBlock);
        let mut message = [0; 64];
        let length = manager.recv(&mut message).expect("it reads again");
        assert_eq!(&message[..length], b"WATCHDOG=1");
        send(name.as_bytes(), beat.as_bytes()).expect("there is room again");
    }
}
