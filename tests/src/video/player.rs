//! A player of HLS: playlists, then segment after segment, as fast as its buffer has room, in the
//! quality that [`Abr`] chooses.
//!
//! Picture and sound are separate files. With HTTP/1.1 each has a connection of its own, with
//! HTTP/2 both are asked for at once on one connection, as browsers do it.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::video::abr::Abr;
use crate::video::connection::{Connection, Fetched, Http, Received};
use crate::video::playlist::{Ladder, Track};
use crate::video::tls::Certificates;

/// Seconds of video a player holds before it pauses fetching.
const FULL_BUFFER_S: f64 = 10.0;
/// Where every presentation begins.
pub const MASTER: &str = "/master.m3u8";
/// What services let their players send with every path: who, until when, signed.
const TOKEN: &str = "?session=6f1c9ab4e27d4d0c8f35&expires=1893456000&signature=\
    b0a7d1c54be94c5fa1e86d2f09c37a8e5d41f6720c9e4b18";

/// A viewer at home.
#[derive(Debug, Clone)]
pub struct Viewer {
    /// The home's address.
    pub home: Ipv4Addr,
    /// The video server.
    pub server: SocketAddr,
    /// Its name, which goes into SNI.
    pub name: String,
    /// What the browser prefers.
    pub http: Http,
    /// No segment is asked for after that.
    pub until: Instant,
}

/// One file that a player fetched.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileReport {
    /// When it was asked for, seconds since 1970: when the request went into the socket.
    pub asked: f64,
    /// The client's end of the connection.
    pub client: SocketAddr,
    /// Its HTTP.
    pub http: Http,
    /// Which file.
    pub path: String,
    /// The picture's quality, from 0; absent for playlists and sound.
    pub rendition: Option<usize>,
    /// Size of the body.
    pub body_bytes: u64,
    /// Until the answer's head was there, seconds.
    pub first_byte_s: f64,
    /// Until its last packet arrived, by the kernel, seconds.
    pub duration_s: f64,
    /// Until the player had all of it, seconds.
    pub read_s: f64,
    /// What the connection had received when it was asked for ...
    pub before: Received,
    /// ... and when it was whole.
    pub after: Received,
    /// Seconds of video in the buffer when it was asked for.
    pub buffer_s: f64,
    /// Seconds that the picture stood still for want of it.
    pub stalled_s: f64,
}

/// Plays until the presentation or the time is over, and closes its connections.
///
/// # Errors
/// If a file cannot be had, or is no playlist where one should be.
pub async fn play(
    viewer: &Viewer,
    certificates: &Arc<Certificates>,
    reports: &Sender<FileReport>,
) -> Result<()> {
    let open = || Connection::open(viewer.server, &viewer.name, viewer.http, certificates);
    let picture = open().await?;
    let log = Log { viewer, reports };
    let (fetched, text) = get(&picture, MASTER).await?;
    log.file(&picture, MASTER, None, &fetched, 0.0, 0.0);
    let ladder = Ladder::parse(&text, MASTER)?;

    let own_connection = match viewer.http {
        Http::One if ladder.sound.is_some() => Some(open().await?),
        Http::One | Http::Two => None,
    };
    let sound_connection = own_connection.as_ref().unwrap_or(&picture);
    let sound = match &ladder.sound {
        Some(path) => Some(track(&log, sound_connection, path).await?),
        None => None,
    };
    let mut tracks: Vec<Option<Track>> = vec![None; ladder.renditions.len()];
    tracks[0] = Some(track(&log, &picture, &ladder.renditions[0].path).await?);
    let segments = tracks[0].as_ref().map_or(0, |track| track.segments.len());
    let segment_s = tracks[0]
        .as_ref()
        .map_or(1.0, |track| track.segments[0].duration_s);
    let rates = ladder.renditions.iter().map(|r| r.bandwidth_bps as f64);
    let mut abr = Abr::new(rates.collect(), FULL_BUFFER_S, segment_s);
    let mut screen = Screen::default();
    for index in 0..segments {
        // Room for one more.
        let room = Duration::from_secs_f64((FULL_BUFFER_S - segment_s).max(0.0));
        if let Some(when) = screen.lasts_until.and_then(|then| then.checked_sub(room)) {
            tokio::time::sleep_until(when.into()).await;
        }
        let begin = Instant::now();
        if begin >= viewer.until {
            break;
        }
        let buffer_s = screen.buffer_s(begin);
        let rendition = abr.choose(buffer_s);
        if tracks[rendition].is_none() {
            let path = &ladder.renditions[rendition].path;
            tracks[rendition] = Some(track(&log, &picture, path).await?);
        }
        let segment = tracks[rendition]
            .as_ref()
            .and_then(|t| t.segments.get(index));
        let segment = segment.with_context(|| format!("rendition {rendition} ends early"))?;
        let heard = sound.as_ref().and_then(|track| track.segments.get(index));
        let (seen, heard) = tokio::join!(get(&picture, &segment.path), async {
            match heard {
                Some(segment) => Some((segment, get(sound_connection, &segment.path).await)),
                None => None,
            }
        });
        let (seen, _) = seen?;
        if let Some((segment, fetched)) = heard {
            let (fetched, _) = fetched?;
            log.file(
                sound_connection,
                &segment.path,
                None,
                &fetched,
                buffer_s,
                0.0,
            );
        }
        let stalled_s = screen.show(Instant::now(), segment.duration_s);
        abr.fetched(seen.body_bytes, seen.duration);
        log.file(
            &picture,
            &segment.path,
            Some(rendition),
            &seen,
            buffer_s,
            stalled_s,
        );
    }
    if let Some(connection) = own_connection {
        connection.close().await;
    }
    picture.close().await;
    Ok(())
}

