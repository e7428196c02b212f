//! The table of kernels in `docs/performance.md`: registers and shared memory as `ptxas` says, occupancy as they
//! allow it on the reference GPU, bytes of memory traffic as the kernel's loops say. Paper, not a measurement.

use super::budget::Usage;
use crate::shell::{self, Result};

const BEGIN: &str = "<!-- kernels: written by `cargo xtask ptx` -->";
const END: &str = "<!-- /kernels -->";

/// What `ptxas` cannot know: threads a block, bytes of dynamic shared memory, and memory traffic.
struct Launch {
    kernel: &'static str,
    threads: u32,
    dynamic: u32,
    traffic: &'static str,
}

const fn launch(kernel: &'static str, threads: u32, dynamic: u32, traffic: &'static str) -> Launch {
    Launch { kernel, threads, dynamic, traffic }
}

const TILES: &str = "4 (m k n / tile + k n m / tile + m n)";
const FORWARD: &str = "4 hd (q + 2 k q / BQ + q) a head";
const BACKWARD: &str = "4 hd (2 k + 2 q k / B + 2 k) a head";
const QUERIES: &str = "4 hd (2 q + 2 k q / B + q) a head";
// what passes in slices is loaded for the scores and again for the sums
const BACKWARD_SLICES: &str = "4 hd (2 k + 4 q k / B + 2 k) a head";
const QUERIES_SLICES: &str = "4 hd (2 q + 3 k q / B + q) a head";

const LAUNCHES: &[Launch] = &[
    launch("adamw", 256, 0, "28 a parameter"),
    launch("adamw_average", 256, 0, "36 a parameter"),
    launch("add_bias", 256, 0, "8 a value"),
    launch("add_bias_wide", 256, 0, "8 a value"),
    launch("attention_128", 128, 49_152, FORWARD),
    launch("attention_256", 128, 45_056, FORWARD),
    launch("attention_32", 128, 32_768, FORWARD),
    launch("attention_64", 128, 49_152, FORWARD),
    launch("attention_backward_keys_128", 128, 34_816, BACKWARD),
    launch("attention_backward_keys_256", 128, 45_056, BACKWARD_SLICES),
    launch("attention_backward_keys_32", 128, 24_576, BACKWARD),
    launch("attention_backward_keys_64", 128, 40_960, BACKWARD),
    launch("attention_backward_queries_128", 128, 33_792, QUERIES),
    launch("attention_backward_queries_256", 128, 43_008, QUERIES_SLICES),
    launch("attention_backward_queries_32", 128, 20_480, QUERIES),
    launch("attention_backward_queries_64", 128, 36_864, QUERIES),
    launch("attention_delta", 256, 0, "8 a value"),
    launch("bias_parts", 256, 0, "4 a value"),
    launch("copy_columns", 256, 0, "8 a value"),
    launch("copy_columns_wide", 256, 0, "8 a value"),
    launch("gather_rows", 256, 0, "8 a value"),
    launch("gather_rows_wide", 256, 0, "8 a value"),
    launch("gelu", 256, 0, "8 a value"),
    launch("gelu_backward", 256, 0, "12 a value"),
    launch("glu", 256, 0, "12 an output"),
    launch("glu_backward", 256, 0, "20 an output"),
    launch("glu_backward_wide", 256, 0, "20 an output"),
    launch("glu_wide", 256, 0, "12 an output"),
    launch("head_distill", 256, 0, "36 a logit of the student"),
    launch("head_loss", 256, 0, "12 a logit"),
    launch("head_statistics", 256, 0, "4 (2 + max(2, top_k)) a logit, mostly from the L2"),
    launch("mix_rows", 256, 0, "4 (k + 1) a value"),
    launch("mix_rows_wide", 256, 0, "4 (k + 1) a value"),
    launch("mix_weights", 256, 0, "8 a value of a row, for each of its k"),
    launch("norm_rows", 256, 0, "8 a value"),
    launch("norm_rows_backward", 128, 4_096, "16 a value"),
    launch("norm_rows_backward_wide", 128, 4_096, "16 a value"),
    launch("norm_rows_wide", 256, 0, "8 a value"),
    launch("rope_rows", 256, 0, "8 a value"),
    launch("rope_rows_wide", 256, 0, "8 a value"),
    launch("scatter_add_rows", 128, 0, "4 a value of the parts, 8 a touched value of the table"),
    launch("scatter_add_rows_wide", 128, 0, "4 a value of the parts, 8 a touched value of the table"),
    launch("scatter_parts", 128, 0, "4 a value of d, 4 a value of the parts"),
    launch("scatter_parts_wide", 128, 0, "4 a value of d, 4 a value of the parts"),
    launch("sgemm_nn_128", 256, 16_896, TILES),
    launch("sgemm_nn_64", 64, 8_704, TILES),
    launch("sgemm_nt_128", 256, 16_896, TILES),
    launch("sgemm_nt_64", 64, 8_704, TILES),
    launch("sgemm_sum", 256, 0, "4 (parts + 1) a value"),
    launch("sgemm_tn_128", 256, 16_896, TILES),
    launch("sgemm_tn_64", 64, 8_704, TILES),
    launch("square_parts", 256, 0, "4 a value"),
    launch("sum_parts", 256, 0, "4 a part"),
    launch("sum_rows", 256, 0, "4 a value of the parts"),
];

