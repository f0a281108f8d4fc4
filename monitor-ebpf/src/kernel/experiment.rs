//! Route experiments at the sockets: a connection is marked once, when it is accepted, so that no
//! packet costs anything.

use core::ptr;

use aya_ebpf::{
    bindings::{BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, bpf_sock, bpf_sock_ops},
    helpers::generated::{bpf_get_netns_cookie, bpf_setsockopt},
    macros::sock_ops,
    programs::SockOpsContext,
};
use monitor_ebpf::{
    counters::Counter,
    experiment::{Marking, is_chosen},
    flow::{Address, FlowKey},
    observe::Tables as _,
};

use super::maps::Maps;

const AF_INET: u32 = 2;
const SOL_SOCKET: i32 = 1;
const SO_PRIORITY: i32 = 12;
const SO_MARK: i32 = 36;
const SOL_IP: i32 = 0;
const IP_TOS: i32 = 1;
const SOL_IPV6: i32 = 41;
const IPV6_TCLASS: i32 = 67;

/// What the caller makes of it: nothing.
const DONE: u32 = 1;

/// At every socket of the host.
#[sock_ops]
pub fn lastmile_experiment(ctx: SockOpsContext) -> u32 {
    if ctx.op() == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB {
        accepted(&ctx);
    }
    DONE
}

#[inline(always)]
fn accepted(ctx: &SockOpsContext) {
    let Some(experiment) = Maps.experiment() else {
        return;
    };
    // SAFETY: the context that this program was called with.
    let namespace = unsafe { bpf_get_netns_cookie(ctx.ops.cast()) };
    if namespace != experiment.namespace {
        return;
    }
    let remote = address(ctx, Side::Remote);
    // SAFETY (both): places of fields, which `field` reads.
    let local_port = field(ctx, |ops| unsafe { &raw const (*ops).local_port }) as u16;
    // In network byte order, where the other one is in the host's.
    let remote_port = field(ctx, |ops| unsafe { &raw const (*ops).remote_port });
    let remote_port = u32::from_be(remote_port) as u16;
    let (key, _) = FlowKey::new(address(ctx, Side::Local), local_port, remote, remote_port);
    if !is_chosen(&Maps, experiment, &key) {
        return;
    }
    Maps.count(if mark(ctx, remote, &experiment.marking) {
        Counter::SentAnotherWay
    } else {
        Counter::NotMarked
    });
}

/// A field of the context, read with its own width: the verifier knows no other.
#[inline(always)]
fn field(ctx: &SockOpsContext, at: impl FnOnce(*const bpf_sock_ops) -> *const u32) -> u32 {
    // SAFETY: `at` points to a field of the context.
    unsafe { ptr::read_volatile(at(ctx.ops)) }
}

enum Side {
    Local,
    Remote,
}

#[inline(always)]
fn address(ctx: &SockOpsContext, of: Side) -> Address {
    // SAFETY (all): places of fields, which `field` reads.
    let is_v4 = field(ctx, |ops| unsafe { &raw const (*ops).family }) == AF_INET;
    match (of, is_v4) {
        (Side::Local, true) => v4(field(ctx, |ops| unsafe { &raw const (*ops).local_ip4 })),
        (Side::Remote, true) => v4(field(ctx, |ops| unsafe { &raw const (*ops).remote_ip4 })),
        (Side::Local, false) => {
            v6(|word| field(ctx, |ops| unsafe { &raw const (*ops).local_ip6[word] }))
        }
        (Side::Remote, false) => {
            v6(|word| field(ctx, |ops| unsafe { &raw const (*ops).remote_ip6[word] }))
        }
    }
}

/// The address of a word in network byte order.
#[inline(always)]
fn v4(word: u32) -> Address {
    Address::v4(word.to_ne_bytes())
}

/// The address of four words in network byte order.
#[inline(always)]
fn v6(word: impl Fn(usize) -> u32) -> Address {
    let [a, b, c, d] = word(0).to_ne_bytes();
    let [e, f, g, h] = word(1).to_ne_bytes();
    let [i, j, k, l] = word(2).to_ne_bytes();
    let [m, n, o, p] = word(3).to_ne_bytes();
    Address::v6([a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p])
}

/// The socket; `None`: it is no full one.
#[inline(always)]
fn socket(ctx: &SockOpsContext) -> Option<&bpf_sock> {
    // SAFETY: a field of the context: a socket, or null.
    unsafe { (*ctx.ops).__bindgen_anon_2.sk.as_ref() }
}

/// Marks a socket; whether it took all of it. The mark makes it look for its route again.
#[inline(always)]
fn mark(ctx: &SockOpsContext, remote: Address, marking: &Marking) -> bool {
    let Some(socket) = socket(ctx) else {
        return false;
    };
    let (mark, priority) = (socket.mark, socket.priority);
    if mark != 0 {
        // Somebody's routing goes by it.
        return false;
    }
    // Of a socket for both families that talks IPv4 Linux lets no BPF program set the TOS, and its
    // IPv6 traffic class is on no packet: such a one refuses.
    let (level, name) = if remote.is_v4() {
        (SOL_IP, IP_TOS)
    } else {
        (SOL_IPV6, IPV6_TCLASS)
    };
    (marking.traffic_class == 0
        || set(ctx, level, name, marking.traffic_class)
            // Which queue of ours it waits in stays as it was: of IPv4 the TOS decides, too.
            && set(ctx, SOL_SOCKET, SO_PRIORITY, priority))
        && set(ctx, SOL_SOCKET, SO_MARK, marking.mark)
}

#[inline(always)]
fn set(ctx: &SockOpsContext, level: i32, name: i32, value: u32) -> bool {
    let mut value = value;
    // SAFETY: the option's value is an integer of four bytes.
    let result = unsafe {
        bpf_setsockopt(
            ctx.ops.cast(),
            level,
            name,
            (&raw mut value).cast(),
            size_of::<u32>() as i32,
        )
    };
    result == 0
}
