//! Another model's opinion (`methods/evaluation.md` 2.1, 2.2).
//!
//! `genppl_v1`: a text is cut at its first end-of-text, tokenised by the judge, and scored behind the judge's own
//! end-of-text, every token and the closing end-of-text if the sample wrote one; windows of the judge's context, half a
//! context apart. The figure is sum of nats / sum of tokens over all texts, and the same per byte.
//!
//! `kl_judge`: mean over canvases of ln q(x) - ln p_judge(x), where the sampler's ln q is known ([`super::Law`]) and both
//! share a tokenizer: an estimate of KL(q || judge), which temperature cannot fake.

use hilda_kernels::Train;
use serde::Serialize;

use super::{Law, Sample};
use crate::config::PackingSpec;
use crate::data::Row;
use crate::diffusion::batch::causal;
use crate::diffusion::likelihood::{denoiser, ratio};
use crate::eval::statistics::t975;
use crate::model::Trunk;

/// An autoregressive model with its weights.
pub struct Judge<'a, B: Train> {
    pub backend: &'a B,
    pub trunk: &'a Trunk,
    pub params: &'a B::Buf,
}

/// Nats per token of texts under a judge.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Opinion {
    /// "genppl_v1"
    pub rule: &'static str,
    pub nats_per_token: f64,
    pub perplexity: f64,
    pub nats_per_byte: f64,
    /// over texts
    pub stderr: f64,
    pub texts: usize,
    pub tokens: usize,
}

/// ln q - ln p of canvases.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Divergence {
    /// nats a canvas, and per token
    pub nats: f64,
    pub nats_per_token: f64,
    /// half of the 95 % interval, nats a canvas
    pub half_width: f64,
    pub law: Law,
}

