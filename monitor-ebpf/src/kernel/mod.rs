//! What only the kernel side needs: maps, the packet's context, the entry points.
//!
//! `classifier` puts each program into an entry point of its own. It is inlined there however long
//! it is: of a program that calls another one Linux 6.1 follows every value exactly, and gives up.

mod bench;
mod experiment;
mod explain;
mod maps;
mod skb;

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use monitor_ebpf::{
    observe::{Tables as _, observe},
    packet::Link,
};

use self::{maps::Maps, skb::Skb};

/// Ingress of an Ethernet device.
#[classifier]
#[inline(always)]
pub fn lastmile_in(ctx: TcContext) -> i32 {
    classify(&ctx, Link::Ethernet, false)
}

/// Egress of an Ethernet device.
#[classifier]
#[inline(always)]
pub fn lastmile_out(ctx: TcContext) -> i32 {
    classify(&ctx, Link::Ethernet, true)
}

/// Ingress of a device without a link header.
#[classifier]
#[inline(always)]
pub fn lastmile_in_raw(ctx: TcContext) -> i32 {
    classify(&ctx, Link::RawIp, false)
}

/// Egress of a device without a link header.
#[classifier]
#[inline(always)]
pub fn lastmile_out_raw(ctx: TcContext) -> i32 {
    classify(&ctx, Link::RawIp, true)
}

/// The packet passes in every case, on to the next filter.
#[inline(always)]
fn classify(ctx: &TcContext, link: Link, egress: bool) -> i32 {
    let packet = Skb::new(ctx.skb.skb, egress);
    if let Err(reason) = observe(&packet, link, &Maps) {
        Maps.count(reason.into());
    }
    TC_ACT_UNSPEC
}
