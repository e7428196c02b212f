//! Which device computes: `auto | cpu | cuda:N`, and whether a run fits it.

use hilda_engine::config::{Mlp, RunConfig};
use hilda_engine::model::{Keep, Trunk};
use hilda_engine::train;
#[cfg(feature = "cuda")]
use hilda_kernels::backend::cuda::{Asked, Cuda, CudaError, Driver, found};
use hilda_kernels::{Cpu, Train};

use crate::cli::CliError;

/// What `doctor` says about GPUs: works, or why not.
pub enum Gpu {
    Works(String),
    /// nothing is wrong with a machine that has none
    Absent(String),
    /// there is something, and it cannot be used as it is
    Unusable(String),
}

/// A device with its back end.
pub enum Device {
    Cpu,
    #[cfg(feature = "cuda")]
    Cuda(Cuda<Driver>),
}

/// Work written once for every back end.
pub trait Work {
    type Out;
    fn on<B: Train + Clone>(self, backend: B) -> Self::Out;
}

impl Device {
    pub fn run<W: Work>(&self, work: W) -> W::Out {
        match self {
            Device::Cpu => work.on(Cpu),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => work.on(cuda.clone()),
        }
    }

    /// Bytes of a memory of its own that a run may plan with, after what the driver needs and the fifth by which
    /// scratch memory and rounded sizes can go beyond the plan; None where that is the process's memory.
    pub fn memory(&self) -> Option<usize> {
        match self {
            Device::Cpu => None,
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => cuda.device().memory().ok().map(|(free, _)| usable(free)),
        }
    }

    /// For the record of a run.
    pub fn name(&self) -> String {
        match self {
            Device::Cpu => format!("cpu, {} threads", hilda_kernels::par::threads()),
            #[cfg(feature = "cuda")]
            Device::Cuda(cuda) => format!("cuda, {}", cuda.device().name()),
        }
    }
}

/// What a run asks of its device: memory, and sizes that kernels of some devices bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Needs {
    /// bytes planned: [`hilda_engine::train::planned_bytes`]
    pub bytes: usize,
    /// values of a head
    pub head_dim: usize,
    /// values of the largest activation that attention or GELU takes as one: rows of a forward times columns
    pub values: usize,
    /// values of a norm's weight and bias, whose gradients are summed together; 0 without training
    pub norm: usize,
}

impl Needs {
    /// Forwards of at most `rows` rows.
    pub fn forward(trunk: &Trunk, rows: usize) -> Needs {
        let c = &trunk.config;
        let columns = c.qkv().max(if c.arch.mlp == Mlp::Gelu { c.mlp } else { 0 });
        Needs {
            bytes: 4 * trunk.layout.total + trunk.plan_bytes(rows, Keep::Nothing),
            head_dim: c.head_dim,
            values: rows * columns,
            norm: 0,
        }
    }

    /// Steps of a run with the rows a forward that `config` says.
    pub fn training(trunk: &Trunk, config: &RunConfig) -> Needs {
        let c = &trunk.config;
        Needs {
            bytes: train::planned_bytes(config, trunk),
            norm: if c.arch.layer_norm { 2 * c.width } else { c.width },
            ..Needs::forward(trunk, train::memory::plan_rows(config))
        }
    }

    /// What the CUDA kernels do not hold is refused with the number and the largest.
    #[cfg(feature = "cuda")]
    fn check(&self) -> Result<(), CudaError> {
        Asked { head_dim: self.head_dim, values: self.values, norm: self.norm }.check()
    }
}

/// Opens what a recipe names. With `auto`, the first GPU if there is one that can hold the run, else the CPU; what
/// kept a GPU from being used comes back beside it. A device named by number is used or refused.
///
/// # Errors
/// Why a named device cannot be used, with the numbers.
#[cfg(feature = "cuda")]
pub fn open(name: &str, needs: Needs) -> Result<(Device, Option<String>), String> {
    let ordinal = match name {
        "cpu" => return Ok((Device::Cpu, None)),
        "auto" => 0,
        other => {
            let number = other.strip_prefix("cuda:").and_then(|n| n.parse().ok());
            number.ok_or_else(|| format!("device: \"{other}\" is not auto, cpu or cuda:N"))?
        }
    };
    let opened = Driver::new(ordinal).map_err(|e| (matches!(e, CudaError::NoDriver), e.to_string()));
    let opened = opened.and_then(|driver| {
        let (free, total) = driver.memory().map_err(|e| (false, e.to_string()))?;
        needs.check().map_err(|e| (false, e.to_string()))?;
        fits(needs.bytes, free, total).map_err(|e| (false, format!("{}: {e}", driver.name())))?;
        Ok(Device::Cuda(Cuda::new(driver)))
    });
    match opened {
        Ok(device) => Ok((device, None)),
        Err((ordinary, why)) if name == "auto" => Ok((Device::Cpu, (!ordinary).then_some(why))),
        Err((_, why)) => Err(format!("device: {name} is not available: {why}")),
    }
}

/// As [`open`], for a command: says on standard error what kept a GPU from being used.
///
/// # Errors
/// [`CliError::BadInput`], as [`open`].
pub fn ready(name: &str, needs: Needs) -> Result<Device, CliError> {
    let (device, unused) = open(name, needs).map_err(CliError::BadInput)?;
    if let Some(why) = unused {
        eprintln!("computing on the CPU: {why}");
    }
    Ok(device)
}

