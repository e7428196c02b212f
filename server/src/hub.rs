//! Files from the Hugging Face hub: streamed to disk beside their place, resumed where a download broke off, renamed
//! when whole. The only code that reaches beyond this machine, and only when a person asks for it.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::path::Path;
use std::time::Duration;

/// A download that did not happen. What was received stays and the next attempt goes on from there.
#[derive(Debug, thiserror::Error)]
pub enum HubError {
    #[error(
        "the hub cannot be reached ({message}); this machine seems to be offline. Local files work without it: hilda data add NAME PATH for text, and a model's folder or GGUF file wherever a model is named"
    )]
    Offline { message: String },
    #[error("{url}: the hub answered {status}")]
    Status { url: String, status: u16 },
    /// 401 and 403: the hub does not say which of the three it is
    #[error(
        "{repository}: the hub refuses it ({status}): it does not exist, is private, or is gated. For a gated one accept its terms on the hub's page and set HF_TOKEN"
    )]
    Refused { repository: String, status: u16 },
    #[error("{repository}: the hub knows no such repository, revision or file (404: {url})")]
    Absent { repository: String, url: String },
    #[error("{repository}: {message}")]
    Content { repository: String, message: String },
    #[error("{path}: {source}")]
    Io { path: String, source: std::io::Error },
    #[error("{url}: {got} of {want} bytes arrived; run the same command again to go on from there")]
    Short { url: String, got: u64, want: u64 },
}

/// What a repository holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Dataset,
    Model,
}

/// One file of a repository, at a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct HubFile {
    pub kind: Kind,
    pub base: String,
    pub repository: String,
    pub revision: String,
    pub file: String,
}

impl HubFile {
    /// A data set's file on the hub, or on the mirror that `HF_ENDPOINT` names.
    pub fn dataset(repository: &str, file: &str) -> HubFile {
        HubFile {
            kind: Kind::Dataset,
            base: endpoint(),
            repository: repository.into(),
            revision: "main".into(),
            file: file.into(),
        }
    }
    pub fn url(&self) -> String {
        let base = self.base.trim_end_matches('/');
        let kind = if self.kind == Kind::Dataset { "datasets/" } else { "" };
        format!("{base}/{kind}{}/resolve/{}/{}", self.repository, self.revision, self.file)
    }
}

/// The hub, or the mirror that `HF_ENDPOINT` names.
pub fn endpoint() -> String {
    let base = std::env::var("HF_ENDPOINT").ok().filter(|s| !s.is_empty());
    base.unwrap_or_else(|| "https://huggingface.co".into())
}

/// A GET request; `HF_TOKEN` goes with it where it is set, and never along a redirection.
fn get(url: &str, range: Option<u64>) -> Result<ureq::http::Response<ureq::Body>, HubError> {
    let agent: ureq::Agent = ureq::Agent::config_builder()
        .timeout_connect(Some(Duration::from_secs(10)))
        .timeout_recv_response(Some(Duration::from_secs(30)))
        .http_status_as_error(false)
        .build()
        .into();
    let mut request = agent.get(url);
    if let Some(from) = range {
        request = request.header("Range", format!("bytes={from}-"));
    }
    if let Some(token) = std::env::var("HF_TOKEN").ok().filter(|t| !t.is_empty()) {
        request = request.header("Authorization", format!("Bearer {token}"));
    }
    request.call().map_err(|e| HubError::Offline { message: e.to_string() })
}

fn refused(repository: &str, url: &str, status: u16) -> HubError {
    let (repository, url) = (repository.to_string(), url.to_string());
    match status {
        401 | 403 => HubError::Refused { repository, status },
        404 => HubError::Absent { repository, url },
        status => HubError::Status { url, status },
    }
}

/// What the hub says about a model: `{sha, siblings: [{rfilename, size, lfs: {sha256}}]}`.
pub fn model_info(base: &str, repository: &str, revision: &str) -> Result<serde_json::Value, HubError> {
    /// more than the largest listing
    const LIMIT: u64 = 64 << 20;
    let url =
        format!("{}/api/models/{repository}/revision/{revision}?blobs=true", base.trim_end_matches('/'));
    let response = get(&url, None)?;
    let status = response.status().as_u16();
    if status != 200 {
        return Err(refused(repository, &url, status));
    }
    let content = |e: String| HubError::Content {
        repository: repository.into(),
        message: format!("its listing does not read: {e}"),
    };
    let text = response
        .into_body()
        .with_config()
        .limit(LIMIT)
        .read_to_string()
        .map_err(|e| content(e.to_string()))?;
    serde_json::from_str(&text).map_err(|e| content(e.to_string()))
}

