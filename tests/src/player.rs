//! The viewers: one player a home, fetching chunks as a real one does.
//!
//! A player keeps a few seconds of video in its buffer and fetches the next chunk when there is
//! room for it, over one persistent connection, so that it is busy for a moment and then silent
//! (the on-off pattern of HTTP adaptive streaming). It takes the highest bitrate that is below
//! its estimate of the throughput with a margin, and the lowest one when the buffer runs low.

use std::io::{BufReader, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::addresses::VIDEO_ADDRESS;
use crate::scenario::Video;
use crate::stage::Stage;
use crate::web::{PORT, chunk_bytes, chunk_path};

/// A bitrate is taken when it is below this share of the estimated throughput: the margin that
/// FESTIVE (CoNEXT 2012) argues for against too eager choices.
const SAFETY: f64 = 0.85;
/// How many chunks the throughput estimate looks back on (harmonic mean, as in FESTIVE).
const ESTIMATE_CHUNKS: usize = 5;
/// Below this share of its full buffer a player takes the lowest bitrate.
const LOW_BUFFER: f64 = 0.25;
/// A request unanswered for so long is given up, and the connection with it.
const PATIENCE: Duration = Duration::from_secs(15);

/// When a player asks for its next chunk, as a share of a chunk's time after there was room for one:
/// it looks at its buffer when a timer lets it. Were it always at once, those that once asked at the
/// same time would do so for ever, and each would find the same queue every time (Floyd and
/// Jacobson, "On Traffic Phase Effects in Packet-Switched Gateways", 1992). The same in every run.
fn later(home: Ipv4Addr, chunk: u64) -> f64 {
    // splitmix64 (Steele, Lea, Flood, OOPSLA 2014), its upper 53 bits as a fraction.
    let mut word = (u64::from(u32::from(home)) << 32 | chunk).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((word ^ word >> 31) >> 11) as f64 / (1u64 << 53) as f64
}

/// What a player measured while it fetched one chunk.
#[derive(Debug, Serialize)]
pub struct ChunkReport {
    /// Seconds after the scenario's start when the chunk was asked for.
    pub at_s: f64,
    /// The home's address.
    pub home: Ipv4Addr,
    /// Number of the chunk, from 0.
    pub chunk: u64,
    /// Bitrate that was chosen.
    pub bitrate_kbit: u32,
    /// Size of the body.
    pub bytes: u64,
    /// From the request to the first byte of the answer, in milliseconds.
    pub first_byte_ms: f64,
    /// From the request to the last byte, in milliseconds.
    pub fetch_ms: f64,
    /// Seconds of video in the buffer once the chunk was there.
    pub buffer_s: f64,
    /// Seconds the picture stood still for want of this chunk.
    pub stalled_s: f64,
    /// Why there is no chunk, where there is none.
    pub failed: Option<String>,
}

/// What a player knows when it chooses the next bitrate.
#[derive(Debug, Default)]
struct Estimate {
    /// Throughput of the latest chunks, in kbit/s.
    recent: Vec<f64>,
}

impl Estimate {
    fn add(&mut self, bytes: u64, fetch: Duration) {
        if self.recent.len() == ESTIMATE_CHUNKS {
            self.recent.remove(0);
        }
        let seconds = fetch.as_secs_f64().max(1e-6);
        self.recent.push(bytes as f64 * 8.0 / 1000.0 / seconds);
    }

    /// The bitrate for the next chunk; the lowest one while nothing is known.
    fn choose(&self, ladder: &[u32], buffer_s: f64, full_s: f64) -> u32 {
        let lowest = ladder[0];
        if self.recent.is_empty() || buffer_s < LOW_BUFFER * full_s {
            return lowest;
        }
        let slowness: f64 = self.recent.iter().map(|kbit| 1.0 / kbit).sum();
        let affordable = SAFETY * self.recent.len() as f64 / slowness;
        let fits = |bitrate: &&u32| f64::from(**bitrate) <= affordable;
        ladder.iter().rev().find(fits).copied().unwrap_or(lowest)
    }
}

/// Plays until the end; to be called inside the home's namespace.
///
/// # Errors
/// If the connection cannot be prepared. A chunk that fails is reported, not an error.
pub fn play(
    home: Ipv4Addr,
    video: &Video,
    start: Instant,
    begin: Instant,
    stage: &Arc<Stage>,
    reports: &Sender<ChunkReport>,
) -> Result<()> {
    let ladder = video.ladder_kbit.get_ref();
    let mut estimate = Estimate::default();
    let mut connection: Option<BufReader<TcpStream>> = None;
    // Until when the video in the buffer lasts; the past means that the picture stands still.
    let mut lasts_until = begin;
    let mut chunk = 0;
    let mut next = begin;
    while !stage.wait_until(next) {
        let asked = Instant::now();
        let buffer_s = lasts_until.saturating_duration_since(asked).as_secs_f64();
        let bitrate_kbit = estimate.choose(ladder, buffer_s, video.buffer_s);
        let fetched = fetch(&mut connection, stage, bitrate_kbit, chunk);
        let done = Instant::now();
        if stage.is_over() {
            break;
        }
        let mut report = ChunkReport {
            at_s: asked.duration_since(start).as_secs_f64(),
            home,
            chunk,
            bitrate_kbit,
            bytes: 0,
            first_byte_ms: 0.0,
            fetch_ms: (done - asked).as_secs_f64() * 1000.0,
            buffer_s,
            stalled_s: 0.0,
            failed: None,
        };
        match fetched {
            Ok(first_byte) => {
                let stalled = if chunk == 0 {
                    Duration::ZERO
                } else {
                    done.saturating_duration_since(lasts_until)
                };
                lasts_until = lasts_until.max(done) + Duration::from_secs_f64(video.chunk_s);
                report.bytes = chunk_bytes(bitrate_kbit, video.chunk_s);
                report.first_byte_ms = (first_byte - asked).as_secs_f64() * 1000.0;
                report.buffer_s = lasts_until.saturating_duration_since(done).as_secs_f64();
                report.stalled_s = stalled.as_secs_f64();
                estimate.add(report.bytes, done - asked);
                chunk += 1;
                // Some time after there is room for one more chunk, or at once.
                let room = (lasts_until + Duration::from_secs_f64(video.chunk_s))
                    .checked_sub(Duration::from_secs_f64(video.buffer_s));
                let later = Duration::from_secs_f64(video.chunk_s * later(home, chunk));
                next = room
                    .filter(|room| *room > done)
                    .map_or(done, |room| room + later);
            }
            Err(error) => {
                connection = None;
                report.failed = Some(format!("{error:#}"));
                next = done + Duration::from_secs_f64(video.chunk_s);
            }
        }
        if reports.send(report).is_err() {
            break;
        }
    }
    Ok(())
}

/// Fetches one chunk; returns when its first byte came.
fn fetch(
    connection: &mut Option<BufReader<TcpStream>>,
    stage: &Stage,
    bitrate_kbit: u32,
    chunk: u64,
) -> Result<Instant> {
    let reader = match connection {
        Some(reader) => reader,
        None => connection.insert(connect(stage)?),
    };
    let request = format!(
        "GET {}?chunk={chunk} HTTP/1.1\r\nHost: {VIDEO_ADDRESS}\r\n\r\n",
        chunk_path(bitrate_kbit)
    );
    reader
        .get_mut()
        .write_all(request.as_bytes())
        .context("cannot ask for a chunk")?;
    let (length, first_byte) = read_head(reader)?;
    let mut left = length;
    let mut buffer = [0; 64 * 1024];
    while left > 0 {
        let most = usize::try_from(left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        match reader.read(&mut buffer[..most]) {
            Ok(0) => bail!("the server closed the connection with {left} bytes to come"),
            Ok(size) => left -= size as u64,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot receive a chunk"),
        }
    }
    Ok(first_byte)
}

fn connect(stage: &Stage) -> Result<BufReader<TcpStream>> {
    let server = (VIDEO_ADDRESS, PORT);
    let stream = TcpStream::connect_timeout(&server.into(), PATIENCE)
        .with_context(|| format!("cannot connect to {VIDEO_ADDRESS}:{PORT}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    stage.adopt(&stream)?;
    Ok(BufReader::with_capacity(4096, stream))
}

/// Reads the head of an answer: the body's length, and when the first byte came.
fn read_head(reader: &mut impl Read) -> Result<(u64, Instant)> {
    /// No honest head of our own server is longer.
    const HEAD_MAX: usize = 4096;
    let mut head = Vec::new();
    let mut byte = [0];
    let mut first_byte = None;
    while !head.ends_with(b"\r\n\r\n") {
        reader
            .read_exact(&mut byte)
            .context("the server did not answer")?;
        first_byte.get_or_insert_with(Instant::now);
        head.push(byte[0]);
        if head.len() > HEAD_MAX {
            bail!("the answer's head is longer than {HEAD_MAX} bytes");
        }
    }
    let head = String::from_utf8_lossy(&head);
    let status = head.lines().next().unwrap_or_default();
    if !status.starts_with("HTTP/1.1 200 ") {
        bail!("the server answered {status:?}");
    }
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse().ok());
    match (length, first_byte) {
        (Some(length), Some(first_byte)) => Ok((length, first_byte)),
        _ => bail!("the answer has no Content-Length"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LADDER: [u32; 3] = [150, 300, 500];

    fn estimate(kbit: f64) -> Estimate {
        let mut estimate = Estimate::default();
        estimate.add((kbit * 125.0) as u64, Duration::from_secs(1));
        estimate
    }

    #[test]
    fn a_player_that_knows_nothing_takes_the_lowest_bitrate() {
        assert_eq!(Estimate::default().choose(&LADDER, 6.0, 6.0), 150);
    }

    #[test]
    fn a_player_takes_the_highest_bitrate_below_its_throughput() {
        assert_eq!(estimate(10_000.0).choose(&LADDER, 6.0, 6.0), 500);
        assert_eq!(estimate(400.0).choose(&LADDER, 6.0, 6.0), 300);
        assert_eq!(estimate(100.0).choose(&LADDER, 6.0, 6.0), 150);
    }

    #[test]
    fn a_player_with_a_low_buffer_takes_the_lowest_bitrate() {
        assert_eq!(estimate(10_000.0).choose(&LADDER, 1.0, 6.0), 150);
    }

    #[test]
    fn one_slow_chunk_weighs_more_than_a_fast_one() {
        let mut estimate = estimate(10_000.0);
        estimate.add(12_500, Duration::from_secs(1));
        assert_eq!(estimate.choose(&LADDER, 6.0, 6.0), 150);
    }

    #[test]
    fn players_that_once_asked_together_do_so_no_more() {
        let homes = [[198, 18, 4, 11], [198, 18, 5, 11], [198, 18, 14, 10]].map(Ipv4Addr::from);
        for home in homes {
            let times: Vec<f64> = (0..1_000).map(|chunk| later(home, chunk)).collect();
            assert!(times.iter().all(|time| (0.0..1.0).contains(time)));
            let mean = times.iter().sum::<f64>() / 1_000.0;
            assert!((0.45..0.55).contains(&mean), "{mean}");
        }
        let near = |chunk: &u64| (later(homes[0], *chunk) - later(homes[1], *chunk)).abs() < 0.05;
        // A tenth of the pairs by chance.
        let together = (0..1_000).filter(near).count();
        assert!((50..150).contains(&together), "{together}");
    }

    #[test]
    fn the_head_of_an_answer_tells_the_length() {
        let mut answer = &b"HTTP/1.1 200 OK\r\ncontent-length: 42\r\n\r\nbody"[..];
        let (length, _) = read_head(&mut answer).unwrap();
        assert_eq!((length, answer), (42, &b"body"[..]));
    }

    #[test]
    fn an_answer_other_than_200_is_a_failure() {
        let mut answer = &b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"[..];
        let error = read_head(&mut answer).unwrap_err().to_string();
        assert!(error.contains("404"), "{error}");
    }
}
