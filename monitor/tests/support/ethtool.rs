//! Offloads of a device on and off, as `ethtool -K` does it (linux/ethtool.h).

use std::{io, net::UdpSocket, os::fd::AsRawFd};

const SIOCETHTOOL: libc::c_ulong = 0x8946;
const ETHTOOL_GSTRINGS: u32 = 0x1b;
const ETHTOOL_GSSET_INFO: u32 = 0x37;
const ETHTOOL_GFEATURES: u32 = 0x3a;
const ETHTOOL_SFEATURES: u32 = 0x3b;
const ETH_SS_FEATURES: u32 = 4;
const NAME_BYTES: usize = 32;

/// Segmentation by the device: what the programs see at egress are super-packets.
pub const SEGMENTATION: [&str; 4] = [
    "tx-tcp-segmentation",
    "tx-tcp-ecn-segmentation",
    "tx-tcp-mangleid-segmentation",
    "tx-tcp6-segmentation",
];
/// Segmentation as late as possible, in software.
pub const GENERIC_SEGMENTATION: &str = "tx-generic-segmentation";
/// Merging of what arrives; on veth it also switches NAPI on (Linux 5.13).
pub const GRO: &str = "rx-gro";
/// The tag travels beside the packet and not in it, 802.1Q and 802.1ad.
pub const VLAN: [&str; 4] = [
    "tx-vlan-hw-insert",
    "rx-vlan-hw-parse",
    "tx-vlan-stag-hw-insert",
    "rx-vlan-stag-hw-parse",
];

/// Switches offloads of a device of this thread's namespace, and makes sure that they are.
pub fn set(device: &str, features: &[&str], on: bool) -> io::Result<()> {
    let names = names(device)?;
    let blocks = names.len().div_ceil(32);
    let mut wanted = vec![0u32; 2 + 2 * blocks];
    wanted[0] = ETHTOOL_SFEATURES;
    wanted[1] = blocks as u32;
    let mut places = Vec::new();
    for feature in features {
        let place = names
            .iter()
            .position(|name| name == feature)
            .ok_or_else(|| io::Error::other(format!("{device}: no offload {feature}")))?;
        let (block, bit) = (place / 32, 1 << (place % 32));
        wanted[2 + 2 * block] |= bit;
        if on {
            wanted[3 + 2 * block] |= bit;
        }
        places.push((feature, block, bit));
    }
    request(device, &mut wanted)?;
    let mut active = vec![0u32; 2 + 4 * blocks];
    active[0] = ETHTOOL_GFEATURES;
    active[1] = blocks as u32;
    request(device, &mut active)?;
    for (feature, block, bit) in places {
        // available, requested, active, never changed
        let is_on = active[2 + 4 * block + 2] & bit != 0;
        if is_on != on {
            return Err(io::Error::other(format!(
                "{device}: {feature} stays {}",
                if is_on { "on" } else { "off" }
            )));
        }
    }
    Ok(())
}

fn names(device: &str) -> io::Result<Vec<String>> {
    // Command, reserved, a 64-bit set of string sets, and the number of strings.
    let mut info = [ETHTOOL_GSSET_INFO, 0, 1 << ETH_SS_FEATURES, 0, 0];
    request(device, &mut info)?;
    let count = info[4] as usize;
    let mut strings = vec![0u32; 3 + count * NAME_BYTES / 4];
    strings[0] = ETHTOOL_GSTRINGS;
    strings[1] = ETH_SS_FEATURES;
    strings[2] = count as u32;
    request(device, &mut strings)?;
    let bytes: Vec<u8> = strings[3..].iter().flat_map(|w| w.to_ne_bytes()).collect();
    Ok(bytes
        .chunks_exact(NAME_BYTES)
        .map(|name| {
            let end = name.iter().position(|byte| *byte == 0);
            String::from_utf8_lossy(&name[..end.unwrap_or(NAME_BYTES)]).into_owned()
        })
        .collect())
}

/// `data` holds the command, and receives the answer.
fn request(device: &str, data: &mut [u32]) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // SAFETY: all zero is a valid request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_data = data.as_mut_ptr().cast();
    // SAFETY: `data` is as long as its own header says.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