#[cfg(not(feature = "cuda"))]
pub fn open(name: &str, _: Needs) -> Result<(Device, Option<String>), String> {
    match name {
        "auto" | "cpu" => Ok((Device::Cpu, None)),
        other => Err(format!("device: {other} is not available: this build computes on the CPU only")),
    }
}

/// The driver, cuBLAS, masks and scratch memory need this much beside what is planned, bytes.
#[cfg(any(feature = "cuda", test))]
const BESIDE: usize = 400_000_000;

/// See [`Device::memory`].
#[cfg(any(feature = "cuda", test))]
fn usable(free: usize) -> usize {
    free.saturating_sub(BESIDE) / 5 * 4
}

/// Refuses with the numbers what is known not to fit before anything is allocated.
#[cfg(any(feature = "cuda", test))]
fn fits(bytes: usize, free: usize, total: usize) -> Result<(), String> {
    let mb = |n: usize| n.div_ceil(1_000_000);
    if bytes + BESIDE <= free {
        return Ok(());
    }
    Err(format!(
        "the run needs {} MB (and {} MB for the driver and scratch memory), {} of {} MB are free; fewer rows in \
         batch.micro or a smaller model need less",
        mb(bytes),
        mb(BESIDE),
        mb(free),
        mb(total)
    ))
}

/// Looks at the GPUs without starting anything on them.
pub fn gpu() -> Gpu {
    #[cfg(not(feature = "cuda"))]
    return Gpu::Absent("this build computes on the CPU only".into());
    #[cfg(feature = "cuda")]
    match found() {
        Ok(f) => {
            let names = f.gpus.iter().map(|(name, bytes)| format!("{name} ({:.1} GB)", *bytes as f64 / 1e9));
            let names = names.collect::<Vec<_>>().join(", ");
            let blas =
                if f.cublas { "with cuBLAS" } else { "without cuBLAS: products by HILDA's own kernels" };
            Gpu::Works(format!("{names}, driver for CUDA {}.{}, {blas}", f.version / 10, f.version % 10))
        }
        Err(e @ (CudaError::NoDriver | CudaError::NoDevice { .. })) => Gpu::Absent(e.to_string()),
        Err(e) => Gpu::Unusable(e.to_string()),
    }
}

#[cfg(all(test, feature = "cuda"))]
mod lost;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_refused_with_the_numbers() {
        assert_eq!(fits(7_000_000_000, 7_900_000_000, 8_500_000_000), Ok(()));
        let refused = fits(7_600_000_000, 7_900_000_000, 8_500_000_000).expect_err("too large");
        assert!(refused.starts_with(
            "the run needs 7600 MB (and 400 MB for the driver and scratch memory), 7900 of 8500 MB are free"
        ));
    }

    #[test]
    fn what_is_planned_with_fits() {
        for free in [0, 500_000_000, 8_000_000_000] {
            assert!(usable(free) == 0 || fits(usable(free), free, free).is_ok(), "{free}");
        }
        assert_eq!(Device::Cpu.memory(), None);
    }

    #[test]
    fn the_cpu_needs_no_driver() {
        let opened = open("cpu", Needs { bytes: usize::MAX, head_dim: 1000, ..Needs::default() });
        assert!(matches!(opened, Ok((Device::Cpu, None))));
        assert!(open("tpu", Needs::default()).is_err());
    }

    /// Gemma's heads of 256 values fit; beyond, a run is refused before it starts and not in its first step.
    #[cfg(feature = "cuda")]
    #[test]
    fn heads_that_no_kernel_holds_are_refused() {
        let with = |heads: usize| {
            let model = format!(
                "name = \"t\"\n[model]\nwidth = 512\nlayers = 1\nheads = {heads}\nmlp = 32\n[data]\ntrain = \"x\"\n\
                 packing = {{ length = 16 }}\n[batch]\nrows = 4\nmicro = 2\n[[phase]]\nobjective = \"ar\"\n\
                 tokens = 256\nlr = {{ peak = 1e-3 }}"
            );
            let config = RunConfig::from_toml(&model).expect("a recipe");
            let trunk = Trunk::new(config.model.resolve(300, 1, 0, vec![1]).expect("a shape"));
            Needs::training(&trunk, &config)
        };
        let needs = with(2);
        assert_eq!((needs.head_dim, needs.values, needs.norm), (256, 2 * 16 * 1536, 512));
        assert_eq!(needs.check(), Ok(()));
        let refused = with(1).check().expect_err("heads of 512 values").to_string();
        assert_eq!(refused, "512 values of a head (head_dim), the CUDA kernels go to 256");
        assert!(Needs { values: 1 << 31, ..needs }.check().is_err());
    }

    /// Where there is no GPU, `auto` computes on the CPU and a named GPU is refused with the reason.
    #[test]
    fn a_machine_without_a_gpu() {
        if let Gpu::Works(what) = gpu() {
            println!("SKIPPED a_machine_without_a_gpu: {what}");
            return;
        }
        assert!(matches!(open("auto", Needs::default()), Ok((Device::Cpu, _))));
        let refused = open("cuda:0", Needs::default()).err().expect("no GPU");
        assert!(refused.starts_with("device: cuda:0 is not available: "), "{refused}");
    }
}
