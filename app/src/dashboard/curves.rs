//! The curves of a run: objective, likelihood, gradient norm, learning rate, speed.

use std::sync::Arc;

use leptos::prelude::*;

use super::live::Live;
use super::metrics::Quantity;
use crate::chart::{ChartControls, ChartGroup, LineChart};

#[component]
pub fn Curves(live: Live, file: String) -> impl IntoView {
    let group = ChartGroup::from_address();
    let one = move |quantity: Quantity, name: &'static str, style: usize| {
        Signal::derive(move || live.metrics.with(|m| Arc::new(vec![m.curve(quantity, name, style)])))
    };
    let validation = Signal::derive(move || live.metrics.with(|m| Arc::new(m.validation("", 1))));
    let phases = move || {
        live.metrics.with(|m| {
            let words: Vec<_> = m
                .phases
                .iter()
                .map(|(step, phase, objective)| format!("phase {} ({objective}) from step {step}", phase + 1))
                .collect();
            words.join(", ")
        })
    };
    let several = move || live.metrics.with(|m| m.phases.len() > 1);
    view! {
        <ChartControls group/>
        <Show when=several>
            <p class="small mut">"The objective changes between phases, so values left and right of a change are different quantities: "{phases}"."</p>
        </Show>
        <div class="charts">
            <LineChart title="Training loss" unit="nats per token"
                about="The objective on each batch. Not a likelihood: compare runs by validation."
                file=format!("{file}-loss") series=one(Quantity::Loss, "loss", 0) group height=300.0/>
            <LineChart title="Validation" unit="nats per token"
                about="Likelihood of unseen text by estimator, with one standard error."
                file=format!("{file}-validation") series=validation group height=300.0/>
            <LineChart title="Gradient norm" unit="norm" about="Before clipping."
                file=format!("{file}-grad-norm") series=one(Quantity::GradNorm, "gradient norm", 0) group/>
            <LineChart title="Learning rate" unit="rate" about="As applied at each step."
                file=format!("{file}-lr") series=one(Quantity::LearningRate, "learning rate", 0) group/>
            <LineChart title="Speed" unit="tokens per second" about="Clean data tokens, measured per step."
                file=format!("{file}-speed") series=one(Quantity::Speed, "tokens/s", 0) group/>
        </div>
    }
}
