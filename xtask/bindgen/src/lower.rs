//! The module for browsers without relaxed SIMD: each relaxed multiply-add a b + c becomes a product and a sum.
//!
//! The page is compiled once, with relaxed SIMD; `f32x4.relaxed_madd` is the only instruction of that proposal it
//! uses (kernels/src/gemm/lanes.rs). On the stack a, b, c become: keep c, multiply, take c, add.

use anyhow::{Context, Result, bail};
use walrus::ir::{
    BinaryOp, Binop, Instr, InstrSeq, InstrSeqId, LocalGet, LocalSet, TernaryOp, Visitor, dfs_in_order,
};
use walrus::{ModuleConfig, ValType};

#[derive(Default)]
struct Blocks(Vec<InstrSeqId>);

impl<'a> Visitor<'a> for Blocks {
    fn start_instr_seq(&mut self, seq: &'a InstrSeq) {
        self.0.push(seq.id());
    }
}

/// The same module without relaxed SIMD, and how many instructions that changed.
///
/// Errors: bytes that are no module; an instruction of the proposal other than the one above.
pub fn without_relaxed_simd(module: &[u8]) -> Result<(Vec<u8>, usize)> {
    let mut module =
        ModuleConfig::new().generate_producers_section(false).parse(module).context("reading the module")?;
    let mut changed = 0;
    for (_, function) in module.funcs.iter_local_mut() {
        let mut blocks = Blocks::default();
        dfs_in_order(&mut blocks, function, function.entry_block());
        let mut kept = None;
        for block in blocks.0 {
            let instructions = &mut function.block_mut(block).instrs;
            if !instructions.iter().any(|(i, _)| matches!(i, Instr::TernOp(_))) {
                continue;
            }
            let local = *kept.get_or_insert_with(|| module.locals.add(ValType::V128));
            for (instruction, at) in std::mem::take(instructions) {
                match instruction {
                    Instr::TernOp(op) if matches!(op.op, TernaryOp::F32x4RelaxedMadd) => {
                        changed += 1;
                        instructions.extend([
                            (LocalSet { local }.into(), at),
                            (Binop { op: BinaryOp::F32x4Mul }.into(), at),
                            (LocalGet { local }.into(), at),
                            (Binop { op: BinaryOp::F32x4Add }.into(), at),
                        ]);
                    }
                    Instr::TernOp(op) => bail!("{:?} has no plain form here", op.op),
                    other => instructions.push((other, at)),
                }
            }
        }
    }
    Ok((module.emit_wasm(), changed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// (func (param v128 v128 v128) (result v128) local.get 0, 1, 2, `op`), as bytes.
    fn module(op: &[u8]) -> Vec<u8> {
        let mut body = vec![0, 0x20, 0, 0x20, 1, 0x20, 2];
        body.extend_from_slice(op);
        body.push(0x0b);
        let mut bytes = b"\0asm\x01\0\0\0".to_vec();
        bytes.extend([1, 8, 1, 0x60, 3, 0x7b, 0x7b, 0x7b, 1, 0x7b]);
        bytes.extend([3, 2, 1, 0]);
        bytes.extend([7, 5, 1, 1, b'f', 0, 0]);
        bytes.extend([10, body.len() as u8 + 2, 1, body.len() as u8]);
        bytes.extend(body);
        bytes
    }

    #[test]
    fn a_relaxed_multiply_add_becomes_a_product_and_a_sum() {
        let madd = [0xfd, 0x85, 0x02];
        let (plain, changed) = without_relaxed_simd(&module(&madd)).unwrap();
        assert_eq!(changed, 1);
        let has = |bytes: &[u8], op: &[u8]| bytes.windows(op.len()).any(|w| w == op);
        assert!(!has(&plain, &madd), "{plain:?}");
        // set c, multiply, get c, add: c is the fourth local
        assert!(has(&plain, &[0x21, 3, 0xfd, 0xe6, 0x01, 0x20, 3, 0xfd, 0xe4, 0x01]), "{plain:?}");
        assert_eq!(without_relaxed_simd(&plain).unwrap().1, 0);
    }

    #[test]
    fn other_relaxed_instructions_are_refused() {
        let nmadd = [0xfd, 0x86, 0x02];
        assert!(without_relaxed_simd(&module(&nmadd)).unwrap_err().to_string().contains("no plain form"));
        assert!(without_relaxed_simd(b"text").is_err());
    }
}