/// Blocks of a kernel that fit a multiprocessor of a GTX 1080 at once, and the share of its 64 warps they fill.
///
/// 65,536 registers in units of 256 a warp, 96 KB of shared memory in units of 256 bytes, 32 blocks, 64 warps.
fn occupancy(registers: u32, shared: u32, threads: u32) -> (u32, u32) {
    let warps = threads.div_ceil(32);
    let by_registers = 65_536 / (registers * 32).next_multiple_of(256) / warps;
    let by_shared = (96 << 10) / shared.next_multiple_of(256).max(1);
    let blocks = by_registers.min(by_shared).min(64 / warps).min(32);
    (blocks, 100 * blocks * warps / 64)
}

/// Writes the table, or says that it is out of date.
pub fn update(usage: &[Usage], check: bool) -> Result<Vec<String>> {
    let mut problems = Vec::new();
    let mut table = String::from(
        "| kernel | threads | registers | shared, bytes | spills | blocks an SM | occupancy | bytes moved |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    for u in usage {
        let Some(l) = LAUNCHES.iter().find(|l| l.kernel == u.kernel) else {
            problems.push(format!("{} has no line in xtask/src/ptx/table.rs", u.kernel));
            continue;
        };
        let shared = u.shared + l.dynamic;
        let (blocks, percent) = occupancy(u.registers, shared, l.threads);
        table.push_str(&format!(
            "| `{}` | {} | {} | {shared} | {} | {blocks} | {percent} % | {} |\n",
            u.kernel, l.threads, u.registers, u.spills, l.traffic
        ));
    }
    let file = shell::root().join("docs/performance.md");
    let text = std::fs::read_to_string(&file)?;
    let (Some(begin), Some(end)) = (text.find(BEGIN), text.find(END)) else {
        return Err(format!("{} has no place for the table of kernels", file.display()).into());
    };
    let fresh = format!("{}{BEGIN}\n{table}{}", &text[..begin], &text[end..]);
    if fresh != text && check {
        problems.push("the table of kernels in docs/performance.md is out of date".into());
    } else if fresh != text {
        std::fs::write(&file, fresh)?;
    }
    Ok(problems)
}

#[cfg(test)]
mod tests {
    use super::occupancy;

    #[test]
    fn occupancy_of_known_kernels() {
        // limited by registers, by shared memory, by warps
        assert_eq!(occupancy(128, 16_896, 256), (2, 25));
        assert_eq!(occupancy(128, 49_152, 128), (2, 12));
        assert_eq!(occupancy(32, 0, 256), (8, 100));
        assert_eq!(occupancy(33, 0, 256), (6, 75));
    }
}
