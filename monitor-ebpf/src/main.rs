//! The TC programs: one for each direction, for Ethernet and for raw-IP devices.
#![cfg_attr(target_arch = "bpf", no_std, no_main, feature(asm_experimental_arch))]

#[cfg(target_arch = "bpf")]
mod kernel;

#[cfg(not(target_arch = "bpf"))]
fn main() {
    eprintln!("lastmile-ebpf holds BPF programs: `lastmile run` loads them");
}

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    // SAFETY: nothing in these programs panics; the verifier would refuse a path that did.
    unsafe { core::hint::unreachable_unchecked() }
}

/// `bpf_loop` and friends are called from programs under this license only.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
