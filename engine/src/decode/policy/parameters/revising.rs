//! Policies that change what they wrote.

use super::super::dial::{PolicyInfo, choice, number, optional, score};
use super::ORDER;

pub(super) const EDIT: PolicyInfo = PolicyInfo {
    kind: "edit",
    title: "Threshold with editing",
    meaning: "draft quickly, and overwrite words that no longer fit as the rest appears",
    paper: "LLaDA 2.1, arXiv 2602.08676",
    rule: "{ i masked : p_i(y_i) > τ }; x_i becomes argmax p_i where another has p > τ_edit",
    parameters: &[
        number(
            "tau_mask",
            "probability",
            "0.7",
            (0.0, 1.0),
            0.01,
            "a masked token is written if its probability is above this",
        ),
        optional(number(
            "tau_edit",
            "probability",
            "0.5",
            (0.0, 1.0),
            0.01,
            "a written token is replaced if another one is most probable and above this; 0 = whenever another is most probable; off = never",
        )),
        number(
            "max_post",
            "forwards",
            "16",
            (0.0, 64.0),
            1.0,
            "most forwards that only edit, once a block has no masks",
        ),
        optional(number(
            "max_returns",
            "times",
            "1",
            (0.0, 16.0),
            1.0,
            "how often a position may return to a word it held before; off = no guard (as published)",
        )),
        number(
            "window",
            "blocks",
            "1",
            (1.0, 8.0),
            1.0,
            "finished blocks that are edited together with the newest one, in sight of each other; 1 = each for itself",
        ),
        number(
            "window_passes",
            "forwards",
            "5",
            (0.0, 16.0),
            1.0,
            "most forwards over such a window; the first that changes nothing is the last",
        ),
        choice(
            "window_by",
            "\"adjacent\"",
            &["adjacent", "surprisal"],
            "which blocks: those before it, or the most uncertain ones",
        ),
        score("\"top_prob\"", ORDER),
    ],
};

pub(super) const REMASK: PolicyInfo = PolicyInfo {
    kind: "remask",
    title: "Threshold with remasking",
    meaning: "draft quickly, and mask words again that no longer fit, to write them when more is known",
    paper: "remask instead of replace, arXiv 2604.18738",
    rule: "{ i masked : p_i(y_i) > τ }; x_i is masked where another has p > τ_remask",
    parameters: &[
        number(
            "tau_mask",
            "probability",
            "0.7",
            (0.0, 1.0),
            0.01,
            "a masked token is written if its probability is above this",
        ),
        number(
            "tau_remask",
            "probability",
            "0.5",
            (0.0, 1.0),
            0.01,
            "a written token is masked again if another one is most probable and above this",
        ),
        number(
            "max_post",
            "forwards",
            "16",
            (0.0, 64.0),
            1.0,
            "most forwards that only look again, once a block has no masks",
        ),
        number("max_remasks", "times", "2", (0.0, 16.0), 1.0, "how often a position may be masked again"),
        score("\"top_prob\"", ORDER),
    ],
};

pub(super) const WINO: PolicyInfo = PolicyInfo {
    kind: "wino",
    title: "Wide in, narrow out",
    meaning: "draft boldly, and mask words again that the rest of the text does not bear out; each is judged without being read itself, for which a copy of the block made of masks is computed beside it",
    paper: "WINO, arXiv 2507.18578",
    rule: "{ i masked : p_i(y_i) > τ₁ }, at most ⌊0.7 m⌋ in 5..20; x_i is masked where p(x_i | all but x_i) < τ₂",
    parameters: &[
        number(
            "tau_wide",
            "probability",
            "0.6",
            (0.0, 1.0),
            0.01,
            "a masked token is written if its probability is above this",
        ),
        number(
            "tau_narrow",
            "probability",
            "0.9",
            (0.0, 1.0),
            0.01,
            "a written token is masked again if its probability given all but itself is below this; 0 = never",
        ),
    ],
};

