//! [`Backend`] for [`Web`]: check the shapes, choose a variant, record.

use super::buffer::{ALIGN, Raw, WebBuf, WebIds, WebMask};
use super::device::Web;
use super::error::WebError;
use super::record::{Part, rule_words};
use super::shader::{FLAT, Kernel, LARGE, SMALL, Tile, Weight};
use crate::attention::rule::{MaskRule, Place};
use crate::backend::{At, AttentionShape, Backend, Form, HeadJob, RopeShape};
use crate::glu::Gate;
use crate::norm::{NormKind, NormShape};
use crate::quant::rows8;

/// WebGPU's least guarantee of workgroups along one dimension.
const MAX_GROUPS: usize = 65_535;
/// Small tables are forgotten when there are more than this many.
pub(super) const MAX_TABLES: usize = 16;

/// `n` workgroups in two dimensions; shaders linearise and drop the excess.
pub(super) fn spread(n: usize) -> [u32; 3] {
    let y = n.div_ceil(MAX_GROUPS);
    if y == 0 { [0; 3] } else { [n.div_ceil(y) as u32, y as u32, 1] }
}

/// Workgroups of `each.wgsl` for `n` values.
fn threads(n: usize) -> [u32; 3] {
    spread(n.div_ceil(256))
}

/// How a product reads a weight whose rows are k long.
pub(super) fn weight(at: At, k: usize) -> Weight {
    if at.form == Form::Rows8 { Weight::Codes } else { Weight::floats(k) }
}

/// Words of a row of k values.
pub(super) fn row_words(at: At, k: usize) -> usize {
    if at.form == Form::Rows8 { rows8::row_words(k) } else { k }
}

impl Web {
    pub(super) fn fail(&self, op: &'static str, what: String) {
        self.failure.set(WebError::Shape { op, what });
    }

    /// Every (name, values there, values needed); shaders index with 32 bits.
    pub(super) fn fits(&self, op: &'static str, buffers: &[(&str, usize, usize)]) -> bool {
        for (name, have, need) in buffers {
            if need > have || *need > u32::MAX as usize {
                self.fail(op, format!("{name} needs {need} values, has {have}"));
                return false;
            }
        }
        true
    }

    /// Binds the first `need` values of a tensor.
    pub(super) fn tensor<'a>(
        &self,
        op: &'static str,
        params: &'a WebBuf,
        at: At,
        need: usize,
    ) -> Option<Part<'a>> {
        let (offset, bytes) = (at.offset as u64 * 4, need as u64 * 4);
        if offset % ALIGN != 0 || at.offset + at.len > params.len {
            self.fail(op, format!("{at:?} does not lie in {} values at a multiple of 64", params.len));
            return None;
        }
        let fits = self.fits(op, &[("tensor", at.len, need)]);
        // nothing may lie at the buffer's very end, where no window fits: any window will do
        let offset = if need == 0 { 0 } else { offset };
        fits.then(|| Part { raw: &params.raw, offset, size: bytes.max(1).next_multiple_of(ALIGN) })
    }

    pub(super) fn record(&self, kernel: Kernel, parts: &[Part], params: &[u32], workgroups: [u32; 3]) {
        if self.failure.is_lost() {
            return;
        }
        if workgroups.iter().any(|n| *n as usize > MAX_GROUPS) {
            return self.fail(kernel.label(), format!("{workgroups:?} workgroups, more than WebGPU allows"));
        }
        self.recorder.borrow_mut().dispatch(&self.device, kernel, parts, params, workgroups);
    }

    #[allow(clippy::too_many_arguments)]
    fn rows_by_index(
        &self,
        op: &'static str,
        table: Part,
        codes: bool,
        ids: &WebIds,
        scale: f32,
        out: &WebBuf,
        [n, width, table_rows]: [usize; 3],
    ) {
        if self.fits(op, &[("ids", ids.len, n), ("out", out.len, n * width)]) {
            let parts = [table, ids.raw.whole(), out.raw.whole()];
            let params = [n as u32, width as u32, table_rows as u32, scale.to_bits()];
            self.record(Kernel::Embed { codes }, &parts, &params, threads(n * width));
        }
    }

    fn places(&self, places: &[Place]) -> WebIds {
        let raw = self.allocate(16 * places.len() as u64);
        self.upload(&raw, 0, bytemuck::cast_slice(places));
        WebIds { raw, len: 4 * places.len() }
    }
}

