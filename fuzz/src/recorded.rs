//! Pieces of real BMP sessions and MRT files, where the environment says that there are some.

use std::{env, fs, io::Read as _, path::PathBuf};

use lastmile::capture::replay::read;

const CAPTURES_VARIABLE: &str = "LASTMILE_CAPTURES";

/// A piece is at most this long, bytes: short inputs are many inputs.
const PIECE_MAX: usize = 1_500;

/// Pieces of each file, all over it.
const PIECES: usize = 12;

/// Whole messages of each session, some at a time.
pub fn bmp() -> Vec<Vec<u8>> {
    const HEADER_LENGTH: usize = 6;
    let length = |header: &[u8]| u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let sessions = files("bmp").into_iter().map(|path| {
        let mut stream = Vec::new();
        // One connection in order, one way only.
        let taken = read(&path, |_, packet| {
            const ETHERNET: usize = 14;
            let ip = &packet.bytes[ETHERNET..];
            let tcp = &ip[usize::from(ip[0] & 15) * 4..];
            let total = usize::from(u16::from_be_bytes([ip[2], ip[3]]));
            let end = total - usize::from(ip[0] & 15) * 4;
            stream.extend_from_slice(&tcp[usize::from(tcp[12] >> 4) * 4..end]);
        });
        taken.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        pieces(&stream, HEADER_LENGTH, |header| length(header) as usize)
    });
    sessions.flatten().collect()
}

/// Whole records of each file, some at a time.
pub fn mrt() -> Vec<Vec<u8>> {
    const HEADER_LENGTH: usize = 12;
    let of_file = |path: PathBuf| {
        let mut stream = Vec::new();
        let file = fs::File::open(&path)
            .and_then(|file| flate2::read::MultiGzDecoder::new(file).read_to_end(&mut stream));
        file.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        pieces(&stream, HEADER_LENGTH, |header| {
            let length = u32::from_be_bytes([header[8], header[9], header[10], header[11]]);
            HEADER_LENGTH + length as usize
        })
    };
    files("mrt").into_iter().flat_map(of_file).collect()
}

fn files(folder: &str) -> Vec<PathBuf> {
    let Some(captures) = env::var_os(CAPTURES_VARIABLE) else {
        return Vec::new();
    };
    let folder = PathBuf::from(captures).join(folder);
    let entries = fs::read_dir(&folder)
        .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
    let mut files: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    files.sort();
    files
}

/// Some of the stream's pieces, each of whole messages.
fn pieces(stream: &[u8], header_len: usize, len: impl Fn(&[u8]) -> usize) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = vec![Vec::new()];
    let mut rest = stream;
    while rest.len() >= header_len {
        let (message, after) = rest.split_at(len(rest).clamp(header_len, rest.len()));
        rest = after;
        if all
            .last()
            .is_some_and(|piece| piece.len() + message.len() > PIECE_MAX)
        {
            all.push(Vec::new());
        }
        if let Some(piece) = all.last_mut()
            && message.len() <= PIECE_MAX
        {
            piece.extend_from_slice(message);
        }
    }
    let every = all.len().div_ceil(PIECES);
    all.into_iter().step_by(every).collect()
}
