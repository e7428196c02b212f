//! Attention masks are rules, not tensors: `allowed = base(q, k) AND window AND same document`.
//!
//! Every query and key row carries a [`Place`]; kernels evaluate the rule in place or compile it to tiles.

use crate::rng::{Rng, Stream};

/// Where a row stands. Query and key sets may differ (cached blocks are keys only).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, bytemuck::Pod, bytemuck::Zeroable)]
#[repr(C)]
pub struct Place {
    /// rotary position
    pub position: u32,
    /// document inside a packed row; rows of different documents never see each other
    pub document: u32,
    /// block of the position inside its document
    pub block: u32,
    /// 0 = clean, 1 = noisy or the shadow, 2 = second noisy view
    pub stream: u32,
}

/// The base relation between query and key, before window and document.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Base {
    /// everything
    Bidirectional,
    /// position(k) <= position(q)
    Causal,
    /// block(k) <= block(q)
    BlockCausal,
    /// Two streams (BD3-LM, arXiv 2503.09573, section 3.1): a noisy row sees its own noisy block and the clean
    /// blocks before it; a clean row sees clean rows only, block-causally, or causally with `causal_clean`.
    BlockDiffusion { causal_clean: bool },
    /// As `BlockDiffusion` with a second noisy view (stream 2); the views never see each other.
    ComplementaryViews,
    /// Conversion (arXiv 2410.17891): causal, and every future edge open with probability `r`, drawn per step.
    Annealed { r: f32, seed: u64, step: u32 },
    /// A text and a shadow of masks beside it (WINO, arXiv 2507.18578, section 3.2), stream 1. A row of the text sees the
    /// text as `Bidirectional` or, with `blocks`, as `BlockCausal`. A shadow row sees of the text what the row in its place
    /// would, all but the token `ahead` positions after its own (0 = in its place; 1 = the one that a model with the
    /// logit shift predicts there), and the shadow rows, with `blocks` those of its block. No row of the text sees a shadow.
    Shadow { blocks: bool, ahead: u32 },
}

/// A complete rule.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MaskRule {
    pub base: Base,
    /// sliding window: |position(q) - position(k)| < window
    pub window: Option<u32>,
}

impl From<Base> for MaskRule {
    fn from(base: Base) -> Self {
        MaskRule { base, window: None }
    }
}

