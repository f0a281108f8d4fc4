//! What the verifier must see and LLVM would optimise away.

/// `index & 63`, as an instruction. LLVM drops a mask written in Rust where it can prove it
/// redundant; the verifier cannot follow the proof (6.1 loses the bound of a shift and an or).
#[inline(always)]
pub fn below_64(index: usize) -> usize {
    #[cfg(target_arch = "bpf")]
    {
        let mut index = index;
        // SAFETY: only narrows a register.
        unsafe { core::arch::asm!("{index} &= 63", index = inout(reg) index) };
        index
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        index & 63
    }
}

/// The same pointer, and no memory of what was written through it. LLVM would keep the values in
/// registers, with all that the verifier knows about each, and every combination would be walked.
#[inline(always)]
pub fn forget<T>(pointer: *mut T) -> *mut T {
    #[cfg(target_arch = "bpf")]
    {
        let mut pointer = pointer;
        // SAFETY: changes nothing; as far as LLVM knows it reads and writes memory. (One real
        // instruction: without any, two line records share an offset and the load fails.)
        unsafe { core::arch::asm!("{pointer} = {pointer}", pointer = inout(reg) pointer) };
        pointer
    }
    #[cfg(not(target_arch = "bpf"))]
    {
        pointer
    }
}
