//! Parameters laid out anew with their matrices in int8, a byte a weight where float32 takes four; what is no matrix of a product
//! stays as it is. From then on they are for forward passes alone.
//!
//! For products in integers ([`super::arithmetic`]) every matrix is rounded, unless it was int8 before. For shaders, which turn
//! codes into f32 on the way and so compute the bits of the f32 weights, only matrices that are int8 rows already change.

use hilda_kernels::quant::{pack, rows8, words};
use hilda_kernels::{At, Form};

use super::Trunk;
use super::quant::{codes, exact_codes};

/// Where codes stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Int8 {
    /// in panels of so many outputs ([`Form::Codes`])
    Panels(usize),
    /// in rows ([`Form::Rows8`]), where nothing is lost
    Rows,
}

/// A buffer of parameters as it grows.
struct Packed<'a> {
    from: &'a [f32],
    form: Int8,
    to: Vec<f32>,
    /// no matrix was rounded
    exact: bool,
}

impl Packed<'_> {
    fn room(&mut self, len: usize, form: Form) -> At {
        let at = At { form, ..At::new(self.to.len(), len) };
        self.to.resize(self.to.len() + len.next_multiple_of(64), 0.0);
        at
    }
    fn plain(&mut self, at: &mut At) {
        let from = &self.from[at.offset..][..at.len];
        *at = self.room(at.len, Form::Plain);
        self.to[at.offset..][..at.len].copy_from_slice(from);
    }
    fn matrix(&mut self, at: &mut At, n: usize, k: usize) {
        let from = &self.from[at.offset..][..at.len];
        match self.form {
            Int8::Panels(width) => {
                let (codes, scales, exact) = codes(from, k);
                self.exact &= exact;
                *at = self.room(words(n, k), Form::Codes { width, n, k });
                pack(&codes, &scales, (n, k), width, &mut self.to[at.offset..][..at.len]);
            }
            Int8::Rows => match exact_codes(from, k).filter(|_| k.is_multiple_of(4)) {
                Some((codes, scales)) => {
                    *at = self.room(n * rows8::row_words(k), Form::Rows8);
                    rows8::pack(&codes, &scales, k, &mut self.to[at.offset..][..at.len]);
                }
                None => self.plain(at),
            },
        }
    }
}

impl Trunk {
    /// Of every matrix: are the first rows int8 codes times a scale? What is not shipped in int8 is told by them.
    pub(super) fn shipped_in_int8(&self, params: &[f32]) -> impl Iterator<Item = bool> {
        let (c, mut layout) = (&self.config, self.layout.clone());
        let layers = layout.layers.iter_mut().flat_map(|layer| layer.matrices(c));
        let mut matrices: Vec<(At, usize)> = layers.map(|(at, _, k)| (*at, k)).collect();
        matrices.push((layout.embed, c.width));
        if !c.arch.tied && !c.arch.head_bias {
            matrices.push((layout.head, c.width));
        }
        matrices.into_iter().map(|(at, k)| exact_codes(&params[at.offset..][..k.min(at.len)], k).is_some())
    }

    /// `params`, as a file has them, with matrices in int8: this trunk's from now on. True if no weight was rounded.
    pub(super) fn in_int8(&mut self, params: &[f32], form: Int8) -> (Vec<f32>, bool) {
        let (c, layout) = (&self.config, &mut self.layout);
        let mut packed = Packed { from: params, form, to: vec![], exact: true };
        packed.matrix(&mut layout.embed, c.vocab, c.width);
        for l in &mut layout.layers {
            for (at, n, k) in l.matrices(c) {
                packed.matrix(at, n, k);
            }
            let vectors = [&mut l.norm1_bias, &mut l.qkv_bias, &mut l.q_norm, &mut l.k_norm, &mut l.out_bias];
            let more = [&mut l.post1, &mut l.norm2_bias, &mut l.up_bias, &mut l.down_bias, &mut l.post2];
            let vectors = vectors.into_iter().chain(more).flatten();
            vectors.chain([&mut l.norm1, &mut l.norm2]).for_each(|at| packed.plain(at));
        }
        packed.plain(&mut layout.norm);
        layout.norm_bias.iter_mut().for_each(|at| packed.plain(at));
        match (c.arch.tied, c.arch.head_bias) {
            (true, _) => layout.head = layout.embed,
            (false, true) => packed.plain(&mut layout.head),
            (false, false) => packed.matrix(&mut layout.head, c.vocab, c.width),
        }
        layout.total = packed.to.len();
        packed.to.shrink_to_fit();
        (packed.to, packed.exact)
    }
}
