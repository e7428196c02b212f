//! The table of runs: search and state filter in the address, j and k move, Enter opens, x chooses for comparison.

use std::collections::BTreeSet;

use hilda_engine::record::State;
use leptos::ev;
use leptos::prelude::*;
use leptos_router::NavigateOptions;
use leptos_router::components::A;
use leptos_router::hooks::{use_navigate, use_query_map};
use wasm_bindgen::JsCast;

use super::data::{Recipe, RunSummary, STATES, state_word};
use super::ui::{Likelihood, Oops, Progress, StatePill, When, clock, is_typing, unix_now};
use crate::api::{self, Problem};
use crate::chart::{Spark, format};
use crate::dom;
use crate::shell::set_title;

/// How often the list is read again, milliseconds.
const EVERY: i32 = 3000;

/// Whether a run matches what the reader searches for.
pub fn matches(run: &RunSummary, query: &str, state: Option<State>) -> bool {
    let query = query.trim().to_lowercase();
    let text = format!("{} {} {} {}", run.name, run.id, run.objective, state_word(run.state)).to_lowercase();
    state.is_none_or(|s| s == run.state) && query.split_whitespace().all(|w| text.contains(w))
}

#[component]
pub fn Runs() -> impl IntoView {
    set_title("Runs");
    let query = use_query_map();
    let search = Memo::new(move |_| query.with(|q| q.get("q").unwrap_or_default()));
    let state = Memo::new(move |_| {
        let word = query.with(|q| q.get("state").unwrap_or_default());
        STATES.into_iter().find(|s| state_word(*s) == word)
    });
    let undo = Memo::new(move |_| query.with(|q| q.get("deleted")));

    let runs = RwSignal::new(None::<Vec<RunSummary>>);
    let problem = RwSignal::new(None::<Problem>);
    let asked = RwSignal::new(0u32);
    let load = move || async move {
        match api::get::<Vec<RunSummary>>("/api/runs").await {
            Ok(list) => {
                problem.try_set(None);
                if runs.try_with_untracked(|old| old.as_ref() != Some(&list)) == Some(true) {
                    runs.try_set(Some(list));
                }
            }
            Err(p) => drop(problem.try_set(Some(p))),
        }
    };
    Effect::new(move |_| {
        asked.track();
        leptos::task::spawn_local(load());
    });
    leptos::task::spawn_local(async move {
        loop {
            dom::sleep(EVERY).await;
            if runs.is_disposed() {
                return;
            }
            if !dom::document().hidden() {
                load().await;
            }
        }
    });
    let retry = Callback::new(move |()| asked.update(|n| *n += 1));

    let shown = Memo::new(move |_| {
        runs.with(|list| {
            list.iter()
                .flatten()
                .filter(|r| matches(r, &search.get(), state.get()))
                .map(|r| r.id.clone())
                .collect::<Vec<_>>()
        })
    });
    let chosen = RwSignal::new(BTreeSet::<String>::new());
    let navigate = use_navigate();
    let go = {
        let navigate = navigate.clone();
        move |q: &str, s: Option<State>| {
            let mut parts = Vec::new();
            if !q.is_empty() {
                parts.push(format!("q={}", String::from(js_sys::encode_uri_component(q))));
            }
            if let Some(s) = s {
                parts.push(format!("state={}", state_word(s)));
            }
            let mark = if parts.is_empty() { "" } else { "?" };
            let options = NavigateOptions { replace: true, scroll: false, ..Default::default() };
            navigate(&format!("/runs{mark}{}", parts.join("&")), options);
        }
    };
    let compare_address = move || {
        let ids: Vec<_> = chosen.get().into_iter().collect();
        format!("/compare?runs={}", ids.join(","))
    };
    keys(shown, chosen, {
        let navigate = navigate.clone();
        move || {
            if chosen.with_untracked(|c| c.len()) >= 2 {
                navigate(&untrack(compare_address), NavigateOptions::default());
            }
        }
    });

    let now = clock(10);
    let go_search = go.clone();
    let go_state = go;
    let announcement = move || {
        runs.with(|l| {
            l.as_ref().map(|l| {
                let running = l.iter().filter(|r| r.state == State::Running).count();
                format!("{} runs shown, {running} running", shown.with(Vec::len))
            })
        })
    };
    view! {
        <section class="page runs">
            <div class="page-head">
                <h1>"Runs"</h1>
                <A href="/launch" attr:class="button go">"New run"</A>
            </div>
            {move || undo.get().map(|id| view! { <Undo id on_done=retry/> })}
            {move || problem.get().map(|p| view! { <Oops problem=p retry/> })}
            <p class="visually-hidden" role="status">{announcement}</p>
            {move || match runs.with(|l| l.as_ref().map(Vec::is_empty)) {
                None => {
                    let waiting = problem.with(Option::is_none);
                    waiting.then(|| view! { <p class="mut">"Reading the runs"</p> }).into_any()
                }
                Some(true) => view! { <Empty/> }.into_any(),
                Some(false) => {
                    let go_search = go_search.clone();
                    let go_state = go_state.clone();
                    view! {
                        <div class="filters" role="search">
                            <input type="search" id="search" placeholder="Search name, objective, state"
                                aria-label="Search runs" prop:value=untrack(move || search.get())
                                on:input=move |ev| go_search(&event_target_value(&ev), state.get_untracked())/>
                            <select aria-label="State" on:change=move |ev| {
                                let word = event_target_value(&ev);
                                let s = STATES.into_iter().find(|s| state_word(*s) == word);
                                go_state(&search.get_untracked(), s);
                            }>
                                <option value="" selected=move || state.get().is_none()>"any state"</option>
                                {STATES.map(|s| view! {
                                    <option value=state_word(s) selected=move || state.get() == Some(s)>{state_word(s)}</option>
                                }).collect_view()}
                            </select>
                            <span class="spacer"></span>
                            <Show when=move || !chosen.get().is_empty()>
                                <span class="small mut">{move || format!("{} chosen", chosen.with(BTreeSet::len))}</span>
                                <Show when=move || { chosen.with(BTreeSet::len) >= 2 }
                                    fallback=|| view! { <span class="small mut">"choose one more to compare"</span> }>
                                    <A href=compare_address attr:class="button">"Compare"</A>
                                </Show>
                                <button type="button" class="small quiet" on:click=move |_| chosen.set(BTreeSet::new())>"Clear"</button>
                            </Show>
                        </div>
                        <table class="runs-table">
                            <thead><tr>
                                <th scope="col"><span class="visually-hidden">"Choose"</span></th>
                                <th scope="col">"Run"</th><th scope="col">"State"</th><th scope="col">"Progress"</th>
                                <th scope="col" class="r">"Step"</th><th scope="col" class="r">"Tokens"</th>
                                <th scope="col">"Recent loss"</th><th scope="col">"Likelihood"</th>
                                <th scope="col">"Device"</th><th scope="col">"Started"</th>
                                <th scope="col" class="r" title="Time spent training">"Cost"</th>
                                <th scope="col" class="r">"Disk"</th>
                            </tr></thead>
                            <tbody>
                                <For each=move || shown.get() key=|id| id.clone() children=move |id| view! { <Row id runs chosen now/> }/>
                            </tbody>
                        </table>
                        <Show when=move || shown.with(Vec::is_empty)>
                            <p class="mut">"No run matches. Clear the search or the state to see all."</p>
                        </Show>
                        <p class="small mut keys-help">
                            <kbd>"j"</kbd>" "<kbd>"k"</kbd>" move, "<kbd>"Enter"</kbd>" opens, "<kbd>"x"</kbd>" chooses, "
                            <kbd>"c"</kbd>" compares, "<kbd>"/"</kbd>" searches"
                        </p>
                    }.into_any()
                }
            }}
        </section>
    }
}

