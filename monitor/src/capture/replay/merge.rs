//! Several captures as one stream, in capture time order.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{
    file::{Capture, CaptureError, CapturedPacket},
    input::{BytesRead, STDIN},
    pcapng::PassedOver,
};

/// Captures, of which each is opened when its first packet is due: a rotated set of any number
/// of files needs one or two open at a time. Files whose times overlap are merged.
///
/// Within one file packets keep their order, whatever their time stamps say.
#[derive(Default)]
pub struct Merged {
    /// Not open yet: time of the first packet and file, the next one last.
    waiting: Vec<(u64, PathBuf)>,
    open: Vec<Capture>,
    /// The place in `open` of the capture whose packet is at hand.
    at_hand: Option<usize>,
    bytes_read: BytesRead,
    failures: Vec<CaptureError>,
    remarks: Vec<String>,
    passed_over: PassedOver,
}

impl Merged {
    /// Looks into every file for the time of its first packet. What is read later is added to
    /// `bytes_read`.
    pub fn new(paths: &[PathBuf], bytes_read: BytesRead) -> Self {
        let mut merged = Self {
            bytes_read,
            ..Self::default()
        };
        let alone = paths.len() == 1;
        for path in paths {
            // What cannot be read twice stays open.
            if alone || !is_regular(path) {
                let bytes_read = merged.bytes_read.clone();
                merged.begin(path, &bytes_read);
            } else if let Some(first) = merged.look_into(path) {
                merged.waiting.push((first, path.clone()));
            }
        }
        // The last one is taken first; of the same time, the first on the command line.
        merged.waiting.reverse();
        merged
            .waiting
            .sort_by_key(|&(first, _)| std::cmp::Reverse(first));
        merged
    }

    /// Goes to the next packet; `false` when all captures have ended.
    pub fn advance(&mut self) -> bool {
        if let Some(at) = self.at_hand.take() {
            self.advance_one(at);
        }
        loop {
            let next = self
                .open
                .iter()
                .enumerate()
                .min_by_key(|(_, capture)| capture.time_ns())
                .map(|(at, capture)| (at, capture.time_ns()));
            let due = self.waiting.last().map(|&(first, _)| first);
            match (next, due) {
                (Some((at, time_ns)), due) if due.is_none_or(|due| time_ns <= due) => {
                    self.at_hand = Some(at);
                    return true;
                }
                (_, Some(_)) => {
                    if let Some((_, path)) = self.waiting.pop() {
                        let bytes_read = self.bytes_read.clone();
                        self.begin(&path, &bytes_read);
                    }
                }
                (_, None) => return false,
            }
        }
    }

    /// The packet at hand.
    pub fn packet(&self) -> Option<CapturedPacket<'_>> {
        self.open.get(self.at_hand?)?.packet()
    }

    /// What could not be read, so far.
    pub fn failures(&mut self) -> Vec<CaptureError> {
        std::mem::take(&mut self.failures)
    }

    /// What was passed over in the captures that have ended, in words.
    pub fn remarks(&self) -> &[String] {
        &self.remarks
    }

    /// The same, counted.
    pub fn passed_over(&self) -> &PassedOver {
        &self.passed_over
    }

    /// Opens a capture and goes to its first packet.
    fn begin(&mut self, path: &Path, bytes_read: &BytesRead) {
        match Capture::open(path, bytes_read) {
            Ok(capture) => {
                self.open.push(capture);
                self.advance_one(self.open.len() - 1);
            }
            Err(error) => self.failures.push(error),
        }
    }

    /// The time of a file's first packet; `None` where there is none.
    fn look_into(&mut self, path: &Path) -> Option<u64> {
        let before = self.open.len();
        self.begin(path, &BytesRead::default());
        let capture = self.open.get(before)?;
        let first = capture.time_ns();
        self.open.truncate(before);
        Some(first)
    }

    fn advance_one(&mut self, at: usize) {
        let Some(capture) = self.open.get_mut(at) else {
            return;
        };
        match capture.advance() {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => self.failures.push(error),
        }
        let capture = self.open.remove(at);
        self.remarks.extend(capture.remarks());
        let passed_over = capture.passed_over();
        self.passed_over.add(&passed_over);
    }
}

fn is_regular(path: &Path) -> bool {
    path != Path::new(STDIN) && fs::metadata(path).is_ok_and(|metadata| metadata.is_file())
}
