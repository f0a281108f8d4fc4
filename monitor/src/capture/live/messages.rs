//! Messages of the kernel programs, when they were asked for.

use anyhow::{Context as _, Result};
use aya::Ebpf;
use aya_log::EbpfLogger;
use log::Log;
use tokio::io::unix::AsyncFd;

/// The reading end of aya-log's ring buffer.
pub struct KernelMessages(Option<AsyncFd<EbpfLogger<&'static dyn Log>>>);

impl KernelMessages {
    pub(super) fn new(ebpf: &mut Ebpf) -> Result<Self> {
        let logger =
            EbpfLogger::init(ebpf).context("cannot read the messages of the kernel programs")?;
        // SAFETY: the logger owns its descriptor and keeps the same one until it is dropped.
        let logger = unsafe { AsyncFd::register(logger) }
            .context("cannot wait for the messages of the kernel programs")?;
        Ok(Self(Some(logger)))
    }

    pub(super) fn none() -> Self {
        Self(None)
    }

    /// Waits for messages and hands them to the `log` crate; without a logger, for ever.
    pub async fn next(&mut self) -> Result<()> {
        let Some(logger) = &mut self.0 else {
            return std::future::pending().await;
        };
        let mut guard = logger
            .readable_mut()
            .await
            .context("cannot wait for the messages of the kernel programs")?;
        guard.get_inner_mut().flush();
        guard.clear_ready();
        Ok(())
    }
}
