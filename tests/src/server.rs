//! A real `hilda serve` on a free port, with a data folder of its own.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::http::{self, Request, Response};
use crate::program;

pub struct Server {
    child: Child,
    pub port: u16,
    data: PathBuf,
}

impl Server {
    /// Starts the server on `data` and waits until it answers.
    pub fn start(hilda: &Path, data: &Path) -> Server {
        let port = free_port();
        let log = std::fs::File::create(data.with_extension("server.log")).expect("a log file");
        let mut command = Command::new(hilda);
        command.args(["serve", "--port", &port.to_string(), "--data-dir"]).arg(data);
        command.stdin(Stdio::null()).stdout(log.try_clone().expect("a second handle")).stderr(log);
        let child = command.spawn().unwrap_or_else(|error| panic!("{}: {error}", hilda.display()));
        Server::adopt(child, port, data)
    }

    /// Takes over a server that was just started and waits until it answers.
    pub fn adopt(child: Child, port: u16, data: &Path) -> Server {
        let mut server = Server { child, port, data: data.to_owned() };
        let start = Instant::now();
        let get = Request { method: "GET", path: "/healthz", headers: &[], body: &[] };
        while !http::request(port, &get).is_ok_and(|response| response.status == 200) {
            let ended = server.child.try_wait().expect("the state of the server");
            if ended.is_some() || start.elapsed() > Duration::from_secs(30) {
                let log = std::fs::read_to_string(data.with_extension("server.log")).unwrap_or_default();
                panic!("the server did not come up ({ended:?}):\n{log}");
            }
            thread::sleep(Duration::from_millis(30));
        }
        server
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        http::request(self.port, &Request { method, path, headers, body })
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    pub fn get(&self, path: &str) -> Response {
        self.request("GET", path, &[], &[])
    }

    pub fn post(&self, path: &str, body: &Value) -> Response {
        self.request("POST", path, &[("content-type", "application/json")], body.to_string().as_bytes())
    }

    pub fn delete(&self, path: &str) -> Response {
        self.request("DELETE", path, &[], &[])
    }

    /// Asks for the run until `done` holds for it; panics after `limit`.
    pub fn wait_for(&self, id: &str, limit: Duration, done: impl Fn(&Value) -> bool) -> Value {
        let start = Instant::now();
        loop {
            let run = self.get(&format!("/api/runs/{id}")).json();
            if done(&run) {
                return run;
            }
            assert!(start.elapsed() < limit, "still not there after {limit:?}: {run:#}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Ends server and trainers at once, as a power cut would.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.kill_trainers();
    }

    /// Ends the server at once and leaves its trainers alone.
    pub fn kill_alone(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        std::mem::forget(self);
    }

    fn kill_trainers(&self) {
        for pid in program::processes_on(&self.data) {
            program::signal(pid, "KILL");
        }
    }
}

impl Drop for Server {
    /// Asks the server to end, which stops its trainers; whatever is left after ten seconds is killed.
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            program::signal(self.child.id(), "TERM");
            let start = Instant::now();
            while matches!(self.child.try_wait(), Ok(None)) && start.elapsed() < Duration::from_secs(10) {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        self.kill_trainers();
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    let socket = TcpListener::bind(("127.0.0.1", 0)).expect("a socket");
    socket.local_addr().expect("its address").port()
}
