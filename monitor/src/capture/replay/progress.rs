//! How far a replay is, on a terminal.

use std::{
    cell::Cell,
    env, fs,
    io::{IsTerminal as _, stderr},
    path::PathBuf,
    sync::atomic::Ordering,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::input::{BytesRead, STDIN};

/// Times a second that it is drawn.
const DRAWN_HZ: u8 = 5;

/// Packets after which it is looked again how far we are.
const PACKETS_A_LOOK: u32 = 16_384;

/// A line on stderr, if that is a terminal that can take a line back.
pub struct Progress {
    bar: ProgressBar,
    bytes_read: BytesRead,
    packets: Cell<u32>,
}

impl Progress {
    /// Counts up to the size of the files on the disk, where all of them have one.
    pub fn new(files: &[PathBuf], bytes_read: BytesRead) -> Self {
        let dumb = env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        let bar = if dumb || !stderr().is_terminal() {
            ProgressBar::hidden()
        } else {
            let total = total_bytes(files);
            let target = ProgressDrawTarget::stderr_with_hz(DRAWN_HZ);
            let bar = ProgressBar::with_draw_target(total, target);
            // No colours, so that NO_COLOR has nothing to ask for.
            let template = match total {
                Some(_) => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
                None => "{bytes}, {bytes_per_sec}",
            };
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar
        };
        Self {
            bar,
            bytes_read,
            packets: Cell::new(0),
        }
    }

    /// One more packet was read.
    pub fn packet(&self) {
        let packets = self.packets.get().wrapping_add(1);
        self.packets.set(packets);
        if packets.is_multiple_of(PACKETS_A_LOOK) {
            self.bar
                .set_position(self.bytes_read.load(Ordering::Relaxed));
        }
    }

    /// Does something that may write to the same terminal.
    pub fn suspended<R>(&self, what: impl FnOnce() -> R) -> R {
        self.bar.suspend(what)
    }

    /// Takes the line back.
    pub fn end(&self) {
        self.bar.finish_and_clear();
    }
}

fn total_bytes(files: &[PathBuf]) -> Option<u64> {
    files
        .iter()
        .map(|path| {
            let metadata = fs::metadata(path).ok()?;
            (path.as_os_str() != STDIN && metadata.is_file()).then_some(metadata.len())
        })
        .sum()
}