impl MaskRule {
    /// May query `q` attend to key `k`?
    #[inline(always)]
    pub fn allowed(&self, q: Place, k: Place) -> bool {
        if q.document != k.document {
            return false;
        }
        if let Some(w) = self.window
            && q.position.abs_diff(k.position) >= w
        {
            return false;
        }
        match self.base {
            Base::Bidirectional => true,
            Base::Causal => k.position <= q.position,
            Base::BlockCausal => k.block <= q.block,
            Base::BlockDiffusion { causal_clean } => match (q.stream, k.stream) {
                (0, 0) if causal_clean => k.position <= q.position,
                (0, 0) => k.block <= q.block,
                (0, _) => false,
                (_, 0) => k.block < q.block,
                _ => k.block == q.block,
            },
            Base::ComplementaryViews => match (q.stream, k.stream) {
                (0, 0) => k.block <= q.block,
                (0, _) => false,
                (_, 0) => k.block < q.block,
                (a, b) => a == b && k.block == q.block,
            },
            Base::Shadow { blocks, ahead } => match (q.stream, k.stream) {
                (0, 0) => !blocks || k.block <= q.block,
                (0, _) => false,
                (_, 0) => (!blocks || k.block <= q.block) && k.position != q.position.wrapping_add(ahead),
                _ => !blocks || k.block == q.block,
            },
            Base::Annealed { r, seed, step } => {
                k.position <= q.position
                    || Rng::new(seed, Stream::Anneal, 0).uniform(step, q.position, k.position) < r as f64
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn streams(l: u32, block: u32, noisy: &[u32]) -> Vec<Place> {
        let of =
            |s: u32| (0..l).map(move |p| Place { position: p, document: 0, block: p / block, stream: s });
        noisy.iter().flat_map(|s| of(*s)).chain(of(0)).collect()
    }

    fn rows(rule: MaskRule, places: &[Place]) -> Vec<String> {
        let bit = |q: &Place, k: &Place| if rule.allowed(*q, *k) { '1' } else { '0' };
        places.iter().map(|q| places.iter().map(|k| bit(q, k)).collect()).collect()
    }

    /// The golden of `methods/block_diffusion.md` 2.2 (L = 4, block 2).
    #[test]
    fn block_diffusion_golden() {
        let rule = Base::BlockDiffusion { causal_clean: false }.into();
        let got = rows(rule, &streams(4, 2, &[1]));
        let want =
            ["11000000", "11000000", "00111100", "00111100", "00001100", "00001100", "00001111", "00001111"];
        assert_eq!(got, want);
    }

    /// L = 4, the shadow of the second block of 2, behind the text.
    #[test]
    fn shadow_golden() {
        let text = streams(4, 2, &[]);
        let places = |ahead: u32| -> Vec<Place> {
            let shadow = text[2..].iter().map(|p| Place { position: p.position - ahead, stream: 1, ..*p });
            text.iter().copied().chain(shadow).collect()
        };
        let rule = |blocks, ahead| Base::Shadow { blocks, ahead }.into();
        let open = ["111100", "111100", "111100", "111100", "110111", "111011"];
        assert_eq!(rows(rule(false, 0), &places(0)), open);
        let blocks = ["110000", "110000", "111100", "111100", "110111", "111011"];
        assert_eq!(rows(rule(true, 0), &places(0)), blocks);
        // one place earlier the same token is left out
        assert_eq!(rows(rule(false, 1), &places(1)), open);
        assert_eq!(rows(rule(true, 1), &places(1)), blocks);
    }

    /// A row of the text sees what it sees without the shadow; a shadow row loses one token of that and gains its like.
    #[test]
    fn a_shadow_changes_nothing_for_the_text() {
        let (text, shadow) = (streams(12, 4, &[]), streams(12, 4, &[1]));
        for (blocks, plain) in [(false, Base::Bidirectional), (true, Base::BlockCausal)] {
            for ahead in [0, 1] {
                for window in [None, Some(5)] {
                    let base = Base::Shadow { blocks, ahead };
                    let (rule, plain) = (MaskRule { base, window }, MaskRule { base: plain, window });
                    for q in &text {
                        assert!(text.iter().all(|k| rule.allowed(*q, *k) == plain.allowed(*q, *k)));
                        assert!(shadow[..12].iter().all(|k| !rule.allowed(*q, *k)));
                    }
                    for q in &shadow[..12] {
                        let place = Place { stream: 0, ..*q };
                        let lost: Vec<u32> = text
                            .iter()
                            .filter(|k| rule.allowed(*q, **k) != plain.allowed(place, **k))
                            .map(|k| k.position)
                            .collect();
                        let out =
                            Place { position: q.position + ahead, block: (q.position + ahead) / 4, ..place };
                        let reaches = out.position < 12 && plain.allowed(place, out);
                        assert_eq!(lost, if reaches { vec![out.position] } else { vec![] });
                        for k in &shadow[..12] {
                            let near = window.is_none_or(|w| q.position.abs_diff(k.position) < w);
                            assert_eq!(rule.allowed(*q, *k), near && (!blocks || k.block == q.block));
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn causal_clean_half_is_an_autoregressive_model() {
        let rule = Base::BlockDiffusion { causal_clean: true }.into();
        let got = rows(rule, &streams(4, 2, &[1]));
        assert_eq!(&got[4..], ["00001000", "00001100", "00001110", "00001111"]);
    }

    #[test]
    fn complementary_views_do_not_see_each_other() {
        let places = streams(4, 2, &[1, 2]);
        let rule: MaskRule = Base::ComplementaryViews.into();
        for q in &places[..4] {
            assert!(places[4..8].iter().all(|k| !rule.allowed(*q, *k) && !rule.allowed(*k, *q)));
        }
    }

    #[test]
    fn documents_and_windows_cut() {
        let p = |position, document| Place { position, document, ..Default::default() };
        let rule = MaskRule { base: Base::Bidirectional, window: Some(2) };
        assert!(rule.allowed(p(4, 1), p(5, 1)) && !rule.allowed(p(4, 1), p(6, 1)));
        assert!(!rule.allowed(p(4, 1), p(4, 2)));
    }

    #[test]
    fn annealing_ends_are_causal_and_full() {
        let places = streams(6, 1, &[]);
        let at = |r| rows(Base::Annealed { r, seed: 1, step: 2 }.into(), &places);
        assert_eq!(at(0.0), rows(Base::Causal.into(), &places));
        assert_eq!(at(1.0), rows(Base::Bidirectional.into(), &places));
    }
}
