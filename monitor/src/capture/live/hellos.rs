//! The ring buffer of what clients say first.

use std::ptr;

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use monitor_ebpf::hello::{HEADER_LEN, Piece};
use tokio::io::unix::AsyncFd;

use crate::capture::FirstBytes;

/// Pieces taken at once, so that other work of the daemon gets its turn.
const TAKEN_AT_ONCE: usize = 256;

/// The reading end of the ring buffer.
pub struct Hellos(AsyncFd<RingBuf<MapData>>);

impl Hellos {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self> {
        // SAFETY: the ring buffer owns its descriptor and keeps the same one until it is dropped.
        let ring =
            unsafe { AsyncFd::register(ring) }.context("cannot wait for what clients say first")?;
        Ok(Self(ring))
    }

    /// Waits until there are pieces and hands some of them to `each`.
    pub async fn next(&mut self, mut each: impl FnMut(FirstBytes)) -> Result<()> {
        let mut guard = self
            .0
            .readable_mut()
            .await
            .context("cannot wait for what clients say first")?;
        if take(guard.get_inner_mut(), &mut each) < TAKEN_AT_ONCE {
            guard.clear_ready();
        }
        Ok(())
    }

    /// Hands everything that is there now to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(FirstBytes)) {
        while take(self.0.get_mut(), &mut each) > 0 {}
    }
}

fn take(ring: &mut RingBuf<MapData>, each: &mut impl FnMut(FirstBytes)) -> usize {
    let mut piece = Piece::EMPTY;
    for taken in 0..TAKEN_AT_ONCE {
        let Some(item) = ring.next() else {
            return taken;
        };
        let len = item.len();
        if !(HEADER_LEN..=size_of::<Piece>()).contains(&len) {
            continue;
        }
        // SAFETY: at most a whole piece is written to a piece, which may be any bytes.
        unsafe { ptr::copy_nonoverlapping(item.as_ptr(), (&raw mut piece).cast::<u8>(), len) };
        piece.len = piece.len.min((len - HEADER_LEN) as u32);
        each(FirstBytes::from(&piece));
    }
    TAKEN_AT_ONCE
}