/// frac(theta^(-2 i / head_dim) / 2 pi) in units of 2^-64, as (high, low) words, for every pair i.
fn turns(theta: f32, head_dim: usize) -> Vec<u32> {
    let word = 4_294_967_296.0;
    (0..head_dim / 2)
        .flat_map(|i| {
            let turns = (theta as f64).powf(-2.0 * i as f64 / head_dim as f64) / std::f64::consts::TAU;
            let high = turns.fract() * word;
            [high as u32, (high.fract() * word) as u32]
        })
        .collect()
}

/// The tile of a product of `m` by `n`: large ones only where they are many enough to fill a GPU.
fn tile(m: usize, n: usize) -> Tile {
    if m <= 8 {
        FLAT
    } else if m.div_ceil(64) * n.div_ceil(64) >= 96 {
        LARGE
    } else {
        SMALL
    }
}

impl Backend for Web {
    type Buf = WebBuf;
    type Ids = WebIds;
    type Mask = WebMask;

    fn reads_rows8(&self) -> bool {
        true
    }

    fn buf(&self, len: usize) -> WebBuf {
        WebBuf { raw: self.allocate(4 * len as u64), len }
    }

    fn ids(&self, len: usize) -> WebIds {
        WebIds { raw: self.allocate(4 * len as u64), len }
    }

    fn write(&self, dst: &mut WebBuf, offset: usize, data: &[f32]) {
        if self.fits("write", &[("buffer", dst.len, offset + data.len())]) {
            self.upload(&dst.raw, 4 * offset as u64, bytemuck::cast_slice(data));
        }
    }

    fn write_ids(&self, dst: &mut WebIds, data: &[u32]) {
        if self.fits("write_ids", &[("buffer", dst.len, data.len())]) {
            self.upload(&dst.raw, 0, bytemuck::cast_slice(data));
        }
    }

    fn copy(&self, src: &WebBuf, src_at: usize, dst: &mut WebBuf, dst_at: usize, len: usize) {
        let fits = self.fits("copy", &[("src", src.len, src_at + len), ("dst", dst.len, dst_at + len)]);
        if fits && len > 0 && !self.failure.is_lost() {
            let (from, to) = (4 * src_at as u64, 4 * dst_at as u64);
            self.recorder.borrow_mut().copy(&src.raw, from, &dst.raw, to, 4 * len as u64);
        }
    }

    fn copy_columns(
        &self,
        src: &WebBuf,
        src_stride: usize,
        src_col: usize,
        dst: &mut WebBuf,
        dst_stride: usize,
        dst_col: usize,
        dst_row: usize,
        rows: usize,
        cols: usize,
    ) {
        if rows == 0 || cols == 0 {
            return;
        }
        let dst_at = dst_row * dst_stride + dst_col;
        let need = [
            ("src", src.len, (rows - 1) * src_stride + src_col + cols),
            ("dst", dst.len, dst_at + (rows - 1) * dst_stride + cols),
        ];
        if self.fits("copy_columns", &need) {
            let params = [rows, cols, src_stride, src_col, dst_stride, dst_at].map(|x| x as u32);
            let parts = [src.raw.whole(), dst.raw.whole()];
            self.record(Kernel::CopyColumns, &parts, &params, threads(rows * cols));
        }
    }

    fn mask(&self, rule: MaskRule, batch: usize, queries: &[Place], keys: &[Place]) -> WebMask {
        WebMask {
            rule: rule_words(rule),
            queries: self.places(queries),
            keys: self.places(keys),
            batch,
            q_rows: queries.len(),
            k_rows: keys.len(),
        }
    }

    fn embed(
        &self,
        ids: &WebIds,
        params: &WebBuf,
        table: At,
        scale: f32,
        out: &mut WebBuf,
        rows: usize,
        width: usize,
    ) {
        let words = row_words(table, width);
        let table_rows = table.len.checked_div(words).unwrap_or(0);
        if let Some(t) = self.tensor("embed", params, table, table_rows * words) {
            let codes = table.form == Form::Rows8;
            self.rows_by_index("embed", t, codes, ids, scale, out, [rows, width, table_rows]);
        }
    }

