//! How much of the stack a program uses, as its instructions say.

use anyhow::{Context as _, Result};
use aya_obj::{
    Object,
    generated::{BPF_ALU64, BPF_LDX, BPF_ST, BPF_STX, bpf_insn},
};

use super::load::OBJECT;

/// The register that holds the end of the stack.
const FRAME: u8 = 10;
/// `dst = src` and `dst += imm`, of 64 bits (BPF_MOV | BPF_X, BPF_ADD | BPF_K).
const MOVE: u8 = BPF_ALU64 as u8 | 0xb8;
const ADD: u8 = BPF_ALU64 as u8;
/// The class of an instruction (linux/bpf_common.h, `BPF_CLASS`).
const CLASS: u8 = 7;

/// Bytes of the stack that a program of ours uses, of the 512 that the kernel gives it
/// (`MAX_BPF_STACK`).
///
/// # Errors
/// When there is no such program.
pub fn stack_bytes(name: &str) -> Result<u32> {
    let object = Object::parse(OBJECT).context("the BPF object cannot be read")?;
    let program = object.programs.get(name);
    let function = program.and_then(|program| object.functions.get(&program.function_key()));
    let function = function.with_context(|| format!("the BPF object has no program {name}"))?;
    Ok(deepest(&function.instructions))
}

/// The lowest address below the frame's end that is reached from it: by an access, or by a pointer
/// that is computed.
fn deepest(instructions: &[bpf_insn]) -> u32 {
    let mut before = None;
    let mut deepest = 0;
    for instruction in instructions {
        let class = u32::from(instruction.code & CLASS);
        let (to, from) = (instruction.dst_reg(), instruction.src_reg());
        let reached = match class {
            BPF_LDX if from == FRAME => i32::from(instruction.off),
            BPF_ST | BPF_STX if to == FRAME => i32::from(instruction.off),
            _ if instruction.code == ADD && before == Some(to) => instruction.imm,
            _ => 0,
        };
        before = (instruction.code == MOVE && from == FRAME).then_some(to);
        deepest = deepest.max(reached.min(0).unsigned_abs());
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instruction(code: u32, to: u8, from: u8, off: i16, imm: i32) -> bpf_insn {
        bpf_insn {
            code: code as u8,
            _bitfield_align_1: [],
            _bitfield_1: bpf_insn::new_bitfield_1(to, from),
            off,
            imm,
        }
    }

    #[test]
    fn accesses_and_computed_pointers_count_and_other_sums_do_not() {
        let store = instruction(BPF_STX | 0x18, FRAME, 1, -16, 0);
        let pointer = instruction(u32::from(MOVE), 2, FRAME, 0, 0);
        let below = instruction(u32::from(ADD), 2, 0, 0, -40);
        let number = instruction(u32::from(ADD), 3, 0, 0, -400);
        assert_eq!(deepest(&[store]), 16);
        assert_eq!(deepest(&[store, pointer, below, number]), 40);
    }
}