async fn get(connection: &Connection, path: &str) -> Result<(Fetched, Vec<u8>)> {
    connection.get(&format!("{path}{TOKEN}")).await
}

/// Fetches a playlist of segments, and what a decoder needs before the first.
async fn track(log: &Log<'_>, connection: &Connection, path: &str) -> Result<Track> {
    let (fetched, text) = get(connection, path).await?;
    log.file(connection, path, None, &fetched, 0.0, 0.0);
    let track = Track::parse(&text, path)?;
    if let Some(header) = &track.header {
        let (fetched, _) = get(connection, header).await?;
        log.file(connection, header, None, &fetched, 0.0, 0.0);
    }
    Ok(track)
}

/// What the viewer sees.
#[derive(Debug, Default)]
struct Screen {
    /// Until when the video in the buffer lasts; the past means that the picture stands still.
    lasts_until: Option<Instant>,
}

impl Screen {
    fn buffer_s(&self, now: Instant) -> f64 {
        self.lasts_until.map_or(0.0, |then| {
            then.saturating_duration_since(now).as_secs_f64()
        })
    }

    /// A segment is there; how long the picture stood still for want of it. The first one ends no
    /// stall: it was the start.
    fn show(&mut self, now: Instant, duration_s: f64) -> f64 {
        let lasted_until = self.lasts_until.unwrap_or(now);
        let stalled = now.saturating_duration_since(lasted_until);
        self.lasts_until = Some(lasted_until.max(now) + Duration::from_secs_f64(duration_s));
        stalled.as_secs_f64()
    }
}

struct Log<'a> {
    viewer: &'a Viewer,
    reports: &'a Sender<FileReport>,
}

impl Log<'_> {
    fn file(
        &self,
        connection: &Connection,
        path: &str,
        rendition: Option<usize>,
        fetched: &Fetched,
        buffer_s: f64,
        stalled_s: f64,
    ) {
        let report = FileReport {
            asked: seconds_since_1970(fetched.asked),
            client: connection.local(),
            http: self.viewer.http,
            path: path.to_owned(),
            rendition,
            body_bytes: fetched.body_bytes,
            first_byte_s: fetched.first_byte.as_secs_f64(),
            duration_s: seconds_since_1970(fetched.arrived) - seconds_since_1970(fetched.asked),
            read_s: fetched.duration.as_secs_f64(),
            before: fetched.before,
            after: fetched.after,
            buffer_s,
            stalled_s,
        };
        // Nobody listens any more once the lab gave up.
        let _ = self.reports.send(report);
    }
}

/// As nginx and the daemon count.
#[must_use]
pub fn seconds_since_1970(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_picture_stands_still_when_the_buffer_ran_out() {
        let start = Instant::now();
        let mut screen = Screen::default();
        assert!(screen.show(start, 2.0) < 1e-9);
        assert!((screen.buffer_s(start + Duration::from_millis(500)) - 1.5).abs() < 1e-9);
        let late = start + Duration::from_secs(3);
        assert!((screen.show(late, 2.0) - 1.0).abs() < 1e-9);
        assert!((screen.buffer_s(late) - 2.0).abs() < 1e-9);
    }
}
