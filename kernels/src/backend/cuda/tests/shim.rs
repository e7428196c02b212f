//! The fiber shim: what CUDA offers works, and what CUDA forbids ends with an error that says where.

use super::super::shim::Shim;
use super::super::{Arg, Device, Launch};

const KERNELS: &str = include_str!("shim.cu");
const NAMES: &[&str] = &[
    "votes",
    "shuffles",
    "atomics",
    "dot8",
    "statics",
    "half_a_barrier",
    "two_barriers",
    "lost_lane",
    "misaligned",
    "outside",
    "too_much_stack",
];

fn shim(test: &str) -> Option<Shim> {
    match Shim::with("shim", KERNELS, NAMES) {
        Ok(shim) => Some(shim),
        Err(e) => {
            println!("SKIPPED {test}: {e}");
            None
        }
    }
}

/// One block of 64 threads with one buffer of 64 words: what they hold then.
fn run(shim: &Shim, kernel: &'static str, blocks: u32, start: &[i32; 64]) -> Result<Vec<i32>, String> {
    let at = shim.allocate(256).expect("memory");
    shim.upload(at, bytemuck::cast_slice(start)).expect("a copy");
    let launch = Launch { kernel, grid: [blocks, 1, 1], threads: 64, shared: 0, args: &[Arg::Pointer(at)] };
    shim.launch(launch).map_err(|e| e.to_string())?;
    let mut out = vec![0i32; 64];
    shim.download(at, bytemuck::cast_slice_mut(&mut out)).expect("a copy");
    Ok(out)
}

#[test]
fn votes_shuffles_atomics_and_dot_products() {
    let Some(shim) = shim("votes_shuffles_atomics_and_dot_products") else { return };
    let numbers: [i32; 64] = std::array::from_fn(|i| i as i32);
    for _ in 0..2 {
        let votes = run(&shim, "votes", 1, &numbers).expect("votes");
        // lanes of warp 0 below 8; any and all of the block; how many threads are odd
        assert_eq!((votes[0], votes[1], votes[2], votes[3], votes[32]), (0xff, 1, 0, 32, 0));
        let shuffled = run(&shim, "shuffles", 1, &numbers).expect("shuffles");
        // xor 16, up by 1, down by 1 in groups of 8, broadcast of lane 5: summed with weights
        for (i, got) in shuffled.iter().enumerate() {
            let (i, warp) = (i as i32 % 32, i as i32 / 32 * 32);
            let down = if i % 8 == 7 { i } else { i + 1 };
            let want = (warp + (i ^ 16)) + 100 * (warp + (i - 1).max(0)) + 10_000 * (warp + down);
            assert_eq!(*got, want + 1_000_000 * (warp + 5), "lane {i}");
        }
        let sums = run(&shim, "atomics", 3, &[0; 64]).expect("atomics");
        assert_eq!((sums[0], sums[1], f32::from_bits(sums[2] as u32)), (3 * 64, 63, 3.0 * 64.0 * 0.5));
        let dots = run(&shim, "dot8", 1, &numbers).expect("dot8");
        let packed = i32::from_le_bytes([1, 0xfe, 3, 0x80]);
        let want: i32 = packed.to_le_bytes().iter().map(|b| (*b as i8 as i32).pow(2)).sum();
        assert!(dots.iter().enumerate().all(|(i, d)| *d == want + i as i32));
    }
}

#[test]
fn shared_memory_holds_no_number_when_a_block_starts() {
    let Some(shim) = shim("shared_memory_holds_no_number_when_a_block_starts") else { return };
    assert_eq!(run(&shim, "statics", 4, &[0; 64]).expect("statics")[..4], [1; 4]);
}

#[test]
fn what_cuda_forbids_is_an_error_that_says_where() {
    let Some(shim) = shim("what_cuda_forbids_is_an_error_that_says_where") else { return };
    let message = |kernel| run(&shim, kernel, 1, &[0; 64]).expect_err(kernel);
    let line = |mark: &str| KERNELS.lines().position(|l| l.contains(mark)).expect("a marked line") + 1;
    let deadlock = message("half_a_barrier");
    let want = format!("deadlock: 32 of 64 threads reached the barrier in line {}", line("// half"));
    assert!(deadlock.contains(&want), "{deadlock}");
    let divergent = message("two_barriers");
    assert!(divergent.contains("divergent barriers") && divergent.contains("thread 32"), "{divergent}");
    assert!(message("lost_lane").contains("lane"), "{}", message("lost_lane"));
    assert!(message("misaligned").contains("misaligned access of 16 bytes"));
    assert!(message("too_much_stack").contains("left its stack"));
}

#[test]
#[should_panic(expected = "a kernel wrote outside its memory")]
fn a_write_outside_is_found() {
    let Some(shim) = shim("a_write_outside_is_found") else {
        panic!("a kernel wrote outside its memory: SKIPPED")
    };
    let _ = run(&shim, "outside", 1, &[0; 64]);
}
