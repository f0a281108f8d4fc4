//! Real video in the lab: HLS that ffmpeg encoded, served by nginx over TLS and played by players
//! that adapt, among web pages, SSH and downloads.
//!
//! [`playlist`] reads what is on offer, [`abr`] chooses from it, [`connection`] fetches by HTTP/1.1
//! or HTTP/2 over [`tls`] and counts every byte that TCP delivers, and [`player`] plays. [`others`]
//! is the traffic that is no video. [`server`] runs nginx, whose access log says what was served
//! when. [`served`] makes of it, and of the players' counts, what must be found; [`found`] reads
//! what the daemon logged; [`compare`] holds the one against the other, [`hd`] computes HDratio
//! from what was served, and [`recognised`] counts precision and recall. [`run`] conducts, and
//! [`report`] says how it went.

pub mod abr;
pub mod compare;
pub mod connection;
pub mod found;
pub mod hd;
pub mod others;
pub mod player;
pub mod playlist;
pub mod recognised;
pub mod report;
pub mod run;
pub mod served;
pub mod server;
pub mod tls;
