//! A capture of our own: a packet socket whose ring holds all that a test sends, so that nothing
//! has to read it meanwhile.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr,
};

/// Bytes of one packet's place: its header, its address and all headers of the packet.
const FRAME_BYTES: usize = 256;
/// Bytes of one contiguous piece of the ring.
const BLOCK_BYTES: usize = 64 << 10;

/// Packets of every device of one namespace, from its start on.
pub struct Ring {
    socket: OwnedFd,
    memory: *mut u8,
    frames: usize,
}

// SAFETY: the mapping belongs to the value alone.
unsafe impl Send for Ring {}

/// One packet, as far as its headers go.
pub struct Captured<'a> {
    /// ns since 1970 UTC.
    pub time_ns: u64,
    /// Length on the wire.
    pub len: u32,
    pub bytes: &'a [u8],
    /// It leaves this host.
    pub outgoing: bool,
}

impl Ring {
    /// Begins in the namespace of this thread, with room for `frames` packets. `outgoing`: packets
    /// that leave are captured too.
    pub fn start(frames: usize, outgoing: bool) -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a new descriptor that nobody else owns.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        let frames = frames.next_multiple_of(BLOCK_BYTES / FRAME_BYTES);
        let bytes = frames * FRAME_BYTES;
        set(
            &socket,
            libc::PACKET_VERSION,
            &(libc::tpacket_versions::TPACKET_V2 as i32),
        )?;
        set(&socket, libc::PACKET_IGNORE_OUTGOING, &i32::from(!outgoing))?;
        let request = libc::tpacket_req {
            tp_block_size: BLOCK_BYTES as u32,
            tp_block_nr: (bytes / BLOCK_BYTES) as u32,
            tp_frame_size: FRAME_BYTES as u32,
            tp_frame_nr: frames as u32,
        };
        set(&socket, libc::PACKET_RX_RING, &request)?;
        // SAFETY: a new mapping of the size of the ring.
        let memory = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd,
                0,
            )
        };
        if memory == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let ring = Self {
            socket,
            memory: memory.cast(),
            frames,
        };
        // SAFETY: all zero is a valid address, of every device.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: the address is of the given length.
        let bound = unsafe {
            libc::bind(
                fd,
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if bound < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(ring)
    }

    /// Everything captured so far, in the order in which it passed.
    ///
    /// # Panics
    /// If packets were lost because the ring was too small.
    pub fn packets(&self) -> impl Iterator<Item = Captured<'_>> {
        assert_eq!(self.lost(), 0, "the capture's ring is too small");
        (0..self.frames).map_while(|frame| {
            // SAFETY: within the mapping, which lives as long as `self`.
            let start = unsafe { self.memory.add(frame * FRAME_BYTES) };
            // SAFETY: every frame begins with this header; the kernel writes the status last.
            let header = unsafe { &*start.cast::<libc::tpacket2_hdr>() };
            // SAFETY: as above.
            let status = unsafe { (&raw const header.tp_status).read_volatile() };
            if status & libc::TP_STATUS_USER == 0 {
                return None;
            }
            // SAFETY: the address lies behind the header (`TPACKET2_HDRLEN`).
            let address = unsafe {
                &*start
                    .add(size_of::<libc::tpacket2_hdr>().next_multiple_of(libc::TPACKET_ALIGNMENT))
                    .cast::<libc::sockaddr_ll>()
            };
            let (at, len) = (usize::from(header.tp_mac), header.tp_snaplen as usize);
            assert!(at + len <= FRAME_BYTES, "a packet stays in its frame");
            // SAFETY: within the frame, as just asserted.
            let bytes = unsafe { std::slice::from_raw_parts(start.add(at), len) };
            Some(Captured {
                time_ns: u64::from(header.tp_sec) * 1_000_000_000 + u64::from(header.tp_nsec),
                len: header.tp_len,
                bytes,
                outgoing: address.sll_pkttype == libc::PACKET_OUTGOING,
            })
        })
    }

    /// Packets for which there was no room, since the last call.
    fn lost(&self) -> u32 {
        // SAFETY: all zero is a valid value.
        let mut statistics: libc::tpacket_stats = unsafe { std::mem::zeroed() };
        let mut len = size_of_val(&statistics) as libc::socklen_t;
        // SAFETY: the buffer and its length are valid.
        let result = unsafe {
            libc::getsockopt(
                self.socket.as_raw_fd(),
                libc::SOL_PACKET,
                libc::PACKET_STATISTICS,
                (&raw mut statistics).cast(),
                &raw mut len,
            )
        };
        assert_eq!(result, 0, "the capture has statistics");
        statistics.tp_drops
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the mapping of `start`, which nothing refers to any more.
        unsafe { libc::munmap(self.memory.cast(), self.frames * FRAME_BYTES) };
    }
}

fn set<T>(socket: &OwnedFd, option: libc::c_int, value: &T) -> io::Result<()> {
    // SAFETY: the value and its length are valid.
    let result = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            option,
            ptr::from_ref(value).cast(),
            size_of::<T>() as libc::socklen_t,
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
