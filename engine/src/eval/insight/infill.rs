//! Problems, and what two policies make of them.
//!
//! **Infilling**: a run of whole words is taken out of a story and written anew in sight of the rest; right means every
//! token as it was. The number of tokens is given (`oracle_len`, `methods/evaluation.md` 3.9). **Stories**: a beginning is
//! continued, and whoever calls judges what came out.

use std::collections::BTreeMap;
use std::ops::Range;

use hilda_kernels::Train;
use hilda_kernels::rng::{Rng, Stream};

use super::coe::{Coe, coe};
use crate::data::Tokenizer;
use crate::decode::{
    ActionKind, Attention, DecodeConfig, Decoder, Feature, Method, StepKind, Trajectory, switch::mean_entropy,
};
use crate::model::embedding::{embeddings, hidden_means, read_text};
use crate::model::generate::GenerateError;
use crate::model::{Plan, Session};

/// Holes of a document: how many, and of how many tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Holes {
    pub holes: u32,
    pub shortest: u32,
    pub longest: u32,
    pub seed: u64,
}

/// Token ranges of whole words in `ids` (a text behind an end-of-text token), different ones; fewer than asked for in a
/// short text. At least eight tokens stand before a hole and four after it.
pub fn holes(ids: &[u32], tokenizer: &Tokenizer, document: u32, h: &Holes) -> Vec<Range<u32>> {
    let rng = Rng::new(h.seed, Stream::Replace, document);
    let begins = |p: u32| tokenizer.bytes(ids[p as usize]).first() == Some(&b' ');
    let ends = |p: u32| tokenizer.bytes(ids[p as usize]).first().is_some_and(|b| !b.is_ascii_alphanumeric());
    let mut found: Vec<Range<u32>> = Vec::new();
    for draw in 0..40 * h.holes {
        if found.len() as u32 == h.holes {
            break;
        }
        let len = h.shortest + rng.below(draw, 0, 0, u64::from(h.longest - h.shortest) + 1) as u32;
        let Some(room) = (ids.len() as u32).checked_sub(len + 12).filter(|r| *r > 0) else { continue };
        let start = 8 + rng.below(draw, 1, 0, u64::from(room)) as u32;
        let hole = start..start + len;
        if begins(start) && ends(hole.end) && !found.contains(&hole) {
            found.push(hole);
        }
    }
    found
}

/// `ids` with a hole, to be decoded by `method` in sight of everything.
pub fn with_hole(base: &DecodeConfig, ids: &[u32], hole: &Range<u32>, method: Method) -> DecodeConfig {
    let mut c = base.clone();
    c.prompt = ids[..hole.start as usize].to_vec();
    c.fixed = (hole.end..ids.len() as u32).map(|p| (p, ids[p as usize])).collect();
    c.length = ids.len() as u32;
    (c.attention, c.block_size, c.early_stop) = (Attention::Bidirectional, 0, false);
    c.policy = method.into();
    c
}

/// A text, and what its first denoising forward said.
pub struct Written {
    pub trajectory: Trajectory,
    /// nats
    pub entropy: f64,
    pub embeddings: BTreeMap<String, Vec<f32>>,
}

/// Decodes to the end and keeps what the first denoising forward says.
///
/// # Errors
/// A configuration that the model cannot serve.
pub fn write<B: Train>(
    b: &B,
    session: &mut Session<B>,
    config: DecodeConfig,
) -> Result<Written, GenerateError> {
    const ALL: [(Feature, &str); 3] =
        [(Feature::Known, "known"), (Feature::Near, "near"), (Feature::Open, "open")];
    session.forget();
    let mut decoder = Decoder::new(config)?;
    let (mut entropy, mut found) = (None, BTreeMap::new());
    while let Some(request) = decoder.next() {
        let stats = session.answer_on(b, &request)?;
        if let Some(block) = decoder.denoising().filter(|_| entropy.is_none()) {
            entropy = mean_entropy(decoder.state(), block, &request, &stats);
            let end = request.query_positions.last().map_or(0, |p| p + 1);
            let sets = ALL.map(|(f, _)| f.positions(decoder.state(), block, end).unwrap_or_default());
            for ((_, name), e) in
                ALL.iter().zip(embeddings(b, &session.weights().trunk, session.sequence(), &sets))
            {
                found.extend(e.map(|e| (name.to_string(), e)));
            }
        }
        decoder.apply(stats)?;
    }
    let trajectory = decoder.trajectory();
    Ok(Written { trajectory, entropy: entropy.unwrap_or(0.0), embeddings: found })
}

/// Signs of a finished text ([`super::Outcome::signs`]): the chain of embedding over `groups` of its positions, in order; the
/// chain of hidden states over layers, of all positions in the groups; and the mean ln p of its tokens when they were written.
/// One clean forward each.
///
/// # Errors
/// A text that the session cannot hold.
pub fn signs<B: Train>(
    b: &B,
    session: &mut Session<B>,
    plan: &mut Plan<B>,
    t: &Trajectory,
    groups: &[Vec<u32>],
) -> Result<BTreeMap<String, f64>, GenerateError> {
    let (c, ids) = (&t.header.config, &t.footer.ids);
    let mut found = BTreeMap::new();
    let mut put = |name: &str, coe: Option<Coe>| {
        found.extend(coe.into_iter().flat_map(|k| [(format!("{name}_r"), k.r), (format!("{name}_c"), k.c)]));
    };
    read_text(b, session, ids, c.attention, c.block_size)?;
    let chain: Option<Vec<Vec<f32>>> =
        embeddings(b, &session.weights().trunk, session.sequence(), groups).into_iter().collect();
    put("kv_coe", chain.and_then(|chain| coe(&chain)));
    let all: Vec<u32> = groups.iter().flatten().copied().collect();
    if !all.is_empty() {
        let weights = session.weights().clone();
        let layers = hidden_means(b, &weights, plan, ids, (c.attention, c.block_size), &all);
        put("hidden_coe", coe(&layers));
    }
    let commits = t.steps.iter().filter(|s| s.kind == StepKind::Denoise).flat_map(|s| &s.actions);
    let p: Vec<f64> = commits
        .filter(|a| a.kind == ActionKind::Commit)
        .map(|a| f64::from(a.p.max(f32::MIN_POSITIVE)).ln())
        .collect();
    if !p.is_empty() {
        found.insert("mean_ln_p".into(), p.iter().sum::<f64>() / p.len() as f64);
    }
    Ok(found)
}

/// Positions from the end of the prompt to the end of text, by block.
pub fn answer_blocks(t: &Trajectory) -> Vec<Vec<u32>> {
    let (c, ids) = (&t.header.config, &t.footer.ids);
    let start = c.prompt.len() as u32;
    let end =
        (start..ids.len() as u32).find(|p| Some(ids[*p as usize]) == c.eos_id).unwrap_or(ids.len() as u32);
    let block = c.block();
    let mut groups: Vec<Vec<u32>> = Vec::new();
    for p in start..end {
        match groups.last_mut() {
            Some(g) if g[0] / block == p / block => g.push(p),
            _ => groups.push(vec![p]),
        }
    }
    groups
}
