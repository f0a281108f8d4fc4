//! The lab: a small internet of network namespaces in which lastmile's verdicts are held against
//! the truth.
//!
//! A [`scenario`] is data: topology, traffic, faults over time, and what is true. From it
//! [`plan`] makes a concrete network ([`addresses`], [`wiring`]), which [`netns`] builds with real
//! queues; where the daemon learns its routes live, [`routers`] speak BGP in it. In it runs a real
//! web server ([`web`]) with one [`player`] a home, the traffic of the faults ([`cross`]) and the
//! real [`daemon`]. [`queues`] reads the kernel's counters of every queue, by which [`proof`]
//! makes sure that the truth was true. [`judge`] then compares what the daemon said
//! ([`verdict`]) with it, [`show`] tells a person, and [`guest`] conducts all this inside the
//! machine that is the network.
//!
//! [`video`] is about real video in the same network: recorded quality, TLS, HTTP/2, real players.

pub mod addresses;
pub mod cross;
pub mod daemon;
pub mod fib;
pub mod guest;
pub mod judge;
pub mod netns;
pub mod plan;
pub mod player;
pub mod proof;
pub mod queues;
pub mod reached;
pub mod rerouting;
pub mod router_files;
pub mod routers;
pub mod routes;
pub mod scenario;
pub mod show;
pub mod stage;
pub mod verdict;
pub mod video;
pub mod web;
pub mod wiring;
