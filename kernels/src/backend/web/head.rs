//! The head on the device: how the vocabulary is cut, and the two passes ([`Kernel::Head`], [`Kernel::Merge`]).

use super::buffer::{ALIGN, WebBuf, WebIds};
use super::device::Web;
use super::ops::{MAX_TABLES, row_words, spread, weight};
use super::record::Part;
use super::shader::{HEAD_FLAT, HEAD_WIDE, Kernel};
use crate::backend::{At, HeadJob};
use crate::head::MAX_TOP_K;
use crate::rng::Stream;

/// Most workgroups along the vocabulary: with four states each, one merging workgroup of 256 threads suffices.
const MAX_CHUNKS: usize = 64;

/// One bit an id, set if it is in `ids`.
fn bits(vocab: usize, ids: &[u32]) -> Vec<u32> {
    let mut words = vec![0u32; vocab.div_ceil(32)];
    for id in ids.iter().filter(|id| (**id as usize) < vocab) {
        words[*id as usize / 32] |= 1 << (id % 32);
    }
    words
}

impl Web {
    /// The head on rows `row ..` of `hidden` and `keys`, its statistics from value `at` on.
    #[allow(clippy::too_many_arguments)]
    pub(super) fn head_from(
        &self,
        hidden: &WebBuf,
        params: &WebBuf,
        table: At,
        keys: &WebIds,
        out: &mut WebBuf,
        job: &HeadJob,
        row: usize,
        at: usize,
    ) {
        let (rows, width, vocab) = (job.rows, job.width, job.vocab);
        if job.top_k > MAX_TOP_K || vocab == 0 || job.temperature.is_nan() || job.temperature < 0.0 {
            let (k, t) = (job.top_k, job.temperature);
            return self
                .fail("head", format!("top_k {k} (at most {MAX_TOP_K}), vocab {vocab}, temperature {t}"));
        }
        let need = [
            ("hidden", hidden.len, (row + rows) * width),
            ("keys", keys.len, 4 * (row + rows)),
            ("out", out.len, at + job.values()),
        ];
        if !self.fits("head", &need) || rows == 0 {
            return;
        }
        let (weight, words) = (weight(table, width), row_words(table, width));
        let Some(table) = self.tensor("head", params, table, vocab * words) else { return };

        let top_k = job.top_k as u32;
        let tile = if rows <= 8 { HEAD_FLAT } else { HEAD_WIDE };
        let cols = tile.cols as usize;
        let plan =
            HeadPlan::new(rows.div_ceil(tile.rows as usize), vocab, words, cols, self.info().max_binding);
        let lanes = cols / 16;
        let slots = plan.chunks * lanes;
        let states_bytes = 4 * (rows * slots * (11 + 2 * job.top_k)) as u64;

        let mut tables = self.tables.borrow_mut();
        if tables.states.as_ref().is_none_or(|s| s.buffer.size() < states_bytes) {
            tables.states = Some(self.allocate(states_bytes.next_power_of_two()));
        }
        let key = (vocab, job.forbid.clone());
        if tables.forbidden.len() >= MAX_TABLES && !tables.forbidden.contains_key(&key) {
            tables.forbidden.clear();
        }
        tables.forbidden.entry(key.clone()).or_insert_with(|| self.table(&bits(vocab, &job.forbid)));
        let (Some(states), Some(forbidden)) = (&tables.states, tables.forbidden.get(&key)) else { return };

        let race = (job.temperature > 0.0) as u32;
        let inverse = if race == 1 { 1.0 / job.temperature } else { 1.0 };
        let kernel = Kernel::Head { tile, weight, top_k };
        let mut chunk = 0;
        for first in (0..vocab).step_by(plan.span) {
            let last = vocab.min(first + plan.span);
            let here = (last - first).div_ceil(plan.chunk);
            let part = Part {
                raw: table.raw,
                offset: table.offset + 4 * (first * words) as u64,
                size: (4 * ((last - first) * words) as u64).max(1).next_multiple_of(ALIGN),
            };
            let parts = [hidden.raw.whole(), part, keys.raw.whole(), forbidden.whole(), states.whole()];
            let mut params =
                [rows, width, first, last, plan.chunk, slots, chunk * lanes].map(|x| x as u32).to_vec();
            params.extend([
                race,
                inverse.to_bits(),
                Stream::Token as u32,
                job.seed as u32,
                (job.seed >> 32) as u32,
                row as u32,
            ]);
            self.record(kernel, &parts, &params, [here as u32, (rows as u32).div_ceil(tile.rows), 1]);
            chunk += here;
        }
        let kernel = Kernel::Merge { threads: if slots <= 64 { 64 } else { 256 }, top_k };
        let params = [rows as u32, slots as u32, race, inverse.to_bits(), at as u32];
        self.record(kernel, &[states.whole(), out.raw.whole()], &params, spread(rows));
    }
}

/// How the vocabulary of rows of `words` words is cut: `span` ids a dispatch (what one binding holds), `chunk` ids a workgroup, `chunks`
/// workgroups in all for one tile of rows.
struct HeadPlan {
    span: usize,
    chunk: usize,
    chunks: usize,
}

impl HeadPlan {
    fn new(row_tiles: usize, vocab: usize, words: usize, cols: usize, max_binding: u64) -> HeadPlan {
        let most = (max_binding / (4 * words.max(1)) as u64) as usize;
        // a span starts on a tile (64 ids), so its binding starts at a multiple of 256 bytes
        let span = if vocab <= most { vocab } else { (most / cols * cols).max(cols) };
        let spans = vocab.div_ceil(span);
        // enough workgroups to fill a GPU, few enough states to merge
        let wanted = 128usize.div_ceil(row_tiles).min(MAX_CHUNKS / spans.min(MAX_CHUNKS));
        let chunk = span.div_ceil(wanted.max(1)).next_multiple_of(cols);
        let full = span.div_ceil(chunk) * (vocab / span);
        HeadPlan { span, chunk, chunks: full + (vocab % span).div_ceil(chunk) }
    }
}
