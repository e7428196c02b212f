//! From a kernel's name to its WGSL: the file of the operation, the constants of the variant and its loaders.

/// A shader variant. Constants that shape the code (tiles, head size, list length) are part of the name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Kernel {
    Embed {
        codes: bool,
    },
    EmbedMix {
        codes: bool,
    },
    CopyColumns,
    Norm,
    Bias,
    Rope,
    Glu,
    Gelu,
    Gemm {
        tile: Tile,
        weight: Weight,
    },
    Attention {
        head_dim: u32,
        vectors: bool,
    },
    Head {
        tile: Tile,
        weight: Weight,
        top_k: u32,
    },
    /// `threads` = 64 or 256, at least the partial states of a row
    Merge {
        threads: u32,
        top_k: u32,
    },
}

/// How a product reads its weight [n, k]; x [m, k] is read by vectors where that can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Weight {
    /// f32, one value after the other: any k
    Scalars,
    /// f32, four at a time: k is a multiple of 4
    Vectors,
    /// int8 rows, turned into f32 on the way: k is a multiple of 4
    Codes,
}

impl Weight {
    pub fn floats(k: usize) -> Weight {
        if k % 4 == 0 { Weight::Vectors } else { Weight::Scalars }
    }
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
/// How int8 rows lie in a buffer.
const CODES: &str = include_str!("codes.wgsl");
const NUMERIC: &str = include_str!("numeric.wgsl");
const PRODUCT: &str = include_str!("../../gemm/tile.wgsl");

impl Kernel {
    /// Whether each storage binding of group 0 is written.
    pub fn access(self) -> &'static [bool] {
        match self {
            Kernel::Glu | Kernel::Gelu | Kernel::Bias | Kernel::CopyColumns | Kernel::Merge { .. } => {
                &[false, true]
            }
            Kernel::Norm | Kernel::EmbedMix { .. } => &[false, false, false, true],
            Kernel::Embed { .. } | Kernel::Rope | Kernel::Gemm { .. } => &[false, false, true],
            Kernel::Head { .. } => &[false, false, false, false, true],
            Kernel::Attention { .. } => &[false, false, false, false, true, true],
        }
    }

    pub fn label(self) -> &'static str {
        match self {
            Kernel::Embed { .. } => "embed",
            Kernel::EmbedMix { .. } => "embed/mix",
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
            Kernel::Embed { codes } => {
                [EACH, &table(codes), include_str!("../../embed/kernel.wgsl")].concat()
            }
            Kernel::EmbedMix { codes } => {
                [EACH, &table(codes), include_str!("../../embed/mix.wgsl")].concat()
            }
            Kernel::CopyColumns => [EACH, include_str!("copy_columns.wgsl")].concat(),
            Kernel::Norm => include_str!("../../norm/kernel.wgsl").into(),
            Kernel::Bias => [EACH, include_str!("../../bias/kernel.wgsl")].concat(),
            Kernel::Glu => [EACH, GELU, include_str!("../../glu/kernel.wgsl")].concat(),
            Kernel::Gelu => [EACH, GELU, include_str!("../../gelu/kernel.wgsl")].concat(),
            Kernel::Rope => [EACH, NUMERIC, include_str!("../../rope/kernel.wgsl")].concat(),
            Kernel::Gemm { tile, weight } => {
                [product(tile, weight), include_str!("../../gemm/kernel.wgsl").into()].concat()
            }
            Kernel::Attention { head_dim, vectors } => [
                NUMERIC,
                &format!("const HEAD_DIM = {head_dim}u;\n"),
                &loader("q", 0, vectors),
                &loader("kv", 1, vectors),
                include_str!("../../attention/kernel.wgsl"),
            ]
            .concat(),
            Kernel::Head { tile, weight, top_k } => [
                NUMERIC,
                &product(tile, weight),
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

fn product(tile: Tile, weight: Weight) -> String {
    let Tile { rows, cols, depth } = tile;
    let floats = |vectors| loader("w", 1, vectors);
    [
        &format!("const BM = {rows}u;\nconst BN = {cols}u;\nconst BK = {depth}u;\n"),
        &loader("x", 0, weight != Weight::Scalars),
        &match weight {
            Weight::Scalars => floats(false),
            Weight::Vectors => floats(true),
            Weight::Codes => [CODES, include_str!("../../gemm/codes.wgsl")].concat(),
        },
        PRODUCT,
    ]
    .concat()
}

/// Declares storage binding 0 of the embedding and `entry(row, column)`, which reads it.
fn table(codes: bool) -> String {
    if codes {
        return [CODES, include_str!("../../embed/codes.wgsl")].concat();
    }
    "@group(0) @binding(0) var<storage, read> table: array<f32>;
fn entry(row: u32, column: u32) -> f32 { return table[row * p.width + column]; }
"
    .into()
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