/// Id of the link that opens a run.
fn link_id(run: &str) -> String {
    format!("run-{run}")
}

fn focus_on(id: &str) {
    let element =
        dom::document().get_element_by_id(id).and_then(|e| e.dyn_into::<web_sys::HtmlElement>().ok());
    if let Some(element) = element {
        // what cannot take the focus leaves it where it is
        drop(element.focus());
    }
}

/// Letters as commands, while nobody types.
fn keys(shown: Memo<Vec<String>>, chosen: RwSignal<BTreeSet<String>>, compare: impl Fn() + 'static) {
    let handle = window_event_listener(ev::keydown, move |event| {
        if is_typing() || event.ctrl_key() || event.meta_key() || event.alt_key() {
            return;
        }
        let ids = shown.get_untracked();
        let active = dom::document().active_element().map(|e| e.id()).unwrap_or_default();
        let here = ids.iter().position(|id| active == link_id(id));
        let focus = |i: usize| {
            if let Some(id) = ids.get(i) {
                focus_on(&link_id(id));
            }
        };
        match event.key().as_str() {
            "j" => focus(here.map_or(0, |i| (i + 1).min(ids.len().saturating_sub(1)))),
            "k" => focus(here.map_or(0, |i| i.saturating_sub(1))),
            "x" => {
                if let Some(id) = here.map(|i| ids[i].clone()) {
                    chosen.update(|c| {
                        if !c.remove(&id) {
                            c.insert(id);
                        }
                    });
                }
            }
            "c" => compare(),
            "/" => focus_on("search"),
            _ => return,
        }
        event.prevent_default();
    });
    on_cleanup(move || handle.remove());
}

