//! The ring buffer of flow states and chunks.

use anyhow::{Context as _, Result};
use aya::maps::{MapData, RingBuf};
use monitor_ebpf::{chunk::ChunkReport, flow::FlowState};
use tokio::io::unix::AsyncFd;

use crate::capture::Report;

/// Reports taken at once, so that other work of the daemon gets its turn.
const TAKEN_AT_ONCE: usize = 1_024;

/// The reading end of the ring buffer.
pub struct Reports(AsyncFd<RingBuf<MapData>>);

impl Reports {
    pub(super) fn new(ring: RingBuf<MapData>) -> Result<Self> {
        // SAFETY: the ring buffer owns its descriptor and keeps the same one until it is dropped.
        let ring = unsafe { AsyncFd::register(ring) }
            .context("cannot wait for the reports of the kernel side")?;
        Ok(Self(ring))
    }

    /// Waits until there are reports and hands some of them to `each`.
    pub async fn next(&mut self, mut each: impl FnMut(Report)) -> Result<()> {
        let mut guard = self
            .0
            .readable_mut()
            .await
            .context("cannot wait for the reports of the kernel side")?;
        if take(guard.get_inner_mut(), &mut each) < TAKEN_AT_ONCE {
            guard.clear_ready();
        }
        Ok(())
    }

    /// Hands everything that is there now to `each`.
    pub fn drain(&mut self, mut each: impl FnMut(Report)) {
        while take(self.0.get_mut(), &mut each) > 0 {}
    }
}

fn take(ring: &mut RingBuf<MapData>, each: &mut impl FnMut(Report)) -> usize {
    for taken in 0..TAKEN_AT_ONCE {
        let Some(item) = ring.next() else {
            return taken;
        };
        if item.len() == size_of::<FlowState>() {
            // SAFETY: the length was checked, any bytes are a valid value, and the read asks for no
            // alignment.
            let state = unsafe { item.as_ptr().cast::<FlowState>().read_unaligned() };
            each(Report::Flow(Box::new(state)));
        } else if item.len() == size_of::<ChunkReport>() {
            // SAFETY: as above.
            let chunk = unsafe { item.as_ptr().cast::<ChunkReport>().read_unaligned() };
            each(Report::Chunk(Box::new(chunk)));
        }
    }
    TAKEN_AT_ONCE
}
