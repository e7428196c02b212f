//! The overlay of blocks: where they begin, and what the forward of the step shown did with each position, as the decoder
//! recorded it: computed it, read its keys and values from the cache, or did not look at it.

use hilda_engine::decode::{StepKind, StepRecord};

use super::tape::Tape;

/// What a forward did with a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// keys and values came from the cache
    Cached,
    Computed,
    /// behind everything that the forward saw
    Unread,
}

impl Use {
    pub fn class(self) -> &'static str {
        match self {
            Use::Cached => "cached",
            Use::Computed => "computed",
            Use::Unread => "unread",
        }
    }
    pub fn words(self) -> &'static str {
        match self {
            Use::Cached => "from the cache",
            Use::Computed => "computed in this step",
            Use::Unread => "not looked at",
        }
    }
}

/// What `step` did with `pos`; nothing if no model was asked.
pub fn used(step: &StepRecord, pos: u32) -> Option<Use> {
    let computed = step.computed();
    match step.kind {
        StepKind::User => None,
        _ if pos < computed.start => Some(Use::Cached),
        _ if step.gaps.iter().any(|(a, b)| (*a..*b).contains(&pos)) => Some(Use::Cached),
        _ if pos < computed.end => Some(Use::Computed),
        _ if step.cache.behind.is_some_and(|(a, b)| (a..b).contains(&pos)) => Some(Use::Cached),
        _ => Some(Use::Unread),
    }
}

/// The step in words: "Step 12: 40 tokens of blocks 1 to 5 from the cache, 8 tokens of block 6 computed, 10 blocks not
/// looked at." Blocks are counted from 1.
pub fn summary(tape: &Tape, at: usize) -> String {
    let length = tape.last().map_or(0, |f| f.cells.len() as u32);
    let size = if tape.block_size == 0 { length } else { tape.block_size }.max(1);
    let Some(step) = at.checked_sub(1).and_then(|i| tape.steps.get(i)) else {
        return format!("Before the first step. {} of {size} tokens.", blocks(length.div_ceil(size)));
    };
    if step.kind == StepKind::User {
        return format!("Step {at}: your change; no forward.");
    }
    let computed = step.computed();
    let named = |from: u32, to: u32| {
        let (first, last) = (from / size + 1, to.saturating_sub(1) / size + 1);
        let which =
            if first == last { format!("block {first}") } else { format!("blocks {first} to {last}") };
        let count = to - from;
        format!("{count} token{} of {which}", if count == 1 { "" } else { "s" })
    };
    let mut parts = vec![match computed.start {
        0 => "nothing from the cache".to_string(),
        end => format!("{} from the cache", named(0, end)),
    }];
    if !step.gaps.is_empty() {
        let all = named(computed.start, computed.end);
        parts.push(format!("{} of {all} computed and the others between them from the cache", step.queries));
    } else if !computed.is_empty() {
        parts.push(format!("{} computed", named(computed.start, computed.end)));
    }
    if let Some((from, to)) = step.cache.behind {
        parts.push(format!("{} behind from the cache", named(from, to)));
    } else if computed.end < length {
        parts.push(format!("{} not looked at", named(computed.end, length)));
    }
    if step.shadow > 0 {
        let rows = if step.shadow == 1 { "row" } else { "rows" };
        parts.push(format!("{} {rows} of masks beside them", step.shadow));
    }
    if let Some(age) = step.cache.age {
        parts.push(format!("the cache is {age} forward{} old", if age == 1 { "" } else { "s" }));
    }
    if let Some((from, to)) = step.cache.quantised {
        parts.push(format!("{} rounded from now on, which is approximate", named(from, to)));
    }
    match step.evicted.as_slice() {
        [] => {}
        [each] => parts.push(format!("{each} keys of every head dropped, which is approximate")),
        several => {
            let most = several.iter().max().copied().unwrap_or(0);
            parts.push(format!("up to {most} keys of a head dropped, which is approximate"));
        }
    }
    format!("Step {at}: {}.", parts.join(", "))
}