impl<B: Train> Judge<'_, B> {
    /// -ln p of every token of `ids` but the first, [len - 1].
    pub fn nats(&self, ids: &[u32]) -> Vec<f64> {
        let context = self.trunk.config.context;
        let mut out = Vec::with_capacity(ids.len());
        let mut start = 0;
        while out.len() + 1 < ids.len() {
            let end = (start + context).min(ids.len());
            let window = &ids[start..end];
            let rows = [Row::new(window, u32::MAX)];
            let packing = PackingSpec {
                length: window.len(),
                documents: false,
                restart_positions: false,
                restart_blocks: false,
            };
            let micro = causal(&rows, &packing, 1.0);
            let mut plan = self.trunk.plan(self.backend, window.len(), false);
            denoiser::forward(self.backend, self.trunk, self.params, &mut plan, &micro);
            let (log_p, _) =
                self.trunk.log_probs(self.backend, self.params, &plan, &micro.hidden_rows, &micro.rows);
            // tokens that an earlier window has scored are its context here
            let fresh = out.len() - start;
            out.extend(log_p[fresh..].iter().map(|l| -*l as f64));
            start = end.saturating_sub(context / 2).max(start + 1);
        }
        out
    }

    /// `genppl_v1` of texts: ids under the judge's tokenizer, whether the text ended, and its bytes.
    pub fn opinion(&self, texts: &[(Vec<u32>, bool, usize)]) -> Opinion {
        let eos = self.trunk.config.eos_id;
        let (mut parts, mut bytes) = (vec![], 0);
        for (ids, finished, length) in texts {
            let mut all = vec![eos];
            all.extend(ids);
            all.extend(finished.then_some(eos));
            let nats = self.nats(&all);
            bytes += length;
            parts.push((nats.iter().sum::<f64>(), nats.len() as f64));
        }
        let (value, stderr) = ratio(&parts);
        let total: f64 = parts.iter().map(|p| p.0).sum();
        Opinion {
            rule: "genppl_v1",
            nats_per_token: value,
            perplexity: value.exp(),
            nats_per_byte: total / bytes.max(1) as f64,
            stderr,
            texts: texts.len(),
            tokens: parts.iter().map(|p| p.1 as usize).sum(),
        }
    }

    /// `kl_judge` of canvases that follow `prompt` (the judge's ids are the sampler's); None where ln q is not known.
    pub fn divergence(&self, prompt: &[u32], samples: &[Sample], law: Law) -> Option<Divergence> {
        if law == Law::Unknown || samples.len() < 2 {
            return None;
        }
        let each: Vec<f64> = samples
            .iter()
            .map(|s| {
                let all: Vec<u32> = prompt.iter().chain(&s.canvas).copied().collect();
                let nats: f64 = self.nats(&all)[prompt.len() - 1..].iter().sum();
                s.log_q + nats
            })
            .collect();
        let n = each.len() as f64;
        let mean = each.iter().sum::<f64>() / n;
        let sd = (each.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt();
        let length = samples[0].canvas.len() as f64;
        let half_width = t975(each.len() - 1) * sd / n.sqrt();
        Some(Divergence { nats: mean, nats_per_token: mean / length, half_width, law })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use crate::config::ModelSpec;
    use crate::decode::{Attention, DecodeConfig, Decoder, Method};
    use crate::model::session::Weights;
    use crate::model::{Session, run};
    use hilda_kernels::Cpu;

    fn judge_of(context: usize, uniform: bool) -> (Trunk, Vec<f32>) {
        let spec = ModelSpec {
            width: Some(16),
            layers: Some(2),
            heads: Some(2),
            mlp: Some(24),
            context: Some(context),
            ..Default::default()
        };
        let c = spec.resolve(9, 1, 0, vec![1]).unwrap();
        let trunk = Trunk::new(c.clone());
        let mut p: Vec<f32> =
            trunk.layout.init(&c, 11).iter().map(|x| if *x == 1.0 { 1.0 } else { 12.0 * x }).collect();
        if uniform {
            p[trunk.layout.embed.offset..][..trunk.layout.embed.len].fill(0.0);
        }
        (trunk, p)
    }

    /// `methods/evaluation.md` 6.8: a uniform judge gives V for any window; one window and several agree where the text
    /// fits.
    #[test]
    fn a_uniform_judge_and_windows() {
        let ids: Vec<u32> = (0..37).map(|i| 2 + i % 7).collect();
        for context in [8, 64] {
            let (trunk, params) = judge_of(context, true);
            let judge = Judge { backend: &Cpu, trunk: &trunk, params: &params };
            let o = judge.opinion(&[(ids.clone(), true, 100), (ids[..5].to_vec(), false, 20)]);
            assert!((o.perplexity - 8.0).abs() < 1e-4, "{o:?}");
            assert_eq!((o.tokens, o.texts), (38 + 5, 2));
        }
        let (short, params) = judge_of(16, false);
        let judge = Judge { backend: &Cpu, trunk: &short, params: &params };
        assert_eq!(judge.nats(&ids[..16])[..7], judge.nats(&ids)[..7]);
        assert_eq!(judge.nats(&ids).len(), 36);
    }

    /// `methods/evaluation.md` 6.9: a model judged by itself is at distance 0, for every sample.
    #[test]
    fn a_model_judges_itself_at_zero() {
        let (trunk, params) = judge_of(16, false);
        let weights = Arc::new(Weights { trunk: trunk.clone(), shift: true, params: params.clone() });
        let mut session = Session::new(&Cpu, weights, 16);
        let samples: Vec<Sample> = (0..6)
            .map(|sequence| {
                let mut c = DecodeConfig::new(vec![0], 16, 9, 1);
                (c.attention, c.shift, c.policy) = (Attention::Causal, true, Method::LeftToRight {}.into());
                (c.temperature, c.seed, c.sequence) = (1.0, 3, sequence);
                session.forget();
                let mut d = Decoder::new(c).unwrap();
                run(&Cpu, &mut session, &mut d, |_| true).unwrap();
                let log_q = d.steps().iter().flat_map(|s| &s.actions).map(|a| a.logq as f64).sum();
                Sample {
                    canvas: d.state().ids()[1..].to_vec(),
                    text: String::new(),
                    finished: false,
                    log_q,
                    edits: 0,
                    forwards: 0,
                    positions: 0,
                }
            })
            .collect();
        let judge = Judge { backend: &Cpu, trunk: &trunk, params: &params };
        let d = judge.divergence(&[0], &samples, Law::Exact).unwrap();
        assert!(d.nats.abs() < 1e-4 && d.half_width < 1e-4, "{d:?}");
        assert!(judge.divergence(&[0], &samples, Law::Unknown).is_none());
    }
}
