//! What surrounds every page: navigation, the device pill, the theme switch, the routes.

use leptos::prelude::*;
use leptos_router::components::{A, Route, Router, Routes};
use leptos_router::hooks::use_location;
use leptos_router::path;

use crate::dashboard::{Compare, Launch, Models, Run, Runs};
use crate::later::Later;
use crate::playground::{Pair, Playground};
use crate::shared_page::SharedPage;
use crate::{dom, theme};

/// Text of the pill at the right of the navigation: which model runs where ("hilda-tiny 9 M · in your browser ·
/// WebGPU"). Pages write it, the shell shows it; empty hides it.
#[derive(Clone, Copy)]
pub struct DevicePill(pub RwSignal<String>);

/// Sets the title of the browser tab.
pub fn set_title(page: &str) {
    dom::document().set_title(&if page.is_empty() {
        "HILDA".to_string()
    } else {
        format!("{page} · HILDA")
    });
}

#[component]
pub fn App() -> impl IntoView {
    dom::remove("boot");
    let pill = DevicePill(RwSignal::new(String::new()));
    provide_context(pill);
    provide_context(Pair::new(pill));
    view! {
        <Router base=dom::base_path()>
            <a class="skip" href="#main">"Skip to content"</a>
            <Header pill/>
            <main id="main" tabindex="-1">
                <Later><Routes fallback=NotFound>
                    <Route path=path!("/") view=Playground/>
                    <Route path=path!("/runs") view=Runs/>
                    <Route path=path!("/runs/:id") view=Run/>
                    <Route path=path!("/launch") view=Launch/>
                    <Route path=path!("/compare") view=Compare/>
                    <Route path=path!("/models") view=Models/>
                    <Route path=path!("/r/:slug") view=SharedPage/>
                </Routes></Later>
            </main>
        </Router>
    }
}

#[component]
fn Header(pill: DevicePill) -> impl IntoView {
    let location = use_location();
    let link = move |href: &'static str, text: &'static str| {
        let current = move || {
            let path = location.pathname.get();
            let path = path.strip_prefix(&dom::base_path()).unwrap_or(&path).to_string();
            let here = if href == "/" { path.is_empty() || path == "/" } else { path.starts_with(href) };
            here.then_some("page")
        };
        view! { <A href=href attr:aria-current=current>{text}</A> }
    };
    view! {
        <header class="top">
            <A href="/" attr:class="brand" attr:aria-label="HILDA, playground">"HILDA"</A>
            <nav aria-label="Pages">
                {link("/", "Playground")}
                {link("/runs", "Runs")}
                {link("/launch", "Launch")}
                {link("/compare", "Compare")}
                {link("/models", "Models")}
            </nav>
            <span class="spacer"></span>
            <Show when=move || !pill.0.get().is_empty()>
                <span class="pill device" title="Where the model runs">{move || pill.0.get()}</span>
            </Show>
            <theme::Switch/>
        </header>
    }
}

#[component]
fn NotFound() -> impl IntoView {
    set_title("Not found");
    view! {
        <section class="page narrow empty">
            <h1>"There is no page at this address"</h1>
            <p>"The link may be old, or a run may have been deleted."</p>
            <p><A href="/">"Open the playground"</A></p>
        </section>
    }
}
