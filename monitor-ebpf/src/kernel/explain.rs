//! Programs that say what happens to packets, attached only when the operator asks for it.
//!
//! They are apart from the others because one log message is a function of its own, and with a
//! function in a program the verifier of 6.1 tracks no precision: it walked a million
//! instructions and gave up.

use aya_ebpf::{bindings::TC_ACT_UNSPEC, macros::classifier, programs::TcContext};
use aya_log_ebpf::{debug, info, warn};
use monitor_ebpf::{
    counters::Reason,
    observe::{Tables as _, parse},
    packet::{Link, Parsed, tcp_flags},
    select::Watch as _,
};

use super::{maps::Maps, skb::Skb};

/// Either direction of an Ethernet device.
#[classifier]
pub fn lastmile_log(ctx: TcContext) -> i32 {
    explain(&ctx, Link::Ethernet);
    TC_ACT_UNSPEC
}

/// Either direction of a device without a link header.
#[classifier]
pub fn lastmile_log_raw(ctx: TcContext) -> i32 {
    explain(&ctx, Link::RawIp);
    TC_ACT_UNSPEC
}

#[inline(always)]
fn explain(ctx: &TcContext, link: Link) -> Option<()> {
    let parsed = Maps.parsed()?;
    let settings = Maps.settings()?;
    let packet = Skb::new(ctx.skb.skb, false);
    // SAFETY: this CPU's own; the other programs have run, or will run, but not meanwhile.
    let result = parse(&packet, link, &Maps, settings, unsafe { &mut *parsed });
    match result {
        Ok(()) => {
            // SAFETY: as above.
            let Parsed { key, segment, .. } = unsafe { &*parsed };
            if segment.has(tcp_flags::SYN | tcp_flags::FIN | tcp_flags::RST) {
                info!(
                    ctx,
                    "ports {} and {}: TCP flags {}, sequence {}",
                    key.low_port,
                    key.high_port,
                    segment.flags,
                    segment.sequence
                );
            }
        }
        Err(reason @ (Reason::Truncated | Reason::Malformed)) => {
            warn!(
                ctx,
                "packet of {} bytes not understood: reason {}",
                ctx.len(),
                reason as u32
            );
        }
        Err(reason) => {
            debug!(
                ctx,
                "packet of {} bytes not tracked: reason {}",
                ctx.len(),
                reason as u32
            );
        }
    }
    Some(())
}
