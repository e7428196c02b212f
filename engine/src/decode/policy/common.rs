//! The dials that every policy has: which words may be written, and the approximate caches.

use super::dial::{Parameter, choice, flag, number, optional};

/// What every policy takes ([`super::Candidate`], [`super::Caching`]).
pub(super) static COMMON: [Parameter; 15] = [
    optional(number(
        "top_k",
        "tokens",
        "null",
        (1.0, 100.0),
        1.0,
        "draw among so many of the most probable words; needs a temperature above 0",
    )),
    optional(number(
        "top_p",
        "probability",
        "null",
        (0.01, 1.0),
        0.01,
        "draw among the fewest words that have this probability together; needs a temperature above 0",
    )),
    number(
        "repetition",
        "nats",
        "0",
        (0.0, 10.0),
        0.1,
        "how much less likely a word is made where the same word stands near; 0 = off",
    ),
    number("repetition_window", "positions", "1", (1.0, 64.0), 1.0, "how far near reaches"),
    choice(
        "repetition_side",
        "\"both\"",
        &["both", "left"],
        "where near is: on both sides of a word, or before it",
    ),
    number(
        "guidance",
        "",
        "0",
        (-1.0, 4.0),
        0.1,
        "how much more the prompt counts, at the price of a second forward without it; 0 = off, -1 = the prompt does not count",
    ),
    number(
        "credit",
        "",
        "0",
        (0.0, 4.0),
        0.05,
        "how much more a word is trusted that was the most probable one before, forward after forward (CreditDecoding); 0 = off, dInfer takes 0.7",
    ),
    number(
        "credit_decay",
        "share",
        "0.8",
        (0.0, 1.0),
        0.01,
        "how much of that trust is left after a forward",
    ),
    choice(
        "confidence",
        "\"raw\"",
        &["raw", "drawn"],
        "which probability decides: the model's own, or the one the word was drawn with",
    ),
    choice(
        "eos",
        "\"any\"",
        &["any", "last", "never"],
        "when the end of the text may be written: like any word, once nothing else is left in the block, or not at all",
    ),
    choice(
        "cache",
        "\"exact\"",
        &["exact", "prefix", "dual", "delayed"],
        "with sight of the whole text: keep what was computed before the block, or around it, for as long as the block is written (Fast-dLLM), or whatever is written, a forward later (dKV-Cache); faster and approximate",
    ),
    number("cache_block", "tokens", "32", (4.0, 256.0), 1.0, "tokens of a block under an approximate cache"),
    number(
        "cache_refresh",
        "forwards",
        "0",
        (0.0, 32.0),
        1.0,
        "everything is computed anew in every so many forwards; 0 = once a block",
    ),
    number(
        "cache_delay",
        "forwards",
        "1",
        (0.0, 8.0),
        1.0,
        "delayed: for how many forwards a word just written is computed anew before it is kept; 0 keeps what the mask in its place left",
    ),
    flag(
        "cache_check",
        "false",
        "compute every step without the cache as well, and record by how much it differs",
    ),
];
