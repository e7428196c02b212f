//! From a kernel's name to its WGSL: the file of the operation, the constants of the variant and its loaders.

/// A shader variant. Constants that shape the code (tiles, head size, list length) are part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Embed,
    EmbedMix,
    CopyColumns,
    Norm,
    Bias,
    Rope,
    Glu,
    Gelu,
    Gemm {
        tile: Tile,
        vectors: bool,
    },
    Attention {
        head_dim: u32,
        vectors: bool,
    },
    Head {
        tile: Tile,
        vectors: bool,
        top_k: u32,
    },
    /// `threads` = 64 or 256, at least the partial states of a row
    Merge {
        threads: u32,
        top_k: u32,
    },
}

/// Rows, columns and depth of a product's tile; threads = rows * columns / 16.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Tile {
    pub rows: u32,
    pub cols: u32,
    pub depth: u32,
}

/// Few rows: one warp a tile.
pub(super) const FLAT: Tile = Tile { rows: 8, cols: 64, depth: 32 };
/// Middling shapes: many small tiles keep a GPU busy.
pub(super) const SMALL: Tile = Tile { rows: 32, cols: 32, depth: 16 };
/// Large shapes: each loaded value is used 64 times.
pub(super) const LARGE: Tile = Tile { rows: 64, cols: 64, depth: 32 };
/// The head's tiles: 64 ids, four threads a row; 8 KB of logits beside the operands.
pub(super) const HEAD_FLAT: Tile = Tile { rows: 8, cols: 64, depth: 16 };
pub(super) const HEAD_WIDE: Tile = Tile { rows: 32, cols: 64, depth: 16 };

/// The entry point of kernels that are written as `each(i)`.
const EACH: &str = include_str!("each.wgsl");
const GELU: &str = include_str!("../../gelu/gelu.wgsl");
const NUMERIC: &str = include_str!("numeric.wgsl");
const PRODUCT: &str = include_str!("../../gemm/tile.wgsl");

impl Kernel {
    /// Whether each storage binding of group 0 is written.
    pub fn access(self) -> &'static [bool] {
        match self {
            Kernel::Glu | Kernel::Gelu | Kernel::Bias | Kernel::CopyColumns | Kernel::Merge { .. } => {
                &[false, true]
            }
            Kernel::Norm | Kernel::EmbedMix => &[false, false, false, true],
            Kernel::Embed | Kernel::Rope | Kernel::Gemm { .. } => &[false, false, true],
            Kernel::Head { .. } => &[false, false, false, false, true],
            Kernel::Attention { .. } => &[false, false, false, false, true, true],
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Kernel::Embed => "embed",
            Kernel::EmbedMix => "embed/mix",
            Kernel::CopyColumns => "copy_columns",
            Kernel::Norm => "norm",
            Kernel::Bias => "bias",
            Kernel::Rope => "rope",
            Kernel::Glu => "glu",
            Kernel::Gelu => "gelu",
            Kernel::Gemm { .. } => "gemm",
            Kernel::Attention { .. } => "attention",
            Kernel::Head { .. } => "head",
            Kernel::Merge { .. } => "head/merge",
        }
    }

    /// The complete shader; its entry point is `main`.
    pub fn source(self) -> String {
        match self {
            Kernel::Embed => [EACH, include_str!("../../embed/kernel.wgsl")].concat(),
            Kernel::EmbedMix => [EACH, include_str!("../../embed/mix.wgsl")].concat(),
            Kernel::CopyColumns => [EACH, include_str!("copy_columns.wgsl")].concat(),
            Kernel::Norm => include_str!("../../norm/kernel.wgsl").into(),
            Kernel::Bias => [EACH, include_str!("../../bias/kernel.wgsl")].concat(),
            Kernel::Glu => [EACH, GELU, include_str!("../../glu/kernel.wgsl")].concat(),
            Kernel::Gelu => [EACH, GELU, include_str!("../../gelu/kernel.wgsl")].concat(),
            Kernel::Rope => [EACH, NUMERIC, include_str!("../../rope/kernel.wgsl")].concat(),
            Kernel::Gemm { tile, vectors } => {
                [product(tile, vectors), include_str!("../../gemm/kernel.wgsl").into()].concat()
            }
            Kernel::Attention { head_dim, vectors } => [
                NUMERIC,
                &format!("const HEAD_DIM = {head_dim}u;\n"),
                &loader("q", 0, vectors),
                &loader("kv", 1, vectors),
                include_str!("../../attention/kernel.wgsl"),
            ]
            .concat(),
            Kernel::Head { tile, vectors, top_k } => [
                NUMERIC,
                &product(tile, vectors),
                &format!("const TOP_K = {top_k}u;\nconst TOP_SLOTS = {}u;\n", top_k.max(1)),
                include_str!("../../head/kernel.wgsl"),
            ]
            .concat(),
            Kernel::Merge { threads, top_k } => [
                NUMERIC,
                &format!("const TOP_K = {top_k}u;\nconst THREADS = {threads}u;\n"),
                include_str!("../../head/merge.wgsl"),
            ]
            .concat(),
        }
    }
}

fn product(tile: Tile, vectors: bool) -> String {
    let Tile { rows, cols, depth } = tile;
    [
        &format!("const BM = {rows}u;\nconst BN = {cols}u;\nconst BK = {depth}u;\n"),
        &loader("x", 0, vectors),
        &loader("w", 1, vectors),
        PRODUCT,
    ]
    .concat()
}

/// Declares storage binding `binding` and `load_NAME(i, n)`: the n <= 4 values from index i on, zeros after them.
/// With `vectors`, i and n are multiples of 4.
fn loader(name: &str, binding: u32, vectors: bool) -> String {
    if vectors {
        format!(
            "@group(0) @binding({binding}) var<storage, read> {name}: array<vec4<f32>>;
fn load_{name}(i: u32, n: u32) -> vec4<f32> {{ return {name}[i / 4u]; }}
"
        )
    } else {
        format!(
            "@group(0) @binding({binding}) var<storage, read> {name}: array<f32>;
fn load_{name}(i: u32, n: u32) -> vec4<f32> {{
    var v = vec4<f32>();
    for (var j = 0u; j < n; j++) {{ v[j] = {name}[i + j]; }}
    return v;
}}
"
        )
    }
}
