//! A GPU that fails while a run trains on it: the run says why, and its last checkpoint goes on elsewhere.
//!
//! The device here is memory and nothing else: kernels do nothing, so weights stay as they are and losses are zero, until
//! the launch or the allocation that fails.

use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use hilda_engine::config::RunConfig;
use hilda_engine::data::{bpe, pack};
use hilda_engine::record::{State, Status};
use hilda_engine::train::{self, Hooks, Input, Outcome, RunFolder, TrainError, checkpoint};
use hilda_kernels::backend::cuda::{Cuda, CudaError, Device, Launch};
use hilda_kernels::{Cpu, Train};

struct Failing {
    memory: Mutex<(usize, Vec<u8>)>,
    /// bytes it has
    room: usize,
    /// steps after which the next product's launch fails
    steps: usize,
    done: AtomicUsize,
}

impl Failing {
    fn new(room: usize, steps: usize) -> Failing {
        Failing { memory: Mutex::new((256, vec![0; room])), room, steps, done: AtomicUsize::new(0) }
    }
    fn at<R>(&self, at: u64, bytes: usize, f: impl FnOnce(&mut [u8]) -> R) -> Result<R, CudaError> {
        let mut memory = self.memory.lock().unwrap();
        Ok(f(&mut memory.1[at as usize..at as usize + bytes]))
    }
}

impl Device for Failing {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        let mut memory = self.memory.lock().unwrap();
        let at = memory.0;
        if at + bytes > self.room {
            return Err(CudaError::OutOfMemory { asked: bytes, free: self.room - at, total: self.room });
        }
        memory.0 = (at + bytes).next_multiple_of(256);
        Ok(at as u64)
    }
    fn free(&self, _: u64) {}
    fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError> {
        self.at(at, bytes, |to| to.fill(0))
    }
    fn upload(&self, at: u64, data: &[u8]) -> Result<(), CudaError> {
        self.at(at, data.len(), |to| to.copy_from_slice(data))
    }
    fn download(&self, at: u64, data: &mut [u8]) -> Result<(), CudaError> {
        self.at(at, data.len(), |from| data.copy_from_slice(from))
    }
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        let data = self.at(from, bytes, |from| from.to_vec())?;
        self.upload(to, &data)
    }
    fn launch(&self, l: Launch) -> Result<(), CudaError> {
        if l.kernel.starts_with("adamw") {
            self.done.fetch_add(1, Relaxed);
        }
        if l.kernel.starts_with("sgemm") && self.done.load(Relaxed) == self.steps {
            let (what, code) = (l.kernel.into(), "CUDA_ERROR_ECC_UNCORRECTABLE".into());
            return Err(CudaError::Lost { what, code });
        }
        Ok(())
    }
    fn multiprocessors(&self) -> usize {
        20
    }
}

fn input() -> Input {
    let texts: Vec<String> =
        (0..40).map(|i| format!("story {} of the cat and {} dogs", i % 7, i % 5)).collect();
    let tokenizer = bpe::train(&texts, 300).unwrap();
    let train = pack::pack_texts(&tokenizer, &texts, 16).unwrap();
    Input { tokenizer, valid: train.clone(), train, bytes_per_token: 2.0, shape: None }
}

fn go<B: Train + Clone>(backend: B, run: &Path, input: &Input) -> (Result<Outcome, TrainError>, Status) {
    let config = RunFolder::config(run).unwrap();
    let mut hooks = Hooks {
        now: &|| 0.0,
        stop: &|| false,
        progress: &mut |_| {},
        device: "test".into(),
        command: "test".into(),
    };
    let mut folder = RunFolder::open(run).unwrap();
    let outcome = train::train(backend, &mut folder, &config, input, &mut hooks);
    (outcome, RunFolder::status(run).unwrap().unwrap())
}

fn run_of_four_steps() -> tempfile::TempDir {
    let config = RunConfig::from_toml(
        "name = \"t\"\n[model]\nwidth = 16\nlayers = 1\nheads = 1\nmlp = 32\n[data]\ntrain = \"x\"\npacking = { length = 16 }\n\
         [batch]\nrows = 4\n[eval]\nevery = 0\nrows = 4\n[checkpoint]\nevery = 1\n[sample]\nprompts = []\n\
         [[phase]]\nobjective = \"ar\"\ntokens = 256\nlr = { peak = 1e-3 }",
    )
    .unwrap();
    assert_eq!(config.total_steps(), 4);
    let dir = tempfile::tempdir().unwrap();
    RunFolder::create(dir.path(), &config).unwrap();
    dir
}

#[test]
fn a_device_lost_in_mid_step_leaves_the_last_checkpoint() {
    let (run, input) = (run_of_four_steps(), input());
    let (outcome, status) = go(Cuda::new(Failing::new(32 << 20, 2)), run.path(), &input);
    let message = outcome.unwrap_err().to_string();
    assert!(message.starts_with("the GPU stopped working during sgemm_"), "{message}");
    let end = "(CUDA_ERROR_ECC_UNCORRECTABLE): everything on it is lost at step 3; the checkpoint of step 2 is intact";
    assert!(message.ends_with(end), "{message}");
    assert_eq!((status.state, status.step, status.checkpoint), (State::Failed, 2, Some(2)));
    assert_eq!(status.error, Some(message.clone()));
    assert!(std::fs::read_to_string(run.path().join("log.txt")).unwrap().contains(&message));
    assert_eq!(checkpoint::list(run.path()).last(), Some(&2));
    // and goes on elsewhere from there
    let (outcome, status) = go(Cpu, run.path(), &input);
    assert_eq!(outcome.unwrap(), Outcome::Finished);
    assert_eq!((status.state, status.step, status.attempt), (State::Finished, 4, 2));
}

#[test]
fn memory_that_runs_out_is_said_with_the_numbers() {
    let (run, input) = (run_of_four_steps(), input());
    let (outcome, status) = go(Cuda::new(Failing::new(100_000, usize::MAX)), run.path(), &input);
    let message = outcome.unwrap_err().to_string();
    assert!(message.starts_with("out of GPU memory: ") && message.contains("1 MB free"), "{message}");
    assert!(message.ends_with("at step 1; there is no checkpoint yet"), "{message}");
    assert_eq!((status.state, status.step, status.checkpoint), (State::Failed, 0, None));
}