fn blocks(count: u32) -> String {
    format!("{count} block{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hilda_engine::decode::{Attention, DecodeConfig, Decoder, ForwardRequest, RowStats};
    use hilda_kernels::head::RowHead;

    /// Every row is sure of token 1.
    /// What a lossy cache did is said with the step that did it.
    #[test]
    fn losses_are_told() {
        let mut c = DecodeConfig::new(vec![1], 16, 10, 9);
        (c.attention, c.block_size) = (Attention::BlockCausal, 4);
        let mut tape = Tape::new(&c);
        let quantised = Some((4, 8));
        let cache =
            hilda_engine::decode::trajectory::CacheEvent { reused: 8, quantised, ..Default::default() };
        for evicted in [vec![3], vec![1, 3]] {
            tape.push(StepRecord { queries: 4, cache, evicted, ..Default::default() });
        }
        let said = summary(&tape, 1);
        assert!(said.contains("4 tokens of block 2 rounded from now on"), "{said}");
        assert!(said.contains("3 keys of every head dropped"), "{said}");
        assert!(summary(&tape, 2).contains("up to 3 keys of a head"));
    }

    fn stats(request: &ForwardRequest) -> RowStats {
        let row = RowHead {
            lse: 0.0,
            max: -0.01,
            argmax: 1,
            second: -5.0,
            entropy: 0.05,
            current: -5.0,
            candidate: 1,
            candidate_logit: -0.01,
            lse_t: 0.0,
            margin: 5.0,
            top: vec![(1, 0.99)],
        };
        RowStats { rows: vec![row; request.want.rows.len()], ..Default::default() }
    }

    #[test]
    fn steps_say_what_the_decoder_asked_for() {
        let mut config = DecodeConfig::new(vec![2; 6], 15, 12, 11);
        (config.attention, config.block_size) = (Attention::BlockCausal, 4);
        config.policy = serde_json::from_value(serde_json::json!({"kind": "threshold", "tau": 0.5})).unwrap();
        let mut decoder = Decoder::new(config.clone()).unwrap();
        let mut tape = Tape::new(&config);
        let mut asked = Vec::new();
        while let Some(request) = decoder.next() {
            let event = decoder.apply(stats(&request)).unwrap();
            if event.record.kind == StepKind::Denoise {
                asked.push(request.query_positions);
            }
            tape.push(event.record);
        }
        let record = decoder.reopen(&[9]).unwrap();
        tape.push(record);
        assert_eq!(asked, [vec![4, 5, 6, 7], vec![8, 9, 10, 11], vec![12, 13, 14]]);
        for (step, asked) in tape.steps.iter().zip(&asked) {
            for pos in 0..15 {
                let want = match pos {
                    _ if asked.contains(&pos) => Use::Computed,
                    _ if pos < asked[0] => Use::Cached,
                    _ => Use::Unread,
                };
                assert_eq!(used(step, pos), Some(want));
            }
        }
        assert_eq!(used(&tape.steps[3], 9), None);
        let said: Vec<String> = (0..=4).map(|at| summary(&tape, at)).collect();
        assert_eq!(
            said,
            [
                "Before the first step. 4 blocks of 4 tokens.",
                "Step 1: 4 tokens of block 1 from the cache, 4 tokens of block 2 computed, 7 tokens of blocks 3 to 4 \
                 not looked at.",
                "Step 2: 8 tokens of blocks 1 to 2 from the cache, 4 tokens of block 3 computed, 3 tokens of block 4 \
                 not looked at.",
                "Step 3: 12 tokens of blocks 1 to 3 from the cache, 3 tokens of block 4 computed.",
                "Step 4: your change; no forward.",
            ]
        );
    }

    #[test]
    fn gaps_came_from_the_cache() {
        let config = DecodeConfig::new(vec![2; 2], 12, 12, 11);
        let mut tape = Tape::new(&config);
        let cache = hilda_engine::decode::trajectory::CacheEvent {
            reused: 2,
            behind: Some((9, 12)),
            age: Some(1),
            ..Default::default()
        };
        tape.push(StepRecord {
            queries: 4,
            gaps: vec![(3, 5), (7, 8)],
            cache,
            shadow: 8,
            ..Default::default()
        });
        let uses: Vec<Use> = (0..12).filter_map(|p| used(&tape.steps[0], p)).collect();
        use Use::{Cached as R, Computed as C};
        assert_eq!(uses, [R, R, C, R, R, C, C, R, C, R, R, R]);
        assert_eq!(
            summary(&tape, 1),
            "Step 1: 2 tokens of block 1 from the cache, 4 of 7 tokens of block 1 computed and the others between them \
             from the cache, 3 tokens of block 1 behind from the cache, 8 rows of masks beside them, the cache is 1 \
             forward old."
        );
    }

    #[test]
    fn one_block_has_no_cache() {
        let config = DecodeConfig::new(vec![2; 2], 5, 12, 11);
        let mut decoder = Decoder::new(config.clone()).unwrap();
        let mut tape = Tape::new(&config);
        let request = decoder.next().unwrap();
        tape.push(decoder.apply(stats(&request)).unwrap().record);
        assert_eq!(summary(&tape, 1), "Step 1: nothing from the cache, 5 tokens of block 1 computed.");
        assert_eq!(used(&tape.steps[0], 4), Some(Use::Computed));
    }
}
