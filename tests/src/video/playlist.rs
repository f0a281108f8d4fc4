//! HLS playlists (RFC 8216): what is on offer.

use anyhow::{Context, Result, anyhow, bail};
use m3u8_rs::{AlternativeMediaType, Playlist, parse_playlist_res};

/// The qualities of the picture, and the sound that goes with each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ladder {
    /// By rising bandwidth.
    pub renditions: Vec<Rendition>,
    /// The sound's playlist, where it is not in the picture's segments.
    pub sound: Option<String>,
}

/// One quality of the picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendition {
    /// Peak bandwidth, sound included, bit/s.
    pub bandwidth_bps: u64,
    /// Its playlist.
    pub path: String,
}

/// One rendition's segments.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// What a decoder needs before the first segment, where it is a file of its own.
    pub header: Option<String>,
    /// In the order of time.
    pub segments: Vec<Segment>,
}

/// One file of a rendition.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Where it is.
    pub path: String,
    /// Playing time.
    pub duration_s: f64,
}

impl Ladder {
    /// Reads a master playlist; paths in it are relative to its own, `at`.
    ///
    /// # Errors
    /// If it is no master playlist, or offers nothing.
    pub fn parse(text: &[u8], at: &str) -> Result<Self> {
        let Playlist::MasterPlaylist(master) = parse(text, at)? else {
            bail!("{at} is a playlist of segments, not of playlists");
        };
        let mut renditions: Vec<Rendition> = master
            .variants
            .iter()
            .filter(|variant| !variant.is_i_frame)
            .map(|variant| Rendition {
                bandwidth_bps: variant.bandwidth,
                path: resolve(at, &variant.uri),
            })
            .collect();
        renditions.sort_by_key(|rendition| rendition.bandwidth_bps);
        if renditions.is_empty() {
            bail!("{at} offers no rendition");
        }
        let sound = master
            .alternatives
            .iter()
            .filter(|media| media.media_type == AlternativeMediaType::Audio)
            .find_map(|media| media.uri.as_deref())
            .map(|uri| resolve(at, uri));
        Ok(Self { renditions, sound })
    }
}

impl Track {
    /// Reads a media playlist; paths in it are relative to its own, `at`.
    ///
    /// # Errors
    /// If it is no media playlist, or has no segments.
    pub fn parse(text: &[u8], at: &str) -> Result<Self> {
        let Playlist::MediaPlaylist(media) = parse(text, at)? else {
            bail!("{at} is a playlist of playlists, not of segments");
        };
        let segments: Vec<Segment> = media
            .segments
            .iter()
            .map(|segment| Segment {
                path: resolve(at, &segment.uri),
                duration_s: f64::from(segment.duration),
            })
            .collect();
        let first = media.segments.first();
        let first = first.with_context(|| format!("{at} has no segments"))?;
        Ok(Self {
            header: first.map.as_ref().map(|map| resolve(at, &map.uri)),
            segments,
        })
    }
}

fn parse(text: &[u8], at: &str) -> Result<Playlist> {
    parse_playlist_res(text).map_err(|_| anyhow!("{at} is no HLS playlist"))
}

/// A relative reference in the playlist at `at` (RFC 3986, 5.2, for paths that only go down).
fn resolve(at: &str, uri: &str) -> String {
    match at.rsplit_once('/') {
        Some((folder, _)) if !uri.starts_with('/') => format!("{folder}/{uri}"),
        _ => uri.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASTER: &str = "#EXTM3U\n#EXT-X-VERSION:7\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"s\",NAME=\"a\",DEFAULT=YES,URI=\"4/media.m3u8\"\n\
        #EXT-X-STREAM-INF:BANDWIDTH=985600,RESOLUTION=480x270,CODECS=\"avc1.42c015\",AUDIO=\"s\"\n\
        1/media.m3u8\n\
        #EXT-X-STREAM-INF:BANDWIDTH=545600,RESOLUTION=320x180,CODECS=\"avc1.42c00d\",AUDIO=\"s\"\n\
        0/media.m3u8\n";
    const MEDIA: &str = "#EXTM3U\n#EXT-X-VERSION:7\n#EXT-X-TARGETDURATION:2\n\
        #EXT-X-PLAYLIST-TYPE:VOD\n#EXT-X-MAP:URI=\"init_3.mp4\"\n\
        #EXTINF:2.000000,\n0000.m4s\n#EXTINF:1.500000,\n0001.m4s\n#EXT-X-ENDLIST\n";

    #[test]
    fn a_ladder_rises_and_its_paths_are_the_servers() {
        let ladder = Ladder::parse(MASTER.as_bytes(), "/live/master.m3u8").unwrap();
        let paths: Vec<&str> = ladder.renditions.iter().map(|r| r.path.as_str()).collect();
        assert_eq!(paths, ["/live/0/media.m3u8", "/live/1/media.m3u8"]);
        assert_eq!(ladder.sound.as_deref(), Some("/live/4/media.m3u8"));
    }

    #[test]
    fn a_track_has_its_segments_in_order() {
        let track = Track::parse(MEDIA.as_bytes(), "/3/media.m3u8").unwrap();
        assert_eq!(track.header.as_deref(), Some("/3/init_3.mp4"));
        assert_eq!(track.segments[1].path, "/3/0001.m4s");
        assert!((track.segments[1].duration_s - 1.5).abs() < 1e-6);
    }

    #[test]
    fn one_kind_is_not_taken_for_the_other() {
        assert!(Track::parse(MASTER.as_bytes(), "/m").is_err());
        assert!(Ladder::parse(MEDIA.as_bytes(), "/m").is_err());
        assert!(Ladder::parse(b"<html>", "/m").is_err());
    }
}
