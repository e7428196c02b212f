//! What a text cost: forwards and computed positions by purpose, and how often the decoder changed its mind or had to be
//! pushed. Bars are drawn to one scale for texts that stand beside each other.

use hilda_engine::decode::{ActionKind, StepKind, StepRecord};
use leptos::prelude::*;

use super::transport::Voice;

/// Forwards of one purpose and the positions they computed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share {
    pub forwards: u32,
    pub positions: u32,
}

/// See the module comment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Costs {
    /// caches the prompt's whole blocks
    pub prefill: Share,
    /// predicts words
    pub denoise: Share,
    /// caches finished blocks, or drops what a change made stale
    pub store: Share,
    /// predicts without the prompt, for guidance
    pub guide: Share,
    /// tries continuations, of which one is kept
    pub search: Share,
    /// computes everything again to say how far an approximate cache is off
    pub check: Share,
    /// reads a finished draft again
    pub judge: Share,
    pub edits: u32,
    pub remasks: u32,
    /// steps in which nothing passed the policy's test
    pub forced: u32,
}

impl Costs {
    pub fn add(&mut self, step: &StepRecord) {
        let share = match step.kind {
            StepKind::Prefill => &mut self.prefill,
            StepKind::Denoise => &mut self.denoise,
            StepKind::Store | StepKind::Refresh => &mut self.store,
            StepKind::Guide => &mut self.guide,
            StepKind::Search => &mut self.search,
            StepKind::Check => &mut self.check,
            StepKind::Judge => &mut self.judge,
            StepKind::User => return,
        };
        share.forwards += 1;
        share.positions = share.positions.saturating_add(step.queries).saturating_add(step.shadow);
        let count = |kind| step.actions.iter().filter(|a| a.kind == kind).count() as u32;
        self.edits += count(ActionKind::Edit);
        self.remasks += count(ActionKind::Remask);
        self.forced += u32::from(step.forced);
    }

    fn shares(&self) -> [(&'static str, Share); 7] {
        [
            ("predicting", self.denoise),
            ("caching", self.store),
            ("reading the prompt", self.prefill),
            ("guiding", self.guide),
            ("searching", self.search),
            ("checking the cache", self.check),
            ("reading the draft again", self.judge),
        ]
    }
    fn total(&self, of: fn(&Share) -> u32) -> u32 {
        self.shares().iter().map(|(_, share)| of(share)).sum()
    }
}

/// Bars for each text; names are shown where there are several.
#[component]
pub fn CostBars(texts: Signal<Vec<Voice>>) -> impl IntoView {
    let rows = Memo::new(move |_| {
        let texts = texts.get();
        let costs: Vec<(String, Costs, u32)> = texts
            .into_iter()
            .map(|Voice { name, player }| {
                let written = player.tape.with(|t| t.last().map_or(0, |f| f.written));
                (name, player.tape.with(|t| t.costs), written)
            })
            .collect();
        costs
    });
    let bars = move |title: &'static str, about: &'static str, of: fn(&Share) -> u32| {
        move || {
            let rows = rows.get();
            let most = rows.iter().map(|(_, c, _)| c.total(of)).max().unwrap_or(0).max(1);
            let several = rows.len() > 1;
            view! {
                <h3 title=about>{title}</h3>
                {rows.into_iter().map(|(name, costs, _)| {
                    let total = costs.total(of);
                    let said: Vec<String> = costs.shares().iter().filter(|(_, s)| of(s) > 0).map(|(what, s)| format!("{} {what}", of(s))).collect();
                    view! {
                        <div class="cost">
                            {several.then_some(view! { <span class="who">{name}</span> })}
                            <span class="bar" aria-hidden="true">
                                {costs.shares().into_iter().enumerate().map(|(i, (_, s))| view! {
                                    <i class=format!("part{i}") style:width=format!("{:.2}%", 100.0 * f64::from(of(&s)) / f64::from(most))></i>
                                }).collect_view()}
                            </span>
                            <span class="said"><b>{total}</b>": "{said.join(", ")}</span>
                        </div>
                    }
                }).collect_view()}
            }
        }
    };
    view! {
        <div class="costs">
            {bars("Forwards", "how often the network was asked", |s| s.forwards)}
            {bars("Positions computed", "tokens that all forwards together computed; what came from the cache is free", |s| s.positions)}
            {move || rows.get().into_iter().map(|(name, costs, written)| {
                let forwards = costs.total(|s| s.forwards) - costs.prefill.forwards;
                let per = |n: u32| if n == 0 { 0.0 } else { f64::from(written) / f64::from(n) };
                let positions = costs.total(|s| s.positions);
                let several = rows.with(|r| r.len() > 1);
                view! {
                    <p class="small mut">
                        {several.then(|| format!("{name}: "))}
                        {format!("{:.2} tokens a forward, {:.1} positions computed a token; {}, {}, {}.",
                            per(forwards),
                            if written == 0 { 0.0 } else { f64::from(positions) / f64::from(written) },
                            counted(costs.edits, "edit", "edits"),
                            counted(costs.remasks, "word masked again", "words masked again"),
                            counted(costs.forced, "step in which no word was sure enough", "steps in which no word was sure enough"))}
                    </p>
                }
            }).collect_view()}
        </div>
    }
}

fn counted(n: u32, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forwards_and_positions_are_counted_by_purpose() {
        let step = |kind, queries, forced| StepRecord {
            step: 0,
            block: 0,
            kind,
            queries,
            cache: Default::default(),
            rows: vec![],
            actions: vec![],
            rule: None,
            forced,
            ..Default::default()
        };
        let mut costs = Costs::default();
        for (kind, queries, forced) in [
            (StepKind::Prefill, 8, false),
            (StepKind::Denoise, 16, true),
            (StepKind::User, 0, false),
            (StepKind::Denoise, 16, false),
            (StepKind::Store, 16, false),
            (StepKind::Refresh, 0, false),
        ] {
            costs.add(&step(kind, queries, forced));
        }
        assert_eq!(costs.prefill, Share { forwards: 1, positions: 8 });
        assert_eq!(costs.denoise, Share { forwards: 2, positions: 32 });
        assert_eq!(costs.store, Share { forwards: 2, positions: 16 });
        assert_eq!((costs.forced, costs.total(|s| s.positions)), (1, 56));
    }
}
