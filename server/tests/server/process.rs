//! `hilda serve` as a process, trainers as its children: launch, follow, stop, resume, and every way to die.

use std::{
    fs,
    process::Command,
    time::{Duration, Instant},
};

use crate::{
    client::{call, events},
    setup::{Server, assert_complete, data_folder, recipe, signal, trainer_pid},
};

#[test]
fn launch_and_follow_to_the_end() {
    let data = data_folder();
    let server = Server::start(data.path());
    let id = server.launch(&recipe(40, "ms=5"));
    let path = format!("/api/runs/{id}/events");
    let all = events(server.port, &path, None, |e| {
        e.last().is_some_and(|e| e.name == "status" && e.data.contains("\"finished\""))
    });
    let ids: Vec<_> = all.iter().filter_map(|e| e.id).collect();
    assert!(ids.windows(2).all(|w| w[0] < w[1]), "{ids:?}");
    let trains = all.iter().filter(|e| e.name == "metric" && e.data.contains("\"train\"")).count();
    assert_eq!(trains, 40, "the finished status comes after every row");
    assert!(all.iter().any(|e| e.name == "log" && e.data.contains("attempt 1")));
    // continue in the middle: exactly the rest
    let middle = ids[ids.len() / 2];
    let rest = events(server.port, &path, Some(middle), |e| e.iter().any(|e| e.name == "status"));
    let rest: Vec<_> = rest.iter().filter_map(|e| e.id).collect();
    assert_eq!(rest, ids[ids.len() / 2 + 1..]);
    let run = server.run(&id);
    assert_eq!(run["status"]["headline"]["estimator"], "ar");
    assert_eq!(run["checkpoints"].as_array().unwrap().len(), 4);
    assert_eq!(run["spark"].as_array().unwrap().len(), 40);
    assert_complete(&server.losses(&id), 40);
}

#[test]
fn stop_resume_and_the_queue() {
    let data = data_folder();
    let server = Server::start(data.path());
    let first = server.launch(&recipe(100_000, "ms=10"));
    let second = server.launch(&recipe(20, "ms=1"));
    server.wait_step(&first, 15);
    let waiting = server.run(&second);
    assert_eq!((waiting["state"].as_str(), waiting["queue_position"].as_u64()), (Some("queued"), Some(1)));
    assert_eq!(call(server.port, "DELETE", &format!("/api/runs/{first}"), "").status, 409);
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{first}/resume"), "").status, 409);
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{first}/stop"), "").status, 202);
    let stopped = server.wait_state(&first, "stopped");
    assert_eq!(stopped["status"]["step"], stopped["status"]["checkpoint"], "stopping writes a checkpoint");
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{first}/stop"), "").status, 409);
    // the place is free
    server.wait_state(&second, "finished");
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{second}/resume"), "").status, 409);
    let at = stopped["status"]["step"].as_u64().unwrap();
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{first}/resume"), "").status, 202);
    server.wait_step(&first, at + 3);
    let v = server.run(&first);
    assert_eq!(v["status"]["attempt"], 2);
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{first}/stop"), "").status, 202);
    let last = server.wait_state(&first, "stopped")["status"]["step"].as_u64().unwrap();
    assert_complete(&server.losses(&first), last);
    // deleted and brought back
    let undo = call(server.port, "DELETE", &format!("/api/runs/{first}"), "").json();
    assert_eq!(call(server.port, "GET", &format!("/api/runs/{first}"), "").status, 404);
    assert_eq!(call(server.port, "POST", undo["undo"].as_str().unwrap(), "").status, 200);
    assert_complete(&server.losses(&first), last);
}

#[test]
fn a_killed_server_loses_nothing_and_adopts() {
    let data = data_folder();
    let mut server = Server::start(data.path());
    let id = server.launch(&recipe(150, "ms=20"));
    server.wait_step(&id, 5);
    let pid = trainer_pid(data.path(), &id);
    server.kill();
    std::thread::sleep(Duration::from_millis(300));
    // the trainer went on; the new server finds it alive
    let server = Server::start(data.path());
    assert_eq!(trainer_pid(data.path(), &id), pid);
    let v = server.run(&id);
    assert_eq!((v["state"].as_str(), v["status"]["attempt"].as_u64()), (Some("running"), Some(1)));
    // a second run waits for the adopted one
    let other = server.launch(&recipe(5, ""));
    assert_eq!(server.run(&other)["state"], "queued");
    server.wait_state(&id, "finished");
    assert_eq!(server.run(&id)["status"]["attempt"], 1, "nobody started it again");
    assert_complete(&server.losses(&id), 150);
    server.wait_state(&other, "finished");
}

#[test]
fn an_adopted_run_can_be_stopped() {
    let data = data_folder();
    let mut server = Server::start(data.path());
    let id = server.launch(&recipe(100_000, "ms=20"));
    server.wait_step(&id, 3);
    server.kill();
    let server = Server::start(data.path());
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{id}/stop"), "").status, 202);
    let v = server.wait_state(&id, "stopped");
    assert_eq!(v["status"]["step"], v["status"]["checkpoint"]);
}

#[test]
fn a_killed_trainer_is_reported_and_resumes() {
    let data = data_folder();
    let server = Server::start(data.path());
    let id = server.launch(&recipe(60, "ms=15"));
    server.wait_step(&id, 25);
    signal(trainer_pid(data.path(), &id), libc::SIGKILL);
    let v = server.wait_state(&id, "failed");
    assert!(v["status"]["error"].as_str().unwrap().contains("signal 9"), "{v:#}");
    let before = server.losses(&id);
    assert!(before.len() >= 25, "committed rows stay: {}", before.len());
    assert_eq!(call(server.port, "POST", &format!("/api/runs/{id}/resume"), "").status, 202);
    let v = server.wait_state(&id, "finished");
    assert_eq!(v["status"]["attempt"], 2);
    assert!(v["status"]["error"].is_null());
    assert_complete(&server.losses(&id), 60);
}

