//! Models of this site that can be opened, and how an address names them.

use leptos::prelude::*;

use super::session::{demo, site_model};
use crate::api;
use crate::dashboard::ModelCard;
use crate::worker::Source;

/// Title and place of every model that the server lists; the demo model alone where there is no server.
pub fn site_models() -> RwSignal<Vec<(String, Source)>> {
    let models = RwSignal::new(vec![("hilda-tiny, the demo model".to_string(), demo())]);
    leptos::task::spawn_local(async move {
        // a static host lists no models; the demo model is part of every page
        let Ok(list) = api::get::<Vec<ModelCard>>("/api/models").await else { return };
        let other = |card: &ModelCard| !card.base.is_empty() && card.problems.is_empty();
        let open = list.into_iter().filter(other).map(|card| {
            let source = site_model(&card.base, &card.id);
            let server = if card.fits_page() { "" } else { ", on the server" };
            (format!("{}{server}", card.title()), source)
        });
        let open: Vec<_> = open.filter(|(_, source)| *source != demo()).collect();
        models.try_update(|models| models.extend(open));
    });
    models
}

/// Where the model is that an address names: by `run`, a run's id, or by `model`, the name of a pulled model (ORG/NAME), a
/// folder below `models/`, or a folder of this site with a slash in front.
pub fn named(run: Option<&str>, model: Option<&str>) -> Option<(String, String)> {
    if let Some(run) = run {
        let safe: String = run.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect();
        return Some((format!("/api/runs/{safe}/model/"), safe));
    }
    let model = model?;
    // an address of another site would be fetched too; this page only opens its own models
    if model.starts_with("//") || model.split('/').any(|part| part == "..") {
        return None;
    }
    let mut base = match (model.starts_with('/'), model.trim_end_matches('/').split_once('/')) {
        (true, _) => model.to_string(),
        (false, Some((org, name))) if !name.contains('/') => {
            return Some((format!("/api/models/{org}/{name}/"), format!("{org}/{name}")));
        }
        (false, _) => format!("/models/{model}"),
    };
    if !base.ends_with('/') {
        base.push('/');
    }
    let name = model_name(&base);
    Some((base, name))
}

/// The parameters `run` and `model` of an address that opens this model; both absent for the demo model and for files.
pub fn parameters(source: &Source) -> [(&'static str, Option<String>); 2] {
    let (mut run, mut model) = (None, None);
    if *source != demo()
        && let Source::Url { base, .. } = source
    {
        match source.on_server() {
            Some((_, id)) if base.contains("/api/runs/") => run = Some(id),
            Some((_, id)) => model = Some(id),
            None => model = Some(base.clone()),
        }
    }
    [("run", run), ("model", model)]
}

/// What a model in a folder is called: runs and shared results keep theirs in a folder "model".
pub fn model_name(base: &str) -> String {
    base.trim_end_matches('/').rsplit('/').find(|p| *p != "model").unwrap_or("model").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_runs_pulled_models_and_folders() {
        let of = |run: Option<&str>, model: Option<&str>| named(run, model).map(|n| n.0);
        assert_eq!(of(Some("r-1"), Some("x")).as_deref(), Some("/api/runs/r-1/model/"));
        assert_eq!(of(Some("../r"), None).as_deref(), Some("/api/runs/..r/model/"));
        assert_eq!(of(None, Some("org/name")).as_deref(), Some("/api/models/org/name/"));
        assert_eq!(of(None, Some("hilda-tiny")).as_deref(), Some("/models/hilda-tiny/"));
        assert_eq!(of(None, Some("/r/abc/model/")).as_deref(), Some("/r/abc/model/"));
        assert_eq!(named(None, Some("/r/abc/model")).unwrap().1, "abc");
        for elsewhere in ["//evil.org/", "../x", "/a/../../b", "a/../b"] {
            assert_eq!(of(None, Some(elsewhere)), None, "{elsewhere}");
        }
        assert_eq!(of(None, None), None);
    }
}
