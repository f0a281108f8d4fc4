//! How much a flow looks like video by its volume over time alone: for flows that have no name.
//!
//! A player that keeps its buffer full fetches a chunk, waits, fetches the next: on and off, for
//! minutes, at far less than the path could carry (Rao et al., "Network Characteristics of Video
//! Streaming Traffic", CoNEXT 2011). A page is over in seconds, a download is on all the time,
//! and a terminal moves next to nothing. A player that cannot fill its buffer, and the first
//! seconds of any, look like a download; a download behind a slow sender looks like video. That
//! is why this is a fallback, and has a confidence.

/// A flow's life so far.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Figures {
    /// Since its first packet.
    pub age_us: u64,
    /// Payload toward the client.
    pub bytes: u64,
    /// Payload from the client: requests.
    pub request_bytes: u64,
    /// Times at which something new was fetched: chunks where they are known, else busy periods
    /// of a size that is worth counting.
    pub chunks: u64,
    /// Time with data outstanding toward the client.
    pub busy_us: u64,
}

/// How sure it can be at best: never as sure as a name.
const CONFIDENCE_MAX: f64 = 0.9;

/// Younger flows are nothing yet: players fill their buffers for 10 to 30 s first (Rao et al.).
const AGE_MIN_US: u64 = 15_000_000;
/// The lowest rung of common HLS ladders (Apple's authoring specification: 145 kbit/s), a half of
/// it for what is rounded off.
const RATE_MIN_BPS: f64 = 70_000.0;
/// Twice the highest rung of 4K streaming (Netflix and YouTube recommend 15 to 25 Mbit/s).
const RATE_MAX_BPS: f64 = 50_000_000.0;
/// Chunks are 2 to 10 s of video. One of 2 s at the lowest rate has 36 KB; below 16 KB it is a
/// message, and above 32 MB (10 s at 25 Mbit/s) a file.
const CHUNK_MIN: f64 = 16_000.0;
const CHUNK_MAX: f64 = 32_000_000.0;
/// Two are no pattern.
const CHUNKS_MIN: u64 = 3;
/// A request for every chunk, and no uploads.
const REQUEST_SHARE_MAX: f64 = 0.2;
/// Off for at least this share of the time ...
const OFF_MIN: f64 = 0.1;
/// ... and chunks this far apart, at least and at most.
const SPACING_MIN_S: f64 = 0.8;
const SPACING_MAX_S: f64 = 15.0;

/// How much it looks like video, 0 to 0.9. `None`: too young, or too little was sent to say.
pub fn confidence(figures: &Figures) -> Option<f64> {
    if figures.age_us < AGE_MIN_US || figures.bytes == 0 {
        return None;
    }
    let age_s = figures.age_us as f64 / 1e6;
    let rate_bps = figures.bytes as f64 * 8.0 / age_s;
    let chunks = figures.chunks;
    let chunk = figures.bytes as f64 / chunks.max(1) as f64;
    let spacing_s = age_s / chunks.max(1) as f64;
    let off = 1.0 - (figures.busy_us as f64 / figures.age_us as f64).min(1.0);
    let excluded = !(RATE_MIN_BPS..=RATE_MAX_BPS).contains(&rate_bps)
        || chunks < CHUNKS_MIN
        || !(CHUNK_MIN..=CHUNK_MAX).contains(&chunk)
        || figures.request_bytes as f64 > REQUEST_SHARE_MAX * figures.bytes as f64;
    if excluded {
        return Some(0.0);
    }
    // Each sign alone is weak: half for the shape that is left, the rest for being on and off as
    // often as a player is.
    let on_off = (off / OFF_MIN).min(1.0);
    let paced = f64::from(u8::from(
        (SPACING_MIN_S..=SPACING_MAX_S).contains(&spacing_s),
    ));
    Some(CONFIDENCE_MAX * (0.3 + 0.35 * on_off + 0.35 * paced))
}

/// From here on a flow counts as video.
pub const IS_VIDEO: f64 = 0.7;

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn is_video(figures: Figures) -> bool {
        confidence(&figures).is_some_and(|confidence| confidence >= IS_VIDEO)
    }

    #[test]
    fn a_player_that_waits_between_chunks_is_video() {
        // 1.5 Mbit/s in chunks of 4 s over a path of 8 Mbit/s.
        let player = Figures {
            age_us: 60 * S,
            bytes: 11_250_000,
            request_bytes: 8_000,
            chunks: 15,
            busy_us: 11 * S,
        };
        assert!(is_video(player));
        assert_eq!(
            confidence(&Figures {
                age_us: 5 * S,
                ..player
            }),
            None
        );
    }

    #[test]
    fn downloads_pages_terminals_and_uploads_are_not() {
        let download = Figures {
            age_us: 60 * S,
            bytes: 300_000_000,
            request_bytes: 500,
            chunks: 1,
            busy_us: 60 * S,
        };
        // A page, then an idle connection.
        let page = Figures {
            age_us: 60 * S,
            bytes: 900_000,
            request_bytes: 20_000,
            chunks: 90,
            busy_us: 2 * S,
        };
        let terminal = Figures {
            age_us: 600 * S,
            bytes: 200_000,
            request_bytes: 40_000,
            chunks: 2_000,
            busy_us: 30 * S,
        };
        let upload = Figures {
            age_us: 60 * S,
            bytes: 1_000_000,
            request_bytes: 40_000_000,
            chunks: 20,
            busy_us: 3 * S,
        };
        for other in [download, page, terminal, upload] {
            assert!(!is_video(other), "{other:?}");
        }
    }

    #[test]
    fn a_download_that_is_always_on_is_no_video_even_when_it_looks_cut() {
        let slow = Figures {
            age_us: 60 * S,
            bytes: 7_500_000,
            request_bytes: 500,
            chunks: 10,
            busy_us: 60 * S,
        };
        assert!(!is_video(slow));
    }
}
