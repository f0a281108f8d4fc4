//! The video of the lab: an HLS ladder (RFC 8216) that ffmpeg encodes once, into the cache.
//!
//! fMP4 segments of two seconds, the sound in a rendition of its own as services have it, so that a
//! player fetches two streams. The picture is ffmpeg's moving test card under noise of a fixed seed:
//! it needs its bitrate, and one version of ffmpeg always makes the same bytes of it (one thread, no
//! times or versions in the files).

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};

use crate::{cache::Cache, process::output_of, programs};

/// Playing time. A player with a buffer of ten seconds shows start, steady state and end in it.
pub const LENGTH_S: u32 = 64;
/// Playing time of a segment; key frames are as far apart.
const SEGMENT_S: u32 = 2;
const FRAMES_PER_S: u32 = 25;
const SOUND_KBIT: u32 = 96;

/// The folder of the cache, which tells when any of this changes.
const FOLDER: &str = "hls-ladder-1";
/// The playlist that names the others.
pub const MASTER: &str = "master.m3u8";

/// One quality of the picture.
pub struct Rendition {
    width: u32,
    height: u32,
    kbit: u32,
}

const fn rendition(width: u32, height: u32, kbit: u32) -> Rendition {
    Rendition {
        width,
        height,
        kbit,
    }
}

/// From a bad mobile line to what HD is taken to need, and beyond: the best one can only be played
/// where 2.5 Mbit/s are delivered.
pub const RENDITIONS: [Rendition; 4] = [
    rendition(320, 180, 400),
    rendition(480, 270, 800),
    rendition(640, 360, 1600),
    rendition(1280, 720, 3000),
];

/// Whether it was encoded.
pub fn is_there(cache: &Cache) -> bool {
    folder(cache).join(MASTER).is_file()
}

/// Where it is.
pub fn folder(cache: &Cache) -> PathBuf {
    cache.path(FOLDER)
}

/// Every file: where it is, and where it goes in a folder of someone else's.
///
/// # Errors
/// When the folder cannot be read.
pub fn files(cache: &Cache, below: &Path) -> Result<Vec<(PathBuf, PathBuf)>> {
    let root = folder(cache);
    let mut folders = vec![root.clone()];
    let mut files = Vec::new();
    while let Some(folder) = folders.pop() {
        let entries =
            fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(relative) = path.strip_prefix(&root) {
                let to = below.join(relative);
                files.push((path, to));
            }
        }
    }
    Ok(files)
}

/// Encodes it; the caller holds the cache's lock.
///
/// # Errors
/// When there is no ffmpeg, or it fails; its words are in the message.
pub fn encode(cache: &Cache) -> Result<()> {
    let staged = cache.stage(FOLDER)?;
    let mut ffmpeg = programs::find(cache, "ffmpeg")?.command();
    output_of(ffmpeg.current_dir(&staged).args(arguments()))?;
    let last = LENGTH_S / SEGMENT_S - 1;
    let last = staged.join(format!("{}/{last:04}.m4s", RENDITIONS.len() - 1));
    ensure!(last.is_file(), "ffmpeg made no {}", last.display());
    cache.publish(&staged, FOLDER)
}

fn arguments() -> Vec<String> {
    let picture = format!(
        "testsrc2=size=1280x720:rate={FRAMES_PER_S}:duration={LENGTH_S},\
         noise=alls=12:allf=t:all_seed=1"
    );
    let sound = format!("sine=frequency=440:beep_factor=4:sample_rate=48000:duration={LENGTH_S}");
    let mut filter = format!("[0:v]split={}", RENDITIONS.len());
    for index in 0..RENDITIONS.len() {
        filter.push_str(&format!("[in{index}]"));
    }
    let mut streams = String::new();
    for (index, Rendition { width, height, .. }) in RENDITIONS.iter().enumerate() {
        filter.push_str(&format!(";[in{index}]scale={width}:{height}[v{index}]"));
        streams.push_str(&format!("v:{index},agroup:sound "));
    }
    streams.push_str("a:0,agroup:sound,default:yes");

    let words =
        |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
    let mut all = words("-hide_banner -nostdin -loglevel error");
    all.extend(words("-f lavfi -i"));
    all.push(picture);
    all.extend(words("-f lavfi -i"));
    all.push(sound);
    all.push("-filter_complex".to_owned());
    all.push(filter);
    for index in 0..RENDITIONS.len() {
        all.push("-map".to_owned());
        all.push(format!("[v{index}]"));
    }
    let key_frames = FRAMES_PER_S * SEGMENT_S;
    all.extend(words(&format!(
        "-map 1:a -c:v libx264 -preset ultrafast -threads 1 -pix_fmt yuv420p \
         -g {key_frames} -keyint_min {key_frames} -sc_threshold 0 \
         -flags +bitexact -fflags +bitexact -c:a aac -b:a {SOUND_KBIT}k -ac 2"
    )));
    for (index, Rendition { kbit, .. }) in RENDITIONS.iter().enumerate() {
        all.extend(words(&format!(
            "-b:v:{index} {kbit}k -maxrate:v:{index} {}k -bufsize:v:{index} {}k",
            kbit * 5 / 4,
            kbit * 2
        )));
    }
    all.extend(words(&format!(
        "-f hls -hls_time {SEGMENT_S} -hls_playlist_type vod -hls_segment_type fmp4 \
         -hls_flags independent_segments -master_pl_name {MASTER} -var_stream_map"
    )));
    all.push(streams);
    all.extend(words("-hls_segment_filename %v/%04d.m4s %v/media.m3u8"));
    all
}