pub(super) const REMDM: PolicyInfo = PolicyInfo {
    kind: "remdm",
    title: "Ancestral with remasking",
    meaning: "positions by lot, and written words may be masked again by lot, so that errors can be put right",
    paper: "ReMDM, arXiv 2503.00307",
    rule: "written → masked with σ; masked → written with (α_s - (1 - σ) α_t) / (1 - α_t)",
    parameters: &[
        choice(
            "variant",
            "\"cap\"",
            &["cap", "rescale", "conf", "loop", "forward_backward"],
            "how the chance to be masked again follows the time: capped, a share of the largest one, more for unsure words, in a phase of its own, or of the forward-backward sampler",
        ),
        number(
            "steps",
            "steps",
            "64",
            (1.0, 1024.0),
            1.0,
            "cells of the grid of times per block; cells in which nothing falls cost nothing",
        ),
        number(
            "eta",
            "probability",
            "0.04",
            (0.0, 1.0),
            0.001,
            "the chance itself, or its share of the largest one (rescale); 0 = no word is masked again",
        ),
        number(
            "t_on",
            "time",
            "0.55",
            (0.05, 0.99),
            0.01,
            "loop: time at which its phase begins (1 = all masked)",
        ),
        number("t_off", "time", "0.05", (0.01, 0.05), 0.01, "loop: time at which its phase ends"),
        number(
            "alpha_on",
            "share",
            "0.9",
            (0.01, 0.99),
            0.01,
            "loop: share of the text that is written in its phase",
        ),
    ],
};

pub(super) const REMDM_QUOTA: PolicyInfo = PolicyInfo {
    kind: "remdm_quota",
    title: "Fixed steps, then again",
    meaning: "a fixed number of steps per block; near its end the least sure words are masked again and written in sight of the others",
    paper: "ReMDM for LLaDA, arXiv 2503.00307",
    rule: "once ⌈from · m⌉ of m are written, in each extra step: mask the r lowest p when written, write the r best",
    parameters: &[
        number(
            "extra_steps",
            "steps",
            "8",
            (0.0, 128.0),
            1.0,
            "how many steps look again; 0 = fixed steps alone. The paper takes as many as the block has words",
        ),
        number(
            "remasked",
            "tokens",
            "1",
            (1.0, 16.0),
            1.0,
            "words masked before each of them, and written in it",
        ),
        number(
            "steps_per_block",
            "steps",
            "0",
            (0.0, 256.0),
            1.0,
            "forwards per block without the extra ones; 0 = one token a forward",
        ),
        number(
            "from",
            "share",
            "0.875",
            (0.0, 1.0),
            0.005,
            "how much of the block is written before it looks again",
        ),
        score("\"top_prob\"", ORDER),
    ],
};

pub(super) const DRAFT_REFINE: PolicyInfo = PolicyInfo {
    kind: "draft_refine",
    title: "Draft, then refine",
    meaning: "write in blocks, then mask the least sure words again and write them in sight of the whole text",
    paper: "Diffusion in Diffusion, arXiv 2601.13599",
    rule: "mask the share γ with the lowest p when written; write it again in sight of all",
    parameters: &[
        number(
            "tau",
            "probability",
            "0.9",
            (0.0, 1.0),
            0.01,
            "draft: a token is written if its probability is above this",
        ),
        number(
            "gamma",
            "share",
            "0.25",
            (0.0, 1.0),
            0.05,
            "share of the draft that is written anew; 0 = the draft alone",
        ),
        number(
            "refine_tau",
            "probability",
            "0.9",
            (0.0, 1.0),
            0.01,
            "refining: a token is written if its probability is above this",
        ),
        choice(
            "choose",
            "\"snapshot\"",
            &["snapshot", "random", "post_hoc", "left_out"],
            "which words: the least sure ones when they were written; as controls any, or the least sure ones when the draft is read again, with the word itself in sight or without it, at a forward more",
        ),
    ],
};
