//! The kernels: which file holds which. `cargo xtask ptx` compiles each file to `kernels/src/ptx/NAME.ptx`.

/// One `.cu` file, behind the `.cuh` files of its operation.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// the operation
    pub name: &'static str,
    pub cuda: &'static str,
    pub ptx: &'static str,
    pub kernels: &'static [&'static str],
}

macro_rules! source {
    ($name:literal, $($file:literal),+, [$($kernel:literal),* $(,)?]) => {
        Source {
            name: $name,
            cuda: concat!($(include_str!($file)),+),
            ptx: include_str!(concat!("../../ptx/", $name, ".ptx")),
            kernels: &[$($kernel),*],
        }
    };
}

/// The header that every kernel includes as `cuda.cuh`.
pub const HEADER: &str = include_str!("cuda.cuh");

pub const SOURCES: &[Source] = &[
    source!("adam", "../../adam/kernel.cu", ["adamw", "adamw_average"]),
    source!(
        "attention",
        "../../attention/tiles.cuh",
        "../../attention/kernel.cu",
        [
            "attention_32",
            "attention_64",
            "attention_128",
            "attention_delta",
            "attention_backward_keys_32",
            "attention_backward_keys_64",
            "attention_backward_keys_128",
            "attention_backward_queries_32",
            "attention_backward_queries_64",
            "attention_backward_queries_128",
        ]
    ),
    source!(
        "attention_slices",
        "../../attention/tiles.cuh",
        "../../attention/slices.cu",
        ["attention_256", "attention_backward_keys_256", "attention_backward_queries_256"]
    ),
    source!("bias", "../../bias/kernel.cu", ["add_bias", "add_bias_wide", "bias_parts"]),
    source!("copy", "copy.cu", ["copy_columns", "copy_columns_wide"]),
    source!(
        "embed",
        "../../embed/kernel.cu",
        [
            "gather_rows",
            "gather_rows_wide",
            "mix_rows",
            "mix_rows_wide",
            "mix_weights",
            "scatter_add_rows",
            "scatter_add_rows_wide",
            "scatter_parts",
            "scatter_parts_wide",
        ]
    ),
    source!("gelu", "../../gelu/kernel.cu", ["gelu", "gelu_backward"]),
    source!(
        "gemm",
        "../../gemm/kernel.cu",
        [
            "sgemm_nt_128",
            "sgemm_nn_128",
            "sgemm_tn_128",
            "sgemm_nt_64",
            "sgemm_nn_64",
            "sgemm_tn_64",
            "sgemm_sum",
        ]
    ),
    source!("glu", "../../glu/kernel.cu", ["glu", "glu_wide", "glu_backward", "glu_backward_wide"]),
    source!("head", "../../head/kernel.cu", ["head_distill", "head_loss", "head_statistics"]),
    source!(
        "norm",
        "../../norm/kernel.cu",
        ["norm_rows", "norm_rows_wide", "norm_rows_backward", "norm_rows_backward_wide"]
    ),
    source!("reduce", "../../reduce/kernel.cu", ["square_parts", "sum_parts", "sum_rows"]),
    source!("rope", "../../rope/kernel.cu", ["rope_rows", "rope_rows_wide"]),
];
