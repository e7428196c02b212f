//! What the model wrote at each checkpoint: one prompt a card, one slider through time for all.

use hilda_engine::record::{Sample, SampleFile};
use leptos::prelude::*;

use super::replay::SampleReplay;
use crate::api::{self, Problem};
use crate::chart::format;

/// Samples of one prompt, policy and seed over time: (step, sample), ascending.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleTrack {
    pub prompt: String,
    pub policy: String,
    pub seed: u64,
    pub over_time: Vec<(u64, Sample)>,
}

/// Groups files by what was asked.
pub fn tracks(files: &[SampleFile]) -> Vec<SampleTrack> {
    let mut out: Vec<SampleTrack> = Vec::new();
    let mut files: Vec<&SampleFile> = files.iter().collect();
    files.sort_by_key(|f| f.step);
    for file in files {
        for s in &file.samples {
            let same =
                |t: &&mut SampleTrack| t.prompt == s.prompt && t.policy == s.policy && t.seed == s.seed;
            match out.iter_mut().find(same) {
                Some(t) => t.over_time.push((file.step, s.clone())),
                None => out.push(SampleTrack {
                    prompt: s.prompt.clone(),
                    policy: s.policy.clone(),
                    seed: s.seed,
                    over_time: vec![(file.step, s.clone())],
                }),
            }
        }
    }
    out
}

/// Steps at which anything was written.
pub fn steps(tracks: &[SampleTrack]) -> Vec<u64> {
    let mut all: Vec<u64> = tracks.iter().flat_map(|t| t.over_time.iter().map(|s| s.0)).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// The tab of a run. `steps` changes when new samples exist.
#[component]
pub fn Samples(id: String, steps: Signal<usize>) -> impl IntoView {
    let files = RwSignal::new(None::<Vec<SampleFile>>);
    let run = StoredValue::new(id.clone());
    let problem = RwSignal::new(None::<Problem>);
    Effect::new(move |_| {
        steps.track();
        let path = format!("/api/runs/{id}/samples");
        leptos::task::spawn_local(async move {
            match api::get(&path).await {
                Ok(list) => {
                    problem.try_set(None);
                    files.try_set(Some(list));
                }
                Err(p) => drop(problem.try_set(Some(p))),
            }
        });
    });
    view! {
        {move || problem.get().map(|p| view! { <div class="notice bad" role="alert"><p>{p.to_string()}</p></div> })}
        {move || files.get().map(|list| {
            if list.iter().all(|f| f.samples.is_empty()) {
                view! { <p class="mut">"No samples yet. They are written with checkpoints, unless the recipe says sample.length = 0."</p> }.into_any()
            } else {
                view! { <SampleTracks files=list run=run.get_value()/> }.into_any()
            }
        })}
    }
}

/// Cards with a slider through time. With the id of the run, samples whose decoding was recorded can be replayed.
#[component]
pub fn SampleTracks(files: Vec<SampleFile>, #[prop(optional, into)] run: Option<String>) -> impl IntoView {
    let tracks = tracks(&files);
    let steps = steps(&tracks);
    let last = steps.len().saturating_sub(1);
    let at = RwSignal::new(last);
    let all = RwSignal::new(false);
    let marks = StoredValue::new(steps);
    let step = Memo::new(move |_| marks.with_value(|m| m.get(at.get()).copied().unwrap_or_default()));
    view! {
        <div class="samples">
            <Show when=move || { last > 0 }>
                <div class="sample-time">
                    <label>
                        <span>"Step "<output class="num">{move || format::count(step.get())}</output></span>
                        <input type="range" min="0" max=last.to_string() step="1" disabled=move || all.get()
                            prop:value=move || at.get().to_string()
                            aria-valuetext=move || format!("step {}", step.get())
                            on:input=move |ev| {
                                if let Ok(i) = event_target_value(&ev).parse::<usize>() { at.set(i.min(last)); }
                            }/>
                    </label>
                    <label class="check">
                        <input type="checkbox" prop:checked=move || all.get()
                            on:change=move |ev| all.set(event_target_checked(&ev))/>
                        "every step"
                    </label>
                </div>
            </Show>
            {tracks.into_iter().map(|t| view! { <TrackCard track=t step=step.into() all run=run.clone()/> }).collect_view()}
        </div>
    }
}

#[component]
fn TrackCard(
    track: SampleTrack,
    step: Signal<u64>,
    all: RwSignal<bool>,
    run: Option<String>,
) -> impl IntoView {
    let how = format!("{} · seed {}", track.policy, track.seed);
    let prompt = StoredValue::new(track.prompt.clone());
    let over_time = StoredValue::new(track.over_time);
    let run = StoredValue::new(run);
    let shown = move || {
        over_time.with_value(|o| {
            if all.get() {
                return o.iter().rev().cloned().collect::<Vec<_>>();
            }
            // the newest at or before the chosen step
            o.iter().rev().find(|s| s.0 <= step.get()).into_iter().cloned().collect()
        })
    };
    view! {
        <article class="card sample">
            <p class="small mut">{how}</p>
            {move || {
                let list = shown();
                if list.is_empty() {
                    return view! { <p class="mut">"Not written yet at this step."</p> }.into_any();
                }
                list.into_iter().map(|(at, s)| {
                    let prompt = prompt.get_value();
                    // a sample may or may not repeat its prompt
                    let (head, body) = match s.text.strip_prefix(prompt.as_str()) {
                        Some(rest) => (prompt, rest.to_string()),
                        None => (prompt, s.text.clone()),
                    };
                    view! {
                        <div class="sample-text">
                            <p class="small mut num">{format!("step {} · {} forwards", format::count(at), format::count(s.forwards))}</p>
                            <p class="prose"><span class="given">{head}</span>{body}</p>
                            {s.trajectory.zip(run.get_value()).map(|(trajectory, run)| view! { <SampleReplay trajectory run/> })}
                        </div>
                    }
                }).collect_view().into_any()
            }}
        </article>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(step: u64, texts: &[(&str, u64)]) -> SampleFile {
        let samples = texts
            .iter()
            .map(|(prompt, seed)| Sample {
                prompt: prompt.to_string(),
                text: format!("{prompt} at {step}"),
                policy: "threshold".into(),
                seed: *seed,
                forwards: 3,
                trajectory: None,
            })
            .collect();
        SampleFile { step, samples }
    }

    #[test]
    fn the_same_question_is_one_track_in_order() {
        let t = tracks(&[file(200, &[("a", 1), ("b", 1)]), file(100, &[("a", 1), ("a", 2)])]);
        assert_eq!(t.len(), 3);
        assert_eq!((t[0].prompt.as_str(), t[0].over_time.len()), ("a", 2));
        assert_eq!(t[0].over_time[0].0, 100);
        assert_eq!(steps(&t), [100, 200]);
    }
}
