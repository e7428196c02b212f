//! The table of policies, what the page shows beside every dial: unit, default, range, meaning, source. The defaults are tested to be
//! those that [`super::PolicySpec`] fills in.

mod revising;

use super::PolicySpec;
use super::common::COMMON;
use super::dial::{Parameter, PolicyInfo, choice, flag, number, score};

const ORDER: &str = "which masked positions count as surest: by lot, by the token's probability, by the lead over the second, by low entropy, by probability weighed with how much is known around, or early and rare words first (pc, which needs the corpus' word counts beside the model)";

static POLICIES: [PolicyInfo; 17] = [
    PolicyInfo {
        kind: "ancestral",
        title: "Ancestral",
        meaning: "positions in random order, each token drawn from the model's own distribution",
        paper: "MDLM, arXiv 2406.07524; first hitting, arXiv 2409.02908",
        rule: "one masked i at random, x_i ~ p_i; on a grid of times every masked i with probability 1 - t'/t",
        parameters: &[
            choice(
                "form",
                "\"first_hitting\"",
                &["first_hitting", "time_grid"],
                "a fixed number of tokens each forward, or a grid of times at which each mask falls by its own lot",
            ),
            number(
                "tokens_per_forward",
                "tokens",
                "1",
                (1.0, 64.0),
                1.0,
                "first hitting: tokens written together; 1 is exact, more is faster",
            ),
            number(
                "steps",
                "steps",
                "128",
                (1.0, 1024.0),
                1.0,
                "time grid: cells per block; cells in which nothing falls cost nothing",
            ),
        ],
    },
    PolicyInfo {
        kind: "top_prob",
        title: "Fixed steps",
        meaning: "a fixed number of steps per block, the surest positions first",
        paper: "LLaDA, arXiv 2502.09992",
        rule: "the k best scores, k = ⌊m / S⌋, one more in the first m mod S steps",
        parameters: &[
            number(
                "steps_per_block",
                "steps",
                "8",
                (0.0, 256.0),
                1.0,
                "forwards per block; 0 = one token a forward",
            ),
            score("\"top_prob\"", ORDER),
            choice(
                "schedule",
                "\"even\"",
                &["even", "dream"],
                "as many tokens in each step, or Dream's grid of times, which writes few first and most last",
            ),
            number(
                "alg_temp",
                "",
                "0",
                (0.0, 2.0),
                0.05,
                "positions are drawn from softmax(score / this) instead of taking the surest; 0 = no draw",
            ),
        ],
    },
    PolicyInfo {
        kind: "threshold",
        title: "Threshold",
        meaning: "write every token the model is surer of than tau, at least one",
        paper: "Fast-dLLM, arXiv 2505.22618",
        rule: "{ i : p_i(y_i) > τ }, else the best i",
        parameters: &[
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a token is written if its probability is above this; 1 = one token a forward",
            ),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "hierarchical",
        title: "Threshold, spread out",
        meaning: "write what the model is sure of, and the surest token of every gap: tokens far apart depend less on each other",
        paper: "hierarchical decoding of dInfer, arXiv 2510.08666",
        rule: "{ i : p_i(y_i) > τ } and of each run of masks the best i if p_i(y_i) > τ_low, else the best i",
        parameters: &[
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a token is written if its probability is above this",
            ),
            number(
                "tau_low",
                "probability",
                "0.4",
                (0.0, 1.0),
                0.01,
                "the surest token of a run of masks is written if its probability is above this",
            ),
            score("\"top_prob\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "factor",
        title: "Factor",
        meaning: "write as many tokens as their confidences allow without changing the most probable text",
        paper: "Fast-dLLM, arXiv 2505.22618, theorem 1",
        rule: "the largest n with (k + 1)(1 - c_k) < f for 2 ≤ k ≤ n, c from the surest down",
        parameters: &[number(
            "f",
            "",
            "1",
            (0.0, 4.0),
            0.05,
            "n tokens are written while (n + 1)(1 - confidence) stays below this; 1 is the proven bound",
        )],
    },
    PolicyInfo {
        kind: "entropy_bound",
        title: "Entropy bound",
        meaning: "write tokens together while what they could tell about each other stays below gamma",
        paper: "EB-Sampler, arXiv 2505.24857",
        rule: "the largest U with Σ_U H_i - max_U H_i ≤ γ",
        parameters: &[
            number(
                "gamma",
                "nats",
                "0.1",
                (-0.1, 4.0),
                0.01,
                "bound on the entropies of the tokens written together, without the largest; below 0 = one token a forward",
            ),
            score("\"entropy\"", ORDER),
        ],
    },
    PolicyInfo {
        kind: "klass",
        title: "Settled rows",
        meaning: "write what the model is sure of and has stopped changing its mind about",
        paper: "KLASS, arXiv 2511.05664",
        rule: "{ i : KL(p_i ‖ p_i before) < ε in the last n forwards and max p_i > τ }",
        parameters: &[
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a settled token is written if its probability is above this",
            ),
            number(
                "epsilon",
                "nats",
                "0.01",
                (0.0, 1.0),
                0.001,
                "settled: its distribution moved by less than this (KL) in each of the last forwards",
            ),
            number("history", "forwards", "2", (1.0, 8.0), 1.0, "how many forwards that must have been"),
            number(
                "steps_per_block",
                "steps",
                "0",
                (0.0, 256.0),
                1.0,
                "where nothing has settled, write as with fixed steps; 0 = one token a forward",
            ),
            flag(
                "carry",
                "false",
                "what later blocks thought before counts for them too, where their words are computed all along",
            ),
            score("\"top_prob\"", ORDER),
        ],
    },
    revising::EDIT,
    revising::REMASK,
    revising::WINO,
    revising::REMDM,
    revising::REMDM_QUOTA,
    revising::DRAFT_REFINE,
    PolicyInfo {
        kind: "best_of",
        title: "Best of several",
        meaning: "write several texts and keep the one that the model likes best; they differ above temperature 0",
        paper: "best-of-n sampling; scored as in arXiv 2601.20339",
        rule: "argmax over n texts of the mean ln p",
        parameters: &[
            number("n", "texts", "4", (1.0, 16.0), 1.0, "how many"),
            number(
                "tau",
                "probability",
                "0.9",
                (0.0, 1.0),
                0.01,
                "a token is written if its probability is above this",
            ),
            choice(
                "by",
                "\"chain\"",
                &["chain", "commits"],
                "the model's opinion of each finished block in sight of the rest, at a forward a block, or how sure it was while writing",
            ),
            number(
                "budget",
                "forwards",
                "0",
                (0.0, 2000.0),
                1.0,
                "no further text is begun that would exceed it; 0 = no limit",
            ),
        ],
    },
    PolicyInfo {
        kind: "order_token_search",
        title: "Order-token search",
        meaning: "several texts at once that differ in order and words; the best are kept block by block. Needs sight of the whole text and a temperature",
        paper: "Order-Token Search, arXiv 2601.20339",
        rule: "K texts, K children each a block; the K with the highest Σ ln p(block | the rest) stay",
        parameters: &[
            number("beams", "texts", "4", (1.0, 8.0), 1.0, "texts kept, and children of each"),
            number("block", "tokens", "32", (1.0, 256.0), 1.0, "tokens between two choices"),
            number(
                "tokens_per_forward",
                "tokens",
                "2",
                (1.0, 64.0),
                1.0,
                "tokens each text writes in a forward",
            ),
            flag("noised", "true", "the order is drawn as well, by the noise of the words"),
            flag("accumulate", "true", "earlier blocks count in the choice"),
            number(
                "budget",
                "forwards",
                "0",
                (0.0, 4000.0),
                1.0,
                "one text is kept from where more would exceed it; 0 = no limit",
            ),
        ],
    },
    PolicyInfo {
        kind: "switch",
        title: "Fast or slow",
        meaning: "one of two policies, chosen by what the first forward says of the text: the slow one where the fast one will probably not do. Needs a switch.json beside the model, which does not travel to the page",
        paper: "after the fast / slow switch of arXiv 2601.20326",
        rule: "slow if d(e) > at, d = 100 σ(w · e + b)",
        parameters: &[number(
            "at",
            "%",
            "50",
            (0.0, 100.0),
            1.0,
            "the slow policy above this chance that the fast one does not suffice; 100 = always fast",
        )],
    },
    PolicyInfo {
        kind: "left_to_right",
        title: "Left to right",
        meaning: "the first masked position, one token a forward; the only order of causal models",
        paper: "autoregressive decoding",
        rule: "x_i ~ p(x_i | x_1 .. x_{i-1})",
        parameters: &[],
    },
];

impl PolicySpec {
    /// The parameters that every policy has.
    pub fn common_parameters() -> &'static [Parameter] {
        &COMMON
    }
    /// Every policy with its parameters, in the order the page lists them.
    pub fn parameters() -> &'static [PolicyInfo] {
        &POLICIES
    }
}

#[cfg(test)]
mod tests;