#[test]
fn server_and_trainer_killed_together_go_on() {
    let data = data_folder();
    let mut server = Server::start(data.path());
    let id = server.launch(&recipe(30, "torn"));
    // the stand-in hangs in the middle of writing the line of step 7
    server.wait_step(&id, 6);
    std::thread::sleep(Duration::from_millis(200));
    let pid = trainer_pid(data.path(), &id);
    server.kill();
    signal(pid, libc::SIGKILL);
    std::thread::sleep(Duration::from_millis(100));
    let text = fs::read_to_string(data.path().join("runs").join(&id).join("metrics.jsonl")).unwrap();
    assert!(!text.ends_with('\n'), "the last line is torn");
    let server = Server::start(data.path());
    let v = server.wait_state(&id, "finished");
    assert_eq!(v["status"]["attempt"], 2, "the new server resumed it");
    assert_complete(&server.losses(&id), 30);
}

#[test]
fn a_stopping_server_takes_its_trainers_along_and_resumes_them() {
    let data = data_folder();
    let mut server = Server::start(data.path());
    let id = server.launch(&recipe(120, "ms=15"));
    server.wait_step(&id, 5);
    let pid = trainer_pid(data.path(), &id);
    signal(server.child.id() as i32, libc::SIGTERM);
    let start = Instant::now();
    assert!(server.child.wait().unwrap().success());
    assert!(start.elapsed() < Duration::from_secs(20));
    // SAFETY: signal 0 only asks whether the process exists.
    assert_eq!(unsafe { libc::kill(pid, 0) }, -1, "the trainer ended with its server");
    let server = Server::start(data.path());
    let v = server.wait_state(&id, "finished");
    assert_eq!(v["status"]["attempt"], 2);
    assert_complete(&server.losses(&id), 120);
}

#[test]
fn a_run_stopped_by_its_user_stays_stopped_after_a_restart() {
    let data = data_folder();
    let mut server = Server::start(data.path());
    let id = server.launch(&recipe(100_000, "ms=10"));
    server.wait_step(&id, 2);
    call(server.port, "POST", &format!("/api/runs/{id}/stop"), "");
    server.wait_state(&id, "stopped");
    server.kill();
    let server = Server::start(data.path());
    std::thread::sleep(Duration::from_millis(600));
    assert_eq!(server.run(&id)["state"], "stopped");
}

#[test]
fn a_failed_trainer_says_why() {
    let data = data_folder();
    let server = Server::start(data.path());
    let id = server.launch(&recipe(60, "fail_at=12"));
    let v = server.wait_state(&id, "failed");
    let error = v["status"]["error"].as_str().unwrap();
    assert!(error.contains("exit code 1") && error.contains("loss became NaN at step 12"), "{error}");
    assert_eq!(v["checkpoints"][0]["step"], 10, "the last good checkpoint is intact");
}

#[test]
fn a_missing_trainer_program_is_a_failed_run() {
    let data = data_folder();
    fs::remove_file(data.path().join("fake-trainer.sh")).unwrap();
    let server = Server::start(data.path());
    let id = server.launch(&recipe(5, ""));
    let v = server.wait_state(&id, "failed");
    assert!(v["status"]["error"].as_str().unwrap().contains("could not start"), "{v:#}");
}

#[test]
fn the_index_is_rebuilt_from_the_folders() {
    let data = data_folder();
    let mut server = Server::start(data.path());
    let id = server.launch(&recipe(25, "ms=1"));
    server.wait_state(&id, "finished");
    server.kill();
    for suffix in ["", "-wal", "-shm"] {
        let _ = fs::remove_file(data.path().join(format!("hilda.sqlite{suffix}")));
    }
    let server = Server::start(data.path());
    assert_complete(&server.losses(&id), 25);
    assert_eq!(server.run(&id)["state"], "finished");
}

fn refused(args: &[&str], data: &std::path::Path) -> (Option<i32>, String) {
    let out =
        Command::new(env!("CARGO_BIN_EXE_hilda")).args(args).arg("--data-dir").arg(data).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&out.stderr).into_owned())
}

#[test]
fn a_second_server_and_a_taken_port_are_refused_clearly() {
    let (data, other) = (data_folder(), data_folder());
    let server = Server::start(data.path());
    let (code, text) = refused(&["serve", "--port", "0"], data.path());
    assert!(code == Some(1) && text.contains("already served") && text.contains("process"), "{text}");
    let port = server.port.to_string();
    let (code, text) = refused(&["serve", "--port", &port], other.path());
    assert!(code == Some(1) && text.contains(&port) && text.contains("in use"), "{text}");
}

#[test]
fn exit_codes_of_the_command_line() {
    let data = data_folder();
    for (args, code) in [
        (&["runs", "list"][..], 0),
        (&["runs", "list", "--json"], 0),
        (&["runs", "show", "nothing"], 2),
        (&["runs", "show", "../nothing"], 2),
        (&["serve", "--public-url", "nonsense"], 2),
        (&["serve", "--jobs", "0"], 2),
        (&["fly"], 2),
        (&["doctor", "--json"], 0),
    ] {
        let (got, text) = refused(args, data.path());
        assert_eq!(got, Some(code), "{args:?}: {text}");
        assert!(code == 0 || !text.is_empty());
    }
}
