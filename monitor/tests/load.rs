//! Every program loads into the running kernel and stays within the verifier's budget.

mod support;

use std::{io, path::Path};

use lastmile::capture::live::{Live, PROGRAMS, stack_bytes};

/// Half of the verifier's limit of a million: room for the differences between kernels.
const INSTRUCTIONS_MAX: u32 = 500_000;

/// The kernel gives 512 bytes: room for what another LLVM makes of the same source.
const STACK_MAX: u32 = 480;
/// What the kernel says of its types.
const BTF: &str = "/sys/kernel/btf";

#[test]
fn every_program_loads_within_half_the_verifiers_budget() {
    if !support::root_or_skip("loading BPF programs") {
        return;
    }
    let mut live = Live::load(&support::small()).expect("the programs load");
    for program in PROGRAMS {
        let instructions = live
            .verified_instructions(program.name)
            .expect("the kernel knows the program")
            .expect("the kernel counts verified instructions (5.16 and later)");
        let stack = stack_bytes(program.name).expect("the object has the program");
        println!(
            "{}: {instructions} verified instructions, {stack} bytes of stack",
            program.name
        );
        assert!(
            stack <= STACK_MAX,
            "{} takes {stack} bytes of stack",
            program.name
        );
        assert!(
            instructions < INSTRUCTIONS_MAX,
            "{} takes {instructions} verified instructions of {INSTRUCTIONS_MAX}",
            program.name
        );
    }
    live.load_experiment()
        .expect("the program at the sockets loads");
}

#[test]
fn every_program_loads_where_the_kernel_says_nothing_of_its_types() {
    if !support::root_or_skip("a view of its own of the file system") {
        return;
    }
    let done = |result: i32| assert_eq!(result, 0, "{}", io::Error::last_os_error());
    let target = std::ffi::CString::new(BTF).expect("no zero byte");
    if Path::new(BTF).exists() {
        // SAFETY: of this thread alone, which ends with the test.
        done(unsafe { libc::unshare(libc::CLONE_NEWNS) });
        let private = libc::MS_REC | libc::MS_PRIVATE;
        // SAFETY: C strings that live during the call, in a view that nobody else has.
        done(unsafe {
            libc::mount(
                c"none".as_ptr(),
                c"/".as_ptr(),
                c"".as_ptr(),
                private,
                std::ptr::null(),
            )
        });
        // SAFETY: as above.
        done(unsafe {
            libc::mount(
                c"none".as_ptr(),
                target.as_ptr(),
                c"tmpfs".as_ptr(),
                0,
                std::ptr::null(),
            )
        });
    }
    assert!(!Path::new(BTF).join("vmlinux").exists());
    let mut live = Live::load(&support::small()).expect("the programs load");
    for program in PROGRAMS {
        live.program(program.name).expect("it loads");
    }
}
