//! Real video in the lab: HLS that ffmpeg encoded, served by nginx over TLS and played by players
//! that adapt, among web pages, SSH and downloads.
//!
//! [`playlist`] reads what is on offer, [`abr`] chooses from it, [`connection`] fetches by HTTP/1.1
//! or HTTP/2 over [`tls`] and counts every byte that TCP delivers, and [`player`] plays. [`others`]
//! is the traffic that is no video. [`server`] runs nginx, whose access log says what was served
//! when. [`run`] conducts.

pub mod abr;
pub mod connection;
pub mod others;
pub mod player;
pub mod playlist;
pub mod run;
pub mod server;
pub mod tls;
