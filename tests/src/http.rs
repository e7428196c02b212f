//! A small HTTP/1.1 client over one socket per request: nothing between the test and the bytes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::Value;

#[derive(Debug)]
pub struct Response {
    pub status: u16,
    /// names in lower case
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    pub fn header(&self, name: &str) -> &str {
        self.headers.iter().find(|(header, _)| header == name).map_or("", |(_, value)| value)
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error} in {} {}", self.status, self.text()))
    }

    /// Panics unless this is a problem document (RFC 9457) with `status`; gives it back.
    pub fn problem(&self, status: u16) -> Value {
        assert_eq!(self.status, status, "{}", self.text());
        assert!(self.header("content-type").starts_with("application/problem+json"), "{:?}", self.headers);
        let problem = self.json();
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "no {field} in {problem}");
        }
        assert_eq!(problem["status"], status);
        problem
    }
}

/// A request as it goes over the wire.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
    pub body: &'a [u8],
}

/// Opens a connection, sends `request` and gives back the head and the rest of the connection.
fn send(port: u16, request: &Request) -> std::io::Result<(Response, BufReader<TcpStream>)> {
    let mut socket = TcpStream::connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(60)))?;
    let mut head = format!(
        "{} {} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n",
        request.method, request.path
    );
    for (name, value) in request.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    if !request.body.is_empty() || request.method == "POST" {
        head.push_str(&format!("content-length: {}\r\n", request.body.len()));
    }
    head.push_str("\r\n");
    socket.write_all(head.as_bytes())?;
    // A server may answer and close before it has read all of an oversized body.
    let _ = socket.write_all(request.body);
    let mut reader = BufReader::new(socket);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let status = line.split_whitespace().nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        match line.trim_end().split_once(':') {
            Some((name, value)) => headers.push((name.to_ascii_lowercase(), value.trim().to_owned())),
            None => break,
        }
    }
    Ok((Response { status, headers, body: Vec::new() }, reader))
}

/// One request to its end.
pub fn request(port: u16, request: &Request) -> std::io::Result<Response> {
    let (mut response, mut reader) = send(port, request)?;
    if response.header("transfer-encoding") == "chunked" {
        while let Some(chunk) = chunk(&mut reader)? {
            response.body.extend(chunk);
        }
    } else if request.method != "HEAD" {
        match response.header("content-length").parse::<u64>() {
            Ok(length) => reader.take(length).read_to_end(&mut response.body)?,
            Err(_) => reader.read_to_end(&mut response.body)?,
        };
    }
    Ok(response)
}

fn chunk(reader: &mut impl BufRead) -> std::io::Result<Option<Vec<u8>>> {
    let mut size = String::new();
    reader.read_line(&mut size)?;
    let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
    let mut bytes = vec![0; size + 2];
    reader.read_exact(&mut bytes)?;
    bytes.truncate(size);
    Ok((size > 0).then_some(bytes))
}

/// A server-sent event.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    pub id: Option<String>,
    pub event: String,
    pub data: String,
}

/// An open stream of server-sent events.
pub struct Events {
    reader: BufReader<TcpStream>,
    chunked: bool,
    text: String,
}

impl Events {
    /// Opens `path`, going on after `last_event_id` when given.
    pub fn open(port: u16, path: &str, last_event_id: Option<&str>) -> std::io::Result<Events> {
        let mut headers = vec![("accept", "text/event-stream")];
        headers.extend(last_event_id.map(|id| ("last-event-id", id)));
        Events::of(port, &Request { method: "GET", path, headers: &headers, body: &[] })
    }

    /// Opens the stream that answers a JSON body.
    pub fn post(port: u16, path: &str, body: &Value) -> std::io::Result<Events> {
        let headers = [("content-type", "application/json")];
        Events::of(
            port,
            &Request { method: "POST", path, headers: &headers, body: body.to_string().as_bytes() },
        )
    }

    fn of(port: u16, request: &Request) -> std::io::Result<Events> {
        let (response, reader) = send(port, request)?;
        assert_eq!(response.status, 200, "{}", request.path);
        assert!(response.header("content-type").starts_with("text/event-stream"), "{:?}", response.headers);
        let chunked = response.header("transfer-encoding") == "chunked";
        Ok(Events { reader, chunked, text: String::new() })
    }
}

impl Iterator for Events {
    type Item = Event;

    /// The next event; `None` when the stream ended or nothing came for a minute.
    fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(end) = self.text.find("\n\n") {
                let block: String = self.text.drain(..end + 2).collect();
                let event = parse_event(&block);
                if event != Event::default() {
                    return Some(event);
                }
                continue;
            }
            let bytes = match self.chunked {
                true => chunk(&mut self.reader).ok()??,
                false => self.reader.fill_buf().ok().filter(|bytes| !bytes.is_empty())?.to_vec(),
            };
            if !self.chunked {
                self.reader.consume(bytes.len());
            }
            self.text.push_str(&String::from_utf8_lossy(&bytes).replace("\r\n", "\n"));
        }
    }
}

/// One block of a stream; comments and empty blocks give the default event.
fn parse_event(block: &str) -> Event {
    let mut event = Event::default();
    for line in block.lines() {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "id" => event.id = Some(value.to_owned()),
            "event" => event.event = value.to_owned(),
            "data" if event.data.is_empty() => event.data = value.to_owned(),
            "data" => event.data = format!("{}\n{value}", event.data),
            _ => {}
        }
    }
    event
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_and_comments() {
        let event = parse_event("id: 7\nevent: metric\ndata: {\ndata: }\n\n");
        assert_eq!(event, Event { id: Some("7".into()), event: "metric".into(), data: "{\n}".into() });
        assert_eq!(parse_event(": keep alive\n\n"), Event::default());
    }

    #[test]
    fn chunks_end_with_an_empty_one() {
        let mut bytes: &[u8] = b"3\r\nabc\r\n0\r\n\r\n";
        assert_eq!(chunk(&mut bytes).unwrap(), Some(b"abc".to_vec()));
        assert_eq!(chunk(&mut bytes).unwrap(), None);
    }
}