#[component]
fn Row(
    id: String,
    runs: RwSignal<Option<Vec<RunSummary>>>,
    chosen: RwSignal<BTreeSet<String>>,
    now: Signal<f64>,
) -> impl IntoView {
    let key = StoredValue::new(id.clone());
    let run = Memo::new(move |_| {
        runs.with(|l| l.iter().flatten().find(|r| key.with_value(|k| *k == r.id)).cloned())
    });
    let status = Memo::new(move |_| run.get().and_then(|r| r.status));
    let name = Memo::new(move |_| run.get().map(|r| r.name).unwrap_or_default());
    let objective = move || run.get().map(|r| r.objective);
    let state = Memo::new(move |_| run.get().map_or(State::Queued, |r| r.state));
    let of = move |f: fn(&hilda_engine::record::Status) -> String| {
        move || status.with(|s| s.as_ref().map(f)).unwrap_or_else(|| "–".into())
    };
    let queue = move || run.get().and_then(|r| r.queue_position).map(|p| format!("{} in the queue", p + 1));
    let spark = Memo::new(move |_| run.get().map(|r| r.spark).unwrap_or_default());
    let headline = Memo::new(move |_| status.get().and_then(|s| s.headline));
    let href = format!("/runs/{id}");
    view! {
        <tr class:chosen=move || chosen.with(|c| key.with_value(|k| c.contains(k)))>
            <td class="pick">
                <input type="checkbox" aria-label=move || format!("Choose {} for comparison", name.get())
                    prop:checked=move || chosen.with(|c| key.with_value(|k| c.contains(k)))
                    on:change=move |ev| {
                        let on = event_target_checked(&ev);
                        chosen.update(|c| if on { c.insert(key.get_value()); } else { c.remove(&key.get_value()); });
                    }/>
            </td>
            <th scope="row" class="name">
                <A href=href attr:class="run-link" attr:id=link_id(&id)>{name}</A>
                <span class="small mut">{objective}</span>
            </th>
            <td data-label="State"><StatePill state=state/></td>
            <td data-label="Progress">
                <Progress status=status/>
                <span class="small mut">{queue}</span>
            </td>
            <td data-label="Step" class="r num">{of(|s| format::count(s.step))}</td>
            <td data-label="Tokens" class="r num">{of(|s| format::short(s.tokens as f64))}</td>
            <td data-label="Recent loss">{move || view! { <Spark values=spark.get()/> }}</td>
            <td data-label="Likelihood">
                {move || match headline.get() {
                    Some(e) => view! { <Likelihood estimate=e/> }.into_any(),
                    None => view! { <span class="mut">"not yet"</span> }.into_any(),
                }}
            </td>
            <td data-label="Device" class="small device-name"><span title=of(|s| s.device.clone())>{of(|s| s.device.clone())}</span></td>
            <td data-label="Started" class="small">
                {move || {
                    let at = status.get().map(|s| s.started).filter(|t| *t > 0.0);
                    let at = at.or_else(|| run.get().map(|r| r.created)).unwrap_or_else(unix_now);
                    view! { <When at now/> }
                }}
            </td>
            <td data-label="Cost" class="r num">{of(|s| format::duration(s.seconds))}</td>
            <td data-label="Disk" class="r num">{move || run.get().map(|r| format::bytes(r.disk_bytes))}</td>
        </tr>
    }
}

