//! A small HTTP/1.1 client: one request a connection.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.body))
    }
}

fn send(
    port: u16,
    method: &str,
    path: &str,
    headers: &str,
    body: &str,
) -> std::io::Result<BufReader<TcpStream>> {
    let mut s = TcpStream::connect(("127.0.0.1", port))?;
    s.set_read_timeout(Some(Duration::from_secs(60)))?;
    let kind = if body.is_empty() { "" } else { "content-type: application/json\r\n" };
    let text = format!(
        "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n{kind}{headers}\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    s.write_all(text.as_bytes())?;
    Ok(BufReader::new(s))
}

/// Status, and whether the body is chunked.
fn head(r: &mut impl BufRead) -> std::io::Result<(u16, bool)> {
    let (mut line, mut status, mut chunked) = (String::new(), 0, false);
    loop {
        line.clear();
        if r.read_line(&mut line)? == 0 || line == "\r\n" {
            return Ok((status, chunked));
        }
        if let Some(s) = line.strip_prefix("HTTP/1.1 ") {
            status = s[..3].parse().unwrap();
        }
        chunked |= line.to_lowercase().contains("transfer-encoding: chunked");
    }
}

pub fn try_call(port: u16, method: &str, path: &str, body: &str) -> std::io::Result<Answer> {
    let mut r = send(port, method, path, "", body)?;
    let (status, chunked) = head(&mut r)?;
    assert!(!chunked, "{path}");
    let mut body = String::new();
    r.read_to_string(&mut body)?;
    Ok(Answer { status, body })
}

pub fn call(port: u16, method: &str, path: &str, body: &str) -> Answer {
    try_call(port, method, path, body).unwrap_or_else(|e| panic!("{method} {path}: {e}"))
}

#[derive(Clone, Debug, PartialEq)]
pub struct SseEvent {
    pub name: String,
    pub id: Option<i64>,
    pub data: String,
}

/// Reads events until `enough` says so or the stream ends.
pub fn events(
    port: u16,
    path: &str,
    last_id: Option<i64>,
    mut enough: impl FnMut(&[SseEvent]) -> bool,
) -> Vec<SseEvent> {
    let headers = last_id.map_or(String::new(), |id| format!("last-event-id: {id}\r\n"));
    let mut r = send(port, "GET", path, &headers, "").unwrap();
    assert_eq!(head(&mut r).unwrap().0, 200);
    let mut out = vec![];
    let mut event = SseEvent { name: String::new(), id: None, data: String::new() };
    let mut line = String::new();
    while !enough(&out) {
        line.clear();
        if r.read_line(&mut line).unwrap_or(0) == 0 {
            break;
        }
        // lines that are sizes of chunks carry no colon after a field name
        let l = line.trim_end();
        if let Some(v) = l.strip_prefix("event: ") {
            event.name = v.into();
        } else if let Some(v) = l.strip_prefix("id: ") {
            event.id = v.parse().ok();
        } else if let Some(v) = l.strip_prefix("data: ") {
            event.data += v;
        } else if l.is_empty() && !event.name.is_empty() {
            out.push(event.clone());
            event = SseEvent { name: String::new(), id: None, data: String::new() };
        }
    }
    out
}