    fn embed_mix(
        &self,
        ids: &WebIds,
        weights: &WebBuf,
        params: &WebBuf,
        table: At,
        scale: f32,
        out: &mut WebBuf,
        rows: usize,
        k: usize,
        width: usize,
    ) {
        let words = row_words(table, width);
        let (op, n, table_rows) = ("embed_mix", rows * k, table.len.checked_div(words).unwrap_or(0));
        let Some(t) = self.tensor(op, params, table, table_rows * words) else { return };
        let need = [("ids", ids.len, n), ("weights", weights.len, n), ("out", out.len, rows * width)];
        if self.fits(op, &need) {
            let parts = [t, ids.raw.whole(), weights.raw.whole(), out.raw.whole()];
            let [rows_, k, columns, of] = [rows, k, width, table_rows].map(|x| x as u32);
            let params = [rows_, k, columns, of, scale.to_bits()];
            self.record(
                Kernel::EmbedMix { codes: table.form == Form::Rows8 },
                &parts,
                &params,
                threads(rows * width),
            );
        }
    }

    fn norm(
        &self,
        x: &WebBuf,
        params: &WebBuf,
        w: At,
        b: Option<At>,
        y: &mut WebBuf,
        s: NormShape,
        accumulate: bool,
    ) {
        let Some(weight) = self.tensor("norm", params, w, s.width) else { return };
        let Some(bias) = self.tensor("norm", params, b.unwrap_or(w), s.width) else { return };
        let (need_x, need_y) = s.need();
        if self.fits("norm", &[("x", x.len, need_x), ("y", y.len, need_y)]) {
            let parts = [x.raw.whole(), weight, bias, y.raw.whole()];
            let flags =
                (s.kind == NormKind::Layer) as u32 | (b.is_some() as u32) << 1 | (accumulate as u32) << 2;
            let mut params = [s.rows, s.groups, s.width].map(|x| x as u32).to_vec();
            params.push(s.eps.to_bits());
            params.extend([s.x_stride, s.x_col, s.y_stride, s.y_col].map(|x| x as u32));
            params.push(flags);
            self.record(Kernel::Norm, &parts, &params, spread(s.rows * s.groups));
        }
    }

    fn add_bias(&self, y: &mut WebBuf, params: &WebBuf, b: At, rows: usize, width: usize) {
        let Some(b) = self.tensor("add_bias", params, b, width) else { return };
        if self.fits("add_bias", &[("y", y.len, rows * width)]) {
            let params = [rows as u32, width as u32];
            self.record(Kernel::Bias, &[b, y.raw.whole()], &params, threads(rows * width));
        }
    }

    fn linear(
        &self,
        x: &WebBuf,
        params: &WebBuf,
        w: At,
        y: &mut WebBuf,
        m: usize,
        n: usize,
        k: usize,
        accumulate: bool,
    ) {
        let weight = weight(w, k);
        let Some(w) = self.tensor("linear", params, w, n * row_words(w, k)) else { return };
        if self.fits("linear", &[("x", x.len, m * k), ("y", y.len, m * n)]) {
            let tile = tile(m, n);
            let kernel = Kernel::Gemm { tile, weight };
            let parts = [x.raw.whole(), w, y.raw.whole()];
            let params = [m as u32, n as u32, k as u32, accumulate as u32];
            let groups = [(n as u32).div_ceil(tile.cols), (m as u32).div_ceil(tile.rows), 1];
            self.record(kernel, &parts, &params, groups);
        }
    }

    fn rope(&self, x: &mut WebBuf, positions: &WebIds, s: RopeShape) {
        let pairs = s.rows * s.heads * (s.head_dim / 2);
        if pairs == 0 {
            return;
        }
        let need = (s.rows - 1) * s.stride + s.col + s.heads * s.head_dim;
        if !self.fits("rope", &[("x", x.len, need), ("positions", positions.len, s.rows)]) {
            return;
        }
        let mut tables = self.tables.borrow_mut();
        let key = (s.theta.to_bits(), s.head_dim);
        if tables.turns.len() >= MAX_TABLES && !tables.turns.contains_key(&key) {
            tables.turns.clear();
        }
        let table = tables.turns.entry(key).or_insert_with(|| self.table(&turns(s.theta, s.head_dim)));
        let parts = [positions.raw.whole(), table.whole(), x.raw.whole()];
        let params = [s.rows, s.stride, s.col, s.heads, s.head_dim].map(|x| x as u32);
        self.record(Kernel::Rope, &parts, &params, threads(pairs));
    }