/// After a deletion, for as long as the address says so.
#[component]
fn Undo(id: String, on_done: Callback<()>) -> impl IntoView {
    let navigate = use_navigate();
    let failed = RwSignal::new(None::<String>);
    let name = id.clone();
    let close = {
        let navigate = navigate.clone();
        move || {
            let options = NavigateOptions { replace: true, ..Default::default() };
            navigate("/runs", options);
        }
    };
    let restore = {
        let close = close.clone();
        move |_| {
            let id = id.clone();
            let close = close.clone();
            leptos::task::spawn_local(async move {
                match api::post_empty::<RunSummary>(&format!("/api/trash/{id}/restore")).await {
                    Ok(_) => {
                        on_done.run(());
                        close();
                    }
                    Err(p) => drop(failed.try_set(Some(p.to_string()))),
                }
            });
        }
    };
    view! {
        <div class="notice toast" role="status">
            <p>{format!("{name} was deleted. It stays in the trash for 7 days.")}</p>
            <button type="button" class="small" on:click=restore>"Undo"</button>
            <button type="button" class="small quiet" on:click=move |_| close()>"Dismiss"</button>
            {move || failed.get().map(|f| view! { <span class="field-error" role="alert">{f}</span> })}
        </div>
    }
}

/// No runs yet: the quickest recipe, ready to go.
#[component]
fn Empty() -> impl IntoView {
    let quickest = RwSignal::new(None::<Recipe>);
    leptos::task::spawn_local(async move {
        // without recipes the plain button remains
        if let Ok(list) = api::get::<Vec<Recipe>>("/api/recipes").await {
            let tokens = |r: &Recipe| r.config.phases.iter().map(|p| p.tokens).sum::<u64>();
            quickest.try_set(list.into_iter().min_by_key(tokens));
        }
    });
    view! {
        <div class="empty card">
            <h2>"No runs yet"</h2>
            <p>"A run trains one model from a recipe. You can follow it here, stop and resume it, and open the model in the playground."</p>
            {move || match quickest.get() {
                Some(r) => view! {
                    <p class="mut">{r.about.clone()}</p>
                    <A href=format!("/launch?recipe={}", r.name) attr:class="button go">
                        {format!("Start with {}, the shortest recipe", r.name)}
                    </A>
                }.into_any(),
                None => view! { <A href="/launch" attr:class="button go">"Choose a recipe"</A> }.into_any(),
            }}
        </div>
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_wants_every_word_and_the_state() {
        let run = RunSummary {
            id: "tiny-2".into(),
            name: "tiny".into(),
            state: State::Running,
            status: None,
            objective: "ar, block".into(),
            created: 0.0,
            disk_bytes: 0,
            queue_position: None,
            slug: None,
            spark: vec![],
        };
        assert!(matches(&run, "", None));
        assert!(matches(&run, " BLOCK tiny", Some(State::Running)));
        assert!(!matches(&run, "tiny mdlm", None));
        assert!(!matches(&run, "", Some(State::Failed)));
    }
}
