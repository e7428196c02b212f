//! A trainer that keeps the contract of the run folder without training, for tests of jobs.
//!
//! The test program starts itself: a script, named by `HILDA_TRAINER`, runs the test [`child`] with the run folder
//! in `HILDA_FAKE_RUN`. What it does is written in the recipe's `about`: `ms=N` per step, `fail_at=N`, `deaf`
//! (ignores SIGTERM), `torn` (leaves half a line at step 7 of the first attempt, and waits).

use std::{
    fs,
    io::{Read, Seek, SeekFrom, Write},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use hilda_engine::{
    config::RunConfig,
    record::{Estimate, Metric, Sample, SampleFile, State, Status},
};

static TERMINATED: AtomicBool = AtomicBool::new(false);

extern "C" fn on_term(_: libc::c_int) {
    TERMINATED.store(true, Ordering::SeqCst);
}

/// The script that stands for `hilda` as a trainer.
pub fn script(dir: &Path) -> PathBuf {
    let path = dir.join("fake-trainer.sh");
    let program = std::env::current_exe().unwrap();
    let text = format!(
        "#!/bin/sh\nHILDA_FAKE_RUN=\"$3\" exec '{}' fake_trainer::child --exact --nocapture -q --test-threads=1\n",
        program.display()
    );
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

/// The loss that the stand-in reports for a step.
pub fn loss(step: u64) -> f64 {
    5.0 / (1.0 + step as f64 * 0.01)
}

#[test]
fn child() {
    if let Some(dir) = std::env::var_os("HILDA_FAKE_RUN") {
        train(Path::new(&dir));
    }
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

fn option(about: &str, name: &str) -> Option<u64> {
    about.split_whitespace().find_map(|w| w.strip_prefix(name)?.strip_prefix('=')?.parse().ok())
}

fn write_atomic(path: &Path, bytes: &[u8]) {
    let tmp = path.with_extension("tmp");
    fs::write(&tmp, bytes).unwrap();
    fs::rename(tmp, path).unwrap();
}

fn append(path: &Path, text: &str) {
    fs::OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

fn checkpoint(run: &Path, step: u64) {
    let (building, done) = (run.join(format!("ckpt/.step-{step}")), run.join(format!("ckpt/step-{step}")));
    if done.exists() {
        return;
    }
    fs::create_dir_all(&building).unwrap();
    fs::write(building.join("config.json"), "{}").unwrap();
    fs::write(building.join("model.safetensors"), step.to_string()).unwrap();
    fs::rename(building, done).unwrap();
}

fn newest(run: &Path) -> u64 {
    let entries = fs::read_dir(run.join("ckpt")).into_iter().flatten().flatten();
    entries.filter_map(|e| e.file_name().to_str()?.strip_prefix("step-")?.parse().ok()).max().unwrap_or(0)
}

fn train(run: &Path) {
    let lock =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(run.join("lock")).unwrap();
    let mut taken = false;
    for _ in 0..50 {
        taken = lock.try_lock().is_ok();
        if taken {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(taken, "the run is being trained by another process");
    lock.set_len(0).unwrap();
    (&lock).write_all(format!("{}\n", std::process::id()).as_bytes()).unwrap();

    let config = RunConfig::from_toml(&fs::read_to_string(run.join("run.toml")).unwrap()).unwrap();
    let about = config.about.clone();
    let handler =
        if about.contains("deaf") { libc::SIG_IGN } else { on_term as *const () as libc::sighandler_t };
    // SAFETY: the handler only stores to an atomic.
    unsafe { libc::signal(libc::SIGTERM, handler) };
    let per_step = (config.batch.rows * config.data.packing.length) as u64;
    let mut status: Status = serde_json::from_slice(&fs::read(run.join("status.json")).unwrap()).unwrap();
    status.attempt += 1;
    status.state = State::Running;
    status.total_steps = config.total_steps();
    status.device = "fake".into();
    status.parameters = 1234;
    let attempt = status.attempt;
    let metrics = run.join("metrics.jsonl");
    // half a line of an earlier attempt gets its end, so that ours stand alone
    if let Ok(mut f) = fs::File::open(&metrics) {
        let mut last = [b'\n'];
        if f.seek(SeekFrom::End(-1)).is_ok() {
            f.read_exact(&mut last).unwrap();
        }
        if last[0] != b'\n' {
            append(&metrics, "\n");
        }
    }
    let put = |m: &Metric| append(&metrics, &(serde_json::to_string(m).unwrap() + "\n"));
    let save = |s: &Status| write_atomic(&run.join("status.json"), &serde_json::to_vec(s).unwrap());
    let start = newest(run);
    append(&run.join("log.txt"), &format!("attempt {attempt} from step {start}\n"));
    save(&status);
    for step in start + 1..=status.total_steps {
        std::thread::sleep(Duration::from_millis(option(&about, "ms").unwrap_or(5)));
        let m = Metric::Train {
            step,
            attempt,
            tokens: step * per_step,
            phase: 0,
            loss: loss(step),
            grad_norm: 1.0,
            lr: 1e-3,
            seconds: 0.5,
            tokens_per_s: per_step as f64 * 2.0,
            flops: 1e9,
            time: now(),
        };
        if about.contains("torn") && attempt == 1 && step == 7 {
            append(&metrics, &serde_json::to_string(&m).unwrap()[..30]);
            std::thread::sleep(Duration::from_secs(600));
        }
        put(&m);
        status.step = step;
        status.tokens = step * per_step;
        status.seconds = step as f64 * 0.5;
        status.updated = now();
        if option(&about, "fail_at") == Some(step) {
            save(&status);
            eprintln!("first line of the failure");
            eprintln!("loss became NaN at step {step}");
            std::process::exit(1);
        }
        let terminated = TERMINATED.load(Ordering::SeqCst);
        if step % 10 == 0 || terminated || step == status.total_steps {
            checkpoint(run, step);
            put(&Metric::Checkpoint { step, attempt, time: now(), bytes: 10 });
            status.checkpoint = Some(step);
        }
        if terminated {
            status.state = State::Stopped;
            save(&status);
            std::process::exit(0);
        }
        save(&status);
    }
    let estimate = Estimate {
        estimator: "ar".into(),
        value: loss(status.total_steps),
        stderr: 0.01,
        tokens: 1000,
        rows: 10,
        k: 1,
        seed: 0,
        bits_per_byte: Some(1.5),
    };
    put(&Metric::Valid {
        step: status.step,
        attempt,
        tokens: status.tokens,
        phase: 0,
        time: now(),
        estimate: estimate.clone(),
    });
    let samples = SampleFile {
        step: status.step,
        samples: vec![Sample {
            prompt: "Once".into(),
            text: "Once <b>upon</b> a time".into(),
            policy: "ancestral".into(),
            seed: 1,
            forwards: 8,
            trajectory: None,
        }],
    };
    fs::create_dir_all(run.join("samples")).unwrap();
    write_atomic(
        &run.join(format!("samples/step-{}.json", status.step)),
        &serde_json::to_vec(&samples).unwrap(),
    );
    status.headline = Some(estimate);
    status.state = State::Finished;
    save(&status);
    std::process::exit(0);
}
