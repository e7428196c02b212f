//! Who may talk to the server.
//!
//! On a loopback address no token is needed, so a web page elsewhere must not be able to reach it: the `Host` header
//! must be a loopback name or the public one (against DNS rebinding) and writes must not come from another origin
//! (against cross-site requests). On any other address, or with a public URL, everything that writes or computes
//! needs the token.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{AppState, Problem};

/// Policy of the page: scripts and workers of our own, WebAssembly, nothing from elsewhere.
pub fn content_security_policy(script_hashes: &str) -> String {
    format!(
        "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'{script_hashes}; worker-src 'self' blob:; \
         style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; \
         connect-src 'self' blob: data:; object-src 'none'; base-uri 'self'; form-action 'self'; \
         frame-ancestors 'none'"
    )
}

/// Host name of an authority: "localhost:8080" -> "localhost", "[::1]:80" -> "::1".
fn host_name(authority: &str) -> &str {
    if let Some(rest) = authority.strip_prefix('[') {
        return rest.split(']').next().unwrap_or("");
    }
    authority.rsplit_once(':').map_or(authority, |(h, _)| h)
}

fn is_loopback_name(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// "https://host:port/path" -> ("https", "host:port")
fn split_origin(url: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    Some((scheme, rest.split('/').next()?))
}

/// Compares without an early end, so that timing tells nothing.
fn same_secret(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |d, (x, y)| d | (x ^ y)) == 0
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// Whether the request came with the token, or none is needed. Links to shared results are shown to nobody else:
/// knowing the link is what gives access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trusted(pub bool);

fn trusted(state: &AppState, headers: &HeaderMap) -> bool {
    let Some(token) = &state.options.token else { return true };
    let given = text(headers, header::AUTHORIZATION).and_then(|v| v.strip_prefix("Bearer ")).unwrap_or("");
    same_secret(given.trim().as_bytes(), token.as_bytes())
}

/// Refuses a request, or `None`.
fn refuse(state: &AppState, req: &Request) -> Option<Problem> {
    let headers = req.headers();
    let host =
        text(headers, header::HOST).or_else(|| req.uri().authority().map(|a| a.as_str())).unwrap_or("");
    let public = state.options.public_url.as_deref().and_then(split_origin);
    let is_public = public.is_some_and(|(_, authority)| authority.eq_ignore_ascii_case(host));
    if state.options.loopback() && !is_loopback_name(host_name(host)) && !is_public {
        return Some(Problem::new(
            StatusCode::MISDIRECTED_REQUEST,
            format!("this server answers to localhost; the request was for \"{host}\" (see --public-url)"),
        ));
    }
    let no_token = || {
        let needs =
            "this needs the header Authorization: Bearer TOKEN; the server printed the token when it started";
        (!trusted(state, headers)).then(|| Problem::new(StatusCode::UNAUTHORIZED, needs))
    };
    if matches!(*req.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
        return if req.uri().path() == "/api/shares" { no_token() } else { None };
    }
    let cross_site = text(headers, HeaderName::from_static("sec-fetch-site")) == Some("cross-site");
    let foreign = text(headers, header::ORIGIN).is_some_and(|origin| {
        let same = split_origin(origin).is_some_and(|(_, a)| a.eq_ignore_ascii_case(host));
        let from_public = public.is_some() && split_origin(origin) == public;
        !same && !from_public
    });
    if foreign || cross_site {
        return Some(Problem::new(
            StatusCode::FORBIDDEN,
            "requests that change something must come from this page",
        ));
    }
    no_token()
}

/// Checks the request, then gives every answer its safety headers; turns plain refusals of the framework (wrong
/// method, oversized body) into problem documents.
pub async fn guard(State(state): State<AppState>, mut req: Request, next: Next) -> Response {
    let api = req.uri().path().starts_with("/api/") || req.uri().path().starts_with("/v1/");
    let method = req.method().clone();
    let mut response = match refuse(&state, &req) {
        Some(p) => p.into_response(),
        None => {
            let trusted = Trusted(trusted(&state, req.headers()));
            req.extensions_mut().insert(trusted);
            next.run(req).await
        }
    };
    let status = response.status();
    let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if api && status.is_client_error() && !kind.contains("json") {
        let detail = match status {
            StatusCode::METHOD_NOT_ALLOWED => format!("{method} is not possible here"),
            StatusCode::PAYLOAD_TOO_LARGE => format!("a body may have at most {} bytes", super::BODY_LIMIT),
            _ => "the request does not read".into(),
        };
        let allow = response.headers().get(header::ALLOW).cloned();
        response = Problem::new(status, detail).into_response();
        if let Some(v) = allow {
            response.headers_mut().insert(header::ALLOW, v);
        }
    }
    if status == StatusCode::UNAUTHORIZED {
        response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    let h = response.headers_mut();
    for (name, value) in [
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-embedder-policy", "require-corp"),
        ("cross-origin-resource-policy", "same-origin"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
    ] {
        h.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    if !h.contains_key(header::CONTENT_SECURITY_POLICY) {
        h.insert(
            header::CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        );
    }
    if api && !h.contains_key(header::CACHE_CONTROL) {
        h.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authorities_split() {
        assert_eq!(host_name("localhost:8080"), "localhost");
        assert_eq!(host_name("[::1]:80"), "::1");
        assert_eq!(host_name("example.org"), "example.org");
        for h in ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1"] {
            assert!(is_loopback_name(h), "{h}");
        }
        for h in ["", "localhost.evil.org", "127.0.0.1.nip.io", "10.0.0.1", "0.0.0.0"] {
            assert!(!is_loopback_name(h), "{h}");
        }
        assert!(same_secret(b"abc", b"abc") && !same_secret(b"abc", b"abd") && !same_secret(b"", b"abc"));
    }
}