    fn attention(
        &self,
        q: &WebBuf,
        kv: &WebBuf,
        mask: &WebMask,
        out: &mut WebBuf,
        lse: &mut WebBuf,
        s: AttentionShape,
    ) {
        let (q_rows, k_rows) = (s.batch * s.q_len, s.batch * s.k_len);
        if q_rows == 0 || s.heads == 0 || s.head_dim == 0 {
            return;
        }
        if s.kv_heads == 0 || s.heads % s.kv_heads != 0 {
            return self.fail("attention", format!("{} heads over {} kv heads", s.heads, s.kv_heads));
        }
        if (mask.batch, mask.q_rows, mask.k_rows) != (s.batch, q_rows, k_rows) {
            let of = (mask.batch, mask.q_rows, mask.k_rows);
            return self.fail("attention", format!("mask of (batch, queries, keys) {of:?} for {s:?}"));
        }
        let kv_last = s.k_col.max(s.v_col) + s.kv_heads * s.head_dim;
        let need = [
            ("q", q.len, (s.row + q_rows - 1) * s.q_stride + s.q_col + s.heads * s.head_dim),
            ("kv", kv.len, if k_rows == 0 { 0 } else { (k_rows - 1) * s.kv_stride + kv_last }),
            ("out", out.len, (s.row + q_rows) * s.heads * s.head_dim),
            ("lse", lse.len, (s.row + q_rows) * s.heads),
        ];
        if !self.fits("attention", &need) {
            return;
        }
        let vectors =
            [s.head_dim, s.q_stride, s.q_col, s.kv_stride, s.k_col, s.v_col].iter().all(|x| x % 4 == 0);
        let kernel = Kernel::Attention { head_dim: s.head_dim as u32, vectors };
        let mut params =
            [s.q_len, s.k_len, s.heads, s.kv_heads, s.q_stride, s.q_col, s.kv_stride, s.k_col, s.v_col]
                .map(|x| x as u32)
                .to_vec();
        params.push(s.scale.to_bits());
        let [base, windowed, window, step, stream, always, seed @ .., high, low] = mask.rule;
        params.extend([base, windowed, window, step, stream, always]);
        params.extend(seed);
        params.extend([high, low, s.row as u32]);
        let parts = [
            q.raw.whole(),
            kv.raw.whole(),
            mask.queries.raw.whole(),
            mask.keys.raw.whole(),
            out.raw.whole(),
            lse.raw.whole(),
        ];
        let groups = [s.q_len.div_ceil(16) as u32, s.heads as u32, s.batch as u32];
        self.record(kernel, &parts, &params, groups);
    }

    fn glu(&self, gate: Gate, gate_up: &WebBuf, y: &mut WebBuf, rows: usize, width: usize) {
        let n = rows * width;
        if self.fits("glu", &[("gate_up", gate_up.len, 2 * n), ("y", y.len, n)]) {
            let parts = [gate_up.raw.whole(), y.raw.whole()];
            let params = [rows as u32, width as u32, (gate == Gate::Gelu) as u32];
            self.record(Kernel::Glu, &parts, &params, threads(n));
        }
    }

    fn gelu(&self, x: &WebBuf, y: &mut WebBuf, n: usize) {
        if self.fits("gelu", &[("x", x.len, n), ("y", y.len, n)]) {
            let parts = [x.raw.whole(), y.raw.whole()];
            self.record(Kernel::Gelu, &parts, &[n as u32], threads(n));
        }
    }

    fn gather(&self, x: &WebBuf, rows: &WebIds, out: &mut WebBuf, n: usize, width: usize) {
        let x_rows = x.len.checked_div(width).unwrap_or(0);
        self.rows_by_index("gather", x.raw.whole(), false, rows, 1.0, out, [n, width, x_rows]);
    }

    fn heads(
        &self,
        hidden: &WebBuf,
        params: &WebBuf,
        table: At,
        keys: &WebIds,
        out: &mut WebBuf,
        jobs: &[HeadJob],
    ) {
        let (mut row, mut at) = (0, 0);
        for job in jobs {
            self.head_from(hidden, params, table, keys, out, job, row, at);
            (row, at) = (row + job.rows, at + job.values());
        }
    }
}

impl Web {
    /// A small read-only table.
    pub(super) fn table(&self, words: &[u32]) -> Raw {
        let raw = self.allocate(4 * words.len() as u64);
        self.upload(&raw, 0, bytemuck::cast_slice(words));
        raw
    }
}
