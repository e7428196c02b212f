//! What the machine does to a run: writers that are killed, disks that fill.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use hilda_tests::material::{self, STEPS};
use hilda_tests::program::Ended;
use hilda_tests::{hilda_or_skip, program};
use serde_json::Value;

/// Runs a shell script in `folder` with the program as `$HILDA`.
fn shell(hilda: &Path, folder: &Path, script: &str) -> Ended {
    let mut command = Command::new("sh");
    command.args(["-c", script]).current_dir(folder).env("HILDA", hilda);
    let out = command.env("HILDA_DATA", folder.join("data")).output().expect("sh");
    Ended {
        code: out.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&out.stdout).into_owned(),
        err: String::from_utf8_lossy(&out.stderr).into_owned(),
    }
}

/// The last loss of every step.
fn losses(run: &Path) -> std::collections::BTreeMap<u64, String> {
    let text = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|m| m["kind"] == "train")
        .map(|m| (m["step"].as_u64().unwrap(), m["loss"].to_string()))
        .collect()
}

/// A folder with `run` stopped at its first checkpoint (step 10), and the same run, uninterrupted, in `whole`.
fn stopped_run(hilda: &Path) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    material::write_stories(folder.path());
    fs::write(folder.path().join("tiny.toml"), material::recipe("tiny")).unwrap();
    let ended = program::run(hilda, folder.path(), &["train", "tiny.toml", "--run", "whole"]);
    assert_eq!(ended.code, 0, "{ended:#?}");
    let mut command = Command::new(hilda);
    command.args(["train", "tiny.toml", "--run", "run"]).current_dir(folder.path());
    command.env("HILDA_DATA", folder.path().join("data")).stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let first = folder.path().join("run/ckpt/step-10");
    while !first.exists() && child.try_wait().unwrap().is_none() {
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for later in ["step-20", "step-30", "step-40"] {
        let _ = fs::remove_dir_all(folder.path().join("run/ckpt").join(later));
    }
    folder
}

/// What must hold after `ended` ran out of space in `run`: a clear error, the checkpoint of step 10 untouched and
/// nothing half-written that counts, and with space again the same numbers as the run that never stopped.
fn survived(hilda: &Path, folder: &Path, ended: &Ended, before: &[u8], words: &[&str]) {
    ended.refused(1, words);
    let run = folder.join("run");
    let kept: Vec<_> = fs::read_dir(run.join("ckpt"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    assert_eq!(kept, ["step-10"]);
    assert!(fs::read(run.join("ckpt/step-10/trainer.safetensors")).unwrap() == before);
    let resumed = program::run(hilda, folder, &["train", "--run", "run"]);
    assert_eq!(resumed.code, 0, "{resumed:#?}");
    assert_eq!(losses(&run), losses(&folder.join("whole")));
    assert!(run.join(format!("ckpt/step-{STEPS}/model.safetensors")).is_file());
}

#[test]
fn a_full_disk_stops_the_run_and_keeps_its_checkpoint() {
    let name = "a_full_disk_stops_the_run_and_keeps_its_checkpoint";
    let hilda = hilda_or_skip!("a_full_disk_stops_the_run_and_keeps_its_checkpoint");
    let folder = stopped_run(&hilda);
    let kind = |script: &str| {
        let ended = shell(&hilda, folder.path(), script);
        ended.code == 0
    };
    // A file system of our own: for root, or in a user namespace.
    let mount = "mkdir -p full && mount -t tmpfs -o size=4m none full";
    let Some(enter) =
        ["unshare -m", "unshare -rm"].into_iter().find(|u| kind(&format!("{u} sh -c '{mount}'")))
    else {
        println!("SKIPPED {name}: this machine lets nobody mount a small file system");
        return;
    };
    let before = fs::read(folder.path().join("run/ckpt/step-10/trainer.safetensors")).unwrap();
    // Room for the run as it is and for half of another checkpoint. The file system goes with its process, so the run
    // is copied out.
    let bytes: u64 = ["run/ckpt/step-10", "run"]
        .iter()
        .flat_map(|d| fs::read_dir(folder.path().join(d)).unwrap())
        .map(|e| e.unwrap().metadata().unwrap().len().next_multiple_of(4096))
        .sum();
    let size = bytes + before.len() as u64 / 2;
    let script = format!(
        "mkdir -p full && mount -t tmpfs -o size={size} none full && cp -r run full/ && {{ \"$HILDA\" train --run full/run; \
         code=$?; rm -rf run; cp -r full/run run; exit $code; }}"
    );
    let ended = shell(&hilda, folder.path(), &format!("{enter} sh -c '{script}'"));
    survived(&hilda, folder.path(), &ended, &before, &["ckpt/step-20", "No space left on device"]);
}

#[test]
fn a_file_that_may_not_grow_stops_the_run_and_keeps_its_checkpoint() {
    let hilda = hilda_or_skip!("a_file_that_may_not_grow_stops_the_run_and_keeps_its_checkpoint");
    let folder = stopped_run(&hilda);
    let before = fs::read(folder.path().join("run/ckpt/step-10/trainer.safetensors")).unwrap();
    // Blocks of 512 or 1024 bytes, depending on the shell: between the log and the optimiser's state.
    assert!(before.len() > 700 * 1024, "{}", before.len());
    let script = "trap '' XFSZ; ulimit -f 680; exec \"$HILDA\" train --run run";
    let ended = shell(&hilda, folder.path(), script);
    let status = fs::read(folder.path().join("run/status.json")).unwrap();
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["state"], "failed", "{status}");
    assert!(status["error"].as_str().unwrap().contains("step-20"), "{status}");
    survived(&hilda, folder.path(), &ended, &before, &["ckpt/step-20", "File too large"]);
}

#[test]
fn a_killed_data_add_is_cleaned_up_by_the_next_command() {
    let hilda = hilda_or_skip!("a_killed_data_add_is_cleaned_up_by_the_next_command");
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("other.txt"), material::stories(40)).unwrap();
    if !Command::new("mkfifo").arg(folder.path().join("pipe.txt")).status().is_ok_and(|s| s.success()) {
        println!("SKIPPED a_killed_data_add_is_cleaned_up_by_the_next_command: no mkfifo");
        return;
    }
    // It waits for the pipe's other end with its folder half-written.
    let mut command = Command::new(&hilda);
    command.args(["data", "add", "big", "pipe.txt", "--format", "text"]).current_dir(folder.path());
    command.env("HILDA_DATA", folder.path().join("data")).stderr(Stdio::null()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let corpora = folder.path().join("data/corpora");
    let hidden = || {
        let names = fs::read_dir(&corpora).into_iter().flatten().flatten();
        names.filter(|e| e.file_name().to_string_lossy().starts_with(".big.")).count()
    };
    let began = Instant::now();
    while hidden() == 0 && began.elapsed() < Duration::from_secs(60) {
        std::thread::sleep(Duration::from_millis(2));
    }
    let run = |args: &[&str]| {
        let ended = program::run(&hilda, folder.path(), args);
        assert_eq!(ended.code, 0, "{ended:#?}");
    };
    run(&["data", "list"]);
    run(&["data", "add", "other", "other.txt"]);
    assert_eq!(hidden(), 1, "what a living process writes was taken away");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(hidden(), 1, "it was killed in the middle");
    run(&["data", "list"]);
    assert_eq!(hidden(), 0);
    assert!(corpora.join("other/corpus.json").is_file());
}