/// Downloads to `to`. `progress(received, total)` is called now and then; total is 0 if the hub does not say.
pub fn download(file: &HubFile, to: &Path, mut progress: impl FnMut(u64, u64)) -> Result<(), HubError> {
    let io = |path: &Path| {
        let path = path.display().to_string();
        move |source| HubError::Io { path, source }
    };
    if to.exists() {
        return Ok(());
    }
    let part = to.with_file_name(format!("{}.part", to.file_name().unwrap_or_default().to_string_lossy()));
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).map_err(io(parent))?;
    }
    let mut have = fs::metadata(&part).map_or(0, |m| m.len());
    let url = file.url();
    let response = get(&url, (have > 0).then_some(have))?;
    let status = response.status().as_u16();
    let mut out = match status {
        206 => OpenOptions::new().append(true).open(&part).map_err(io(&part))?,
        200 => {
            have = 0;
            File::create(&part).map_err(io(&part))?
        }
        // the part is the whole file already
        416 if have > 0 => return fs::rename(&part, to).map_err(io(to)),
        status => return Err(refused(&file.repository, &url, status)),
    };
    let length = response.headers().get("content-length").and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    let total = length.map_or(0, |l| l + have);
    let mut body = response.into_body().into_reader();
    let mut buffer = vec![0u8; 1 << 18];
    loop {
        match body.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                out.write_all(&buffer[..n]).map_err(io(&part))?;
                have += n as u64;
                progress(have, total);
            }
            Err(_) => return Err(HubError::Short { url, got: have, want: total }),
        }
    }
    if total > 0 && have != total {
        return Err(HubError::Short { url, got: have, want: total });
    }
    out.sync_all().map_err(io(&part))?;
    fs::rename(&part, to).map_err(io(to))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// Serves `content` once per connection, cutting the first answer short.
    fn serve(content: &'static [u8], cut: usize) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for (i, stream) in listener.incoming().take(2).enumerate() {
                let mut stream = stream.unwrap();
                let mut range = 0;
                for line in BufReader::new(stream.try_clone().unwrap()).lines() {
                    let line = line.unwrap().to_ascii_lowercase();
                    if let Some(r) = line.strip_prefix("range: bytes=") {
                        range = r.trim_end_matches('-').parse().unwrap();
                    }
                    if line.is_empty() {
                        break;
                    }
                }
                let body = &content[range..];
                let status = if range > 0 { "206 Partial Content" } else { "200 OK" };
                let head = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let sent = if i == 0 { &body[..cut] } else { body };
                let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(sent));
            }
        });
        format!("http://{address}")
    }

    fn file(base: String) -> HubFile {
        HubFile {
            kind: Kind::Dataset,
            base,
            repository: "a/b".into(),
            revision: "main".into(),
            file: "c.txt".into(),
        }
    }

    #[test]
    fn a_broken_download_goes_on_where_it_stopped() {
        let content = b"once upon a time there was a file that arrived in two parts";
        let f = file(serve(content, 20));
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("c.txt");
        assert!(matches!(download(&f, &to, |_, _| {}), Err(HubError::Short { got: 20, .. })));
        assert!(!to.exists());
        let mut seen = 0;
        download(&f, &to, |have, total| {
            assert_eq!(total, content.len() as u64);
            seen = have;
        })
        .unwrap();
        assert_eq!((std::fs::read(&to).unwrap().as_slice(), seen), (&content[..], content.len() as u64));
    }

    #[test]
    fn offline_is_said_clearly() {
        let dir = tempfile::tempdir().unwrap();
        let f = file("http://127.0.0.1:1".into());
        let e = download(&f, &dir.path().join("x"), |_, _| {}).unwrap_err();
        assert!(e.to_string().contains("offline"), "{e}");
    }
}
