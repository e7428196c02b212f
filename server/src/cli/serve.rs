//! `hilda serve`: page, API and jobs on one address.
//!
//! Ctrl-C or SIGTERM stops taking requests, asks every trainer for a checkpoint and waits for it; those runs resume
//! when the server starts again. A second Ctrl-C leaves at once: trainers go on and the next server adopts them.

use std::{
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use tokio::net::TcpListener;

use super::{CliError, open_data};
use crate::{
    http::{AppState, ServeOptions, app},
    jobs::{JobOptions, Jobs},
    storage::{DataDir, Index, random_slug},
};

/// How long a stopping server waits for checkpoints.
const SHUTDOWN: Duration = Duration::from_secs(120);

#[derive(clap::Args)]
pub struct Args {
    /// address to listen on; anything but a loopback address needs the token that is printed
    #[arg(long, default_value = "127.0.0.1")]
    host: IpAddr,
    #[arg(long, default_value_t = 8642)]
    port: u16,
    /// address that other people reach this server by; links are made for it, and the token is needed
    #[arg(long, value_name = "URL")]
    public_url: Option<String>,
    /// jobs that train at the same time
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=64))]
    jobs: u64,
    /// open the page in a browser
    #[arg(long)]
    open: bool,
}

pub fn run(args: Args) -> Result<(), CliError> {
    let public_url = args.public_url.as_deref().map(check_public_url).transpose()?;
    let data = open_data()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| CliError::Failure(format!("cannot start: {e}")))?;
    runtime.block_on(serve(args, public_url, data))
}

fn check_public_url(url: &str) -> Result<String, CliError> {
    let url = url.trim_end_matches('/');
    let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
    match host {
        Some(h) if !h.is_empty() && !h.contains(['/', '?', '#', '@', ' ']) => Ok(url.to_string()),
        _ => Err(CliError::BadInput(format!(
            "--public-url \"{url}\": expected http:// or https://, a host name and perhaps a port"
        ))),
    }
}

/// The token of a server that others can reach: made once, readable only by its owner.
fn token(data: &DataDir) -> Result<String, CliError> {
    use std::os::unix::fs::PermissionsExt;
    let path = data.root().join("token");
    let kept = std::fs::read_to_string(&path).map(|t| t.trim().to_string()).unwrap_or_default();
    if kept.len() >= 26 {
        return Ok(kept);
    }
    let made = random_slug();
    write_private(&path, &made)?;
    let mode = std::fs::metadata(&path).map(|m| m.permissions().mode() & 0o777).unwrap_or(0);
    match mode {
        0o600 => Ok(made),
        _ => Err(CliError::Failure(format!("{}: mode is {mode:o}, not 600", path.display()))),
    }
}

fn write_private(path: &Path, text: &str) -> Result<(), CliError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let _ = std::fs::remove_file(path);
    std::fs::OpenOptions::new()
        .create_new(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut f| f.write_all(format!("{text}\n").as_bytes()))
        .map_err(|e| CliError::Failure(format!("writing {}: {e}", path.display())))
}

async fn serve(args: Args, public_url: Option<String>, data: DataDir) -> Result<(), CliError> {
    let wanted = SocketAddr::new(args.host, args.port);
    let _lock = data.lock_for_server(&format!("http://{wanted}"))?;
    let listener = TcpListener::bind(wanted).await.map_err(|e| match e.kind() {
        std::io::ErrorKind::AddrInUse => {
            CliError::Failure(format!("{wanted} is in use by another program; choose another --port"))
        }
        _ => CliError::Failure(format!("cannot listen on {wanted}: {e}")),
    })?;
    let address = listener.local_addr().map_err(|e| CliError::Failure(e.to_string()))?;
    let needs_token = !address.ip().is_loopback() || public_url.is_some();
    let token = if needs_token { Some(token(&data)?) } else { None };
    let index = Arc::new(Index::open(&data.root().join("hilda.sqlite"))?);
    let mut options =
        JobOptions::from_env().map_err(|e| CliError::Failure(format!("cannot find this program: {e}")))?;
    options.slots = args.jobs as usize;
    let jobs = Jobs::start(data.clone(), index.clone(), options)?;
    let state = AppState::new(
        data.clone(),
        index,
        jobs.clone(),
        ServeOptions { address, public_url: public_url.clone(), token: token.clone() },
    );
    let url = format!("http://{address}");
    println!("HILDA is at {url}");
    if let Some(p) = &public_url {
        println!("public address: {p}");
    }
    if let Some(t) = &token {
        println!("token for everything that writes or computes: {t}");
    }
    eprintln!("data folder: {}", data.root().display());
    if args.open {
        open_in_browser(&url);
    }
    let closing = state.closing.clone();
    let ended = async move {
        shutdown_signal().await;
        closing.send_replace(true);
    };
    axum::serve(listener, app(state))
        .with_graceful_shutdown(ended)
        .await
        .map_err(|e| CliError::Failure(format!("serving: {e}")))?;
    let running = jobs.running();
    if !running.is_empty() {
        eprintln!(
            "waiting for {} to write a checkpoint; it resumes at the next start (Ctrl-C again: leave it running)",
            running.join(", ")
        );
    }
    let left = tokio::select! {
        left = tokio::task::spawn_blocking({ let jobs = jobs.clone(); move || jobs.shutdown(SHUTDOWN) }) => {
            left.unwrap_or_default()
        }
        () = shutdown_signal() => {
            // the waiting thread must not keep the process
            eprintln!("left running: {}", jobs.running().join(", "));
            std::process::exit(0);
        }
    };
    if !left.is_empty() {
        eprintln!("still running: {}; the next server adopts them", left.join(", "));
        std::process::exit(0);
    }
    Ok(())
}

async fn shutdown_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let Ok(mut term) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = term.recv() => {}
    }
}

fn open_in_browser(url: &str) {
    let program = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
    let started = std::process::Command::new(program)
        .arg(url)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn();
    if let Err(e) = started {
        eprintln!("could not start {program}: {e}; open {url} yourself");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_urls_are_origins() {
        assert_eq!(check_public_url("https://x.org/").unwrap(), "https://x.org");
        for bad in ["x.org", "ftp://x", "https://", "https://x/y", "https://u@x"] {
            assert!(check_public_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_token_is_kept_and_private() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        let t = token(&data).unwrap();
        assert_eq!(token(&data).unwrap(), t);
        let mode = std::fs::metadata(dir.path().join("token")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
