//! Real video (HLS by ffmpeg, nginx over TLS, HTTP/1.1 and HTTP/2, players that adapt) across shaped
//! links: the daemon's chunks, HDratio and sessions against nginx's access log and the players.
//!
//! `cargo xtask video` plays the same with SSH beside it.

mod support;

use std::{env, path::PathBuf};

use lastmile_lab::video::{
    report::Report,
    run::{self, Options},
};

use support::chain::queue_or_skip;

/// Names the folder of the HLS ladder that set-up encoded.
const LADDER_VARIABLE: &str = "LASTMILE_LADDER";

/// Given five homes that watch, with and without room for HD, and three with other traffic, when
/// everything was fetched, then nearly every chunk of the access log was found, with exactly its
/// bytes and within a round trip of its time, and HDratio and sessions are right.
#[test]
fn video_is_found_chunk_by_chunk() {
    if !support::root_or_skip("network namespaces and BPF programs") || !queue_or_skip("netem") {
        return;
    }
    let Some(ladder) = env::var_os(LADDER_VARIABLE).map(PathBuf::from) else {
        println!("SKIPPED: {LADDER_VARIABLE} names no HLS ladder; `cargo xtask test` has one");
        return;
    };
    let out = env::temp_dir().join(format!("lastmile-video-{}", std::process::id()));
    let played = run::play(&Options {
        ladder,
        program: env!("CARGO_BIN_EXE_lastmile").into(),
        daemon: String::new(),
        ssh: false,
        out: out.clone(),
    })
    .expect("everything is played");
    let report = Report::new(&played).expect("players and nginx agree");
    println!("{report}");
    let shortcomings = report.shortcomings();
    assert!(shortcomings.is_empty(), "{shortcomings:#?}");
    std::fs::remove_dir_all(out).expect("the results can be removed");
}
