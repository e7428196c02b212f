//! The API described by itself: OpenAPI 3.1 at `/api/openapi.json`. One table; a test compares it with the router.

use axum::Json;
use serde_json::{Map, Value, json};

use super::system::VERSION;

/// method, path, summary, query parameters, schema of the body, status and schema of the answer
type Operation =
    (&'static str, &'static str, &'static str, &'static [&'static str], &'static str, u16, &'static str);

const OPERATIONS: &[Operation] = &[
    ("get", "/healthz", "Is the server well", &[], "", 200, "Health"),
    ("get", "/api/openapi.json", "This document", &[], "", 200, "object"),
    ("get", "/api/system", "The machine and how the server was started", &[], "", 200, "System"),
    ("get", "/api/recipes", "Shipped recipes", &[], "", 200, "[Recipe]"),
    ("get", "/api/corpora", "Registered corpora", &[], "", 200, "[Corpus]"),
    ("post", "/api/estimate", "What a recipe will need", &[], "Toml", 200, "Estimate"),
    ("get", "/api/runs", "Runs, newest first", &["query", "state"], "", 200, "[RunSummary]"),
    ("post", "/api/runs", "Launch a run", &[], "Launch", 201, "RunSummary"),
    ("get", "/api/runs/{id}", "One run", &[], "", 200, "RunDetail"),
    ("delete", "/api/runs/{id}", "Move a run to the trash, kept seven days", &[], "", 200, "Undo"),
    ("get", "/api/runs/{id}/metrics", "Metric rows by id", &["after", "limit"], "", 200, "MetricRows"),
    (
        "get",
        "/api/runs/{id}/events",
        "Server-sent events metric, status, log; honours Last-Event-ID",
        &["after"],
        "",
        200,
        "text/event-stream",
    ),
    ("get", "/api/runs/{id}/log", "The last lines of the log", &["tail"], "", 200, "text/plain"),
    ("get", "/api/runs/{id}/samples", "Samples by step", &[], "", 200, "[SampleFile]"),
    ("get", "/api/runs/{id}/audit", "The audit that was made of the run's recipe", &[], "", 200, "object"),
    ("post", "/api/runs/{id}/audit", "Audits the run's recipe, once", &[], "", 200, "object"),
    ("post", "/api/runs/{id}/stop", "Write a checkpoint and stop", &[], "", 202, "RunSummary"),
    ("post", "/api/runs/{id}/resume", "Queue a stopped or failed run", &[], "", 202, "RunSummary"),
    ("post", "/api/runs/{id}/share", "Make a link to the result", &[], "ShareBody", 201, "Shared"),
    (
        "get",
        "/api/runs/{id}/model/{file}",
        "A file of the newest checkpoint for the page: config.json, tokenizer.json, frequencies.json where it has one, model.safetensors.index.json, its \
         pieces, or model.safetensors (int8 rows)",
        &[],
        "",
        200,
        "application/octet-stream",
    ),
    ("post", "/api/trash/{id}/restore", "Bring a deleted run back", &[], "", 200, "RunSummary"),
    ("get", "/api/ablations", "Results of ablations, by name", &[], "", 200, "[Ablation]"),
    ("get", "/api/decoders", "Comparisons of decoders, by name", &[], "", 200, "[DecoderEntry]"),
    ("get", "/api/decoders/{name}", "One of them, with its recorded texts", &[], "", 200, "object"),
    ("get", "/api/shares", "Links that work", &[], "", 200, "[Share]"),
    ("delete", "/api/shares/{slug}", "Make a link dead", &[], "", 204, ""),
    ("get", "/api/r/{slug}", "A shared result", &[], "", 200, "SharedResult"),
    ("get", "/r/{slug}/download", "A shared result as one HTML file", &[], "", 200, "text/html"),
    (
        "get",
        "/api/models",
        "The demo model, every run with a checkpoint, every pulled model",
        &[],
        "",
        200,
        "[ModelCard]",
    ),
    (
        "get",
        "/api/models/{org}/{name}/{file}",
        "A file of a pulled model for the page: config.json, tokenizer.json, frequencies.json where it has one, model.safetensors.index.json, its pieces",
        &[],
        "",
        200,
        "application/octet-stream",
    ),
    (
        "post",
        "/api/models/forward",
        "One forward of a decoding that the page drives; statistics of rows, f32 little endian",
        &[],
        "ForwardBody",
        200,
        "application/octet-stream",
    ),
    ("get", "/v1/models", "Models, in OpenAI's shape", &[], "", 200, "object"),
    (
        "post",
        "/v1/completions",
        "Texts, in OpenAI's shape, written in the same forwards as everybody's; with stream one event per denoising step",
        &[],
        "CompletionBody",
        200,
        "Completion",
    ),
];

/// Schemas as field lists: "name type", "?" for what may be absent, "[T]" for lists.
const SCHEMAS: &[(&str, &[&str])] = &[
    ("Health", &["ok boolean", "version string", "device string", "data_dir_free_bytes? integer"]),
    (
        "System",
        &[
            "version string",
            "device string",
            "threads integer",
            "memory_total? integer",
            "memory_free? integer",
            "disk_free? integer",
            "public_url? string",
            "loopback boolean",
            "token_required boolean",
            "page_built boolean",
        ],
    ),
    ("Recipe", &["name string", "about string", "toml string", "config object"]),
    (
        "Corpus",
        &[
            "name string",
            "about string",
            "source string",
            "format object",
            "documents integer",
            "bytes integer",
            "train object",
            "valid object",
            "duplicates integer",
            "created? number",
            "train_tokens? integer",
            "tokens_by_tokenizer object",
        ],
    ),
    ("Toml", &["toml string"]),
    ("Launch", &["toml string", "parent? string"]),
    ("FieldError", &["field string", "message string"]),
    (
        "Estimate",
        &[
            "ok boolean",
            "errors [FieldError]",
            "parameters? integer",
            "steps? integer",
            "tokens? integer",
            "memory_bytes? integer",
            "seconds? number",
            "tokens_per_s? number",
            "flops? number",
            "basis string",
            "command string",
        ],
    ),
    (
        "Likelihood",
        &[
            "estimator string",
            "value number",
            "stderr number",
            "tokens integer",
            "rows integer",
            "k integer",
            "seed integer",
            "bits_per_byte? number",
        ],
    ),
    (
        "Ablation",
        &[
            "name string",
            "about string",
            "equal string",
            "seeds [integer]",
            "finished integer",
            "planned integer",
            "arms [object]",
            "comparisons [object]",
            "command string",
        ],
    ),
    (
        "Status",
        &[
            "state string",
            "step integer",
            "total_steps integer",
            "tokens integer",
            "total_tokens integer",
            "phase integer",
            "attempt integer",
            "started number",
            "updated number",
            "seconds number",
            "eta? number",
            "device string",
            "parameters integer",
            "config_hash string",
            "error? string",
            "headline? Likelihood",
            "checkpoint? integer",
        ],
    ),
    (
        "RunSummary",
        &[
            "id string",
            "name string",
            "state string",
            "status? Status",
            "objective string",
            "recipe_hash string",
            "created number",
            "disk_bytes integer",
            "queue_position? integer",
            "slug? string",
            "spark [number]",
        ],
    ),
    (
        "RunDetail",
        &[
            "id string",
            "name string",
            "state string",
            "status? Status",
            "objective string",
            "recipe_hash string",
            "created number",
            "disk_bytes integer",
            "queue_position? integer",
            "slug? string",
            "spark [number]",
            "config object",
            "toml string",
            "parent? string",
            "diff [object]",
            "files [FileInfo]",
            "checkpoints [CheckpointInfo]",
            "unreadable_metrics integer",
        ],
    ),
    ("FileInfo", &["path string", "bytes integer"]),
    ("CheckpointInfo", &["step integer", "bytes integer"]),
    ("MetricRow", &["id integer", "metric object"]),
    ("MetricRows", &["rows [MetricRow]", "last integer"]),
    ("Undo", &["undo string", "until number"]),
    ("SampleFile", &["step integer", "samples [Sample]"]),
    (
        "Sample",
        &[
            "prompt string",
            "text string",
            "policy string",
            "seed integer",
            "forwards integer",
            "trajectory? object",
        ],
    ),
    ("ShareBody", &["title? string", "note? string"]),
    ("Shared", &["slug string", "url string", "reachable boolean", "message string"]),
    ("Share", &["slug string", "run string", "title string", "note string", "created number", "url string"]),
    (
        "SharedResult",
        &[
            "slug string",
            "title string",
            "note string",
            "created number",
            "run object",
            "config object",
            "toml string",
            "config_hash string",
            "status Status",
            "train [object]",
            "valid [object]",
            "samples [SampleFile]",
            "trajectory? object",
            "tokenizer_pieces object",
            "cost object",
            "command string",
            "version string",
        ],
    ),
    ("DecoderEntry", &["name string", "model string", "judge string", "texts integer", "points integer"]),
    (
        "ModelCard",
        &[
            "id string",
            "name string",
            "run? string",
            "family string",
            "about string",
            "parameters? integer",
            "context? integer",
            "data string",
            "tokens? integer",
            "likelihood? Likelihood",
            "licence? string",
            "bytes? integer",
            "step? integer",
            "serving? object",
            "created number",
            "base string",
            "disk_bytes? integer",
            "formats [string]",
            "card? string",
            "source? string",
            "memory? ModelMemory",
            "page? PageFit",
            "problems [string]",
        ],
    ),
    (
        "ModelMemory",
        &[
            "decode_bytes integer",
            "train_bytes integer",
            "cache ModelCache",
            "decode boolean",
            "train boolean",
            "memory_free integer",
        ],
    ),
    ("ModelCache", &["positions integer", "f32 integer", "q8? integer", "q4? integer"]),
    ("PageFit", &["dtype string", "bytes integer", "memory integer", "fits boolean"]),
    ("ForwardBody", &["model string", "session string", "cached integer", "request object"]),
    (
        "CompletionBody",
        &[
            "model? string",
            "prompt string",
            "n? integer",
            "suffix? string",
            "max_tokens? integer",
            "temperature? number",
            "seed? integer",
            "stream? boolean",
            "stop? string",
            "diffusion? DiffusionBody",
        ],
    ),
    ("DiffusionBody", &["policy? object", "block_size? integer", "top_k? integer", "trajectory? boolean"]),
    (
        "Completion",
        &[
            "id string",
            "object string",
            "created integer",
            "model string",
            "choices [object]",
            "usage object",
            "diffusion object",
        ],
    ),
    ("Problem", &["type string", "title string", "status integer", "detail string", "field? string"]),
];

fn schema(name: &str) -> Value {
    if let Some(inner) = name.strip_prefix('[').and_then(|n| n.strip_suffix(']')) {
        return match inner {
            // rows of mixed values
            "object" => json!({ "type": "array" }),
            _ => json!({ "type": "array", "items": schema(inner) }),
        };
    }
    match name {
        "string" | "integer" | "number" | "boolean" | "object" => json!({ "type": name }),
        _ => json!({ "$ref": format!("#/components/schemas/{name}") }),
    }
}

fn operation(op: &Operation) -> Value {
    let (method, path, summary, query, body, status, answer) = *op;
    let mut parameters: Vec<Value> = path
        .split('/')
        .filter_map(|p| p.strip_prefix('{')?.strip_suffix('}'))
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
        .collect();
    parameters.extend(
        query.iter().map(|name| json!({ "name": name, "in": "query", "schema": { "type": "string" } })),
    );
    let content = match answer {
        "" => json!({}),
        t if t.contains('/') => json!({ t: { "schema": { "type": "string" } } }),
        t => json!({ "application/json": { "schema": schema(t) } }),
    };
    let mut good = json!({ "description": summary });
    if !answer.is_empty() {
        good["content"] = content;
    }
    let problem = json!({
        "description": "what went wrong",
        "content": { "application/problem+json": { "schema": schema("Problem") } },
    });
    let mut v = json!({
        "summary": summary,
        "parameters": parameters,
        "responses": { status.to_string(): good, "default": problem },
    });
    if !body.is_empty() {
        v["requestBody"] =
            json!({ "required": true, "content": { "application/json": { "schema": schema(body) } } });
    }
    if method != "get" {
        v["security"] = json!([{}, { "token": [] }]);
    }
    v
}

/// The whole document.
pub fn build() -> Value {
    let mut paths = Map::new();
    for op in OPERATIONS {
        paths.entry(op.1).or_insert_with(|| json!({}))[op.0] = operation(op);
    }
    let mut schemas = Map::new();
    for (name, fields) in SCHEMAS {
        let (mut properties, mut required) = (Map::new(), vec![]);
        for field in *fields {
            let (key, kind) = field.split_once(' ').unwrap_or((field, "object"));
            let own = key.trim_end_matches('?');
            if own == key {
                required.push(key);
            }
            properties.insert(own.into(), schema(kind));
        }
        schemas.insert(
            name.to_string(),
            json!({ "type": "object", "properties": properties, "required": required }),
        );
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "HILDA",
            "version": VERSION,
            "description": "A studio for diffusion language models. On 127.0.0.1 no token is needed; on any other \
                address everything that writes or computes needs one.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

pub async fn document() -> Json<Value> {
    Json(build())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_every_description_has_a_route() {
        let routes: BTreeSet<_> = super::super::routes().iter().map(|(m, p, _)| (*m, *p)).collect();
        let described: BTreeSet<_> = OPERATIONS.iter().map(|o| (o.0, o.1)).collect();
        assert_eq!(routes, described);
        assert_eq!(OPERATIONS.len(), described.len(), "an operation is described twice");
    }

    #[test]
    fn every_reference_resolves() {
        fn walk(v: &Value, root: &Value) {
            match v {
                Value::Object(o) => {
                    if let Some(Value::String(r)) = o.get("$ref") {
                        let at = r.trim_start_matches('#');
                        assert!(root.pointer(at).is_some(), "{r}");
                    }
                    o.values().for_each(|v| walk(v, root));
                }
                Value::Array(a) => a.iter().for_each(|v| walk(v, root)),
                _ => {}
            }
        }
        let doc = build();
        walk(&doc, &doc);
    }
}
