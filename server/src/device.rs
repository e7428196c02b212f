//! Which device computes: `auto | cpu | cuda:N`, and whether a run fits it.

#[cfg(feature = "cuda")]
use hilda_kernels::backend::cuda::{Cuda, CudaError, Driver, MAX_HEAD_DIM, found};
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

/// What a run asks of its device.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs {
    /// bytes planned: [`hilda_engine::train::planned_bytes`]
    pub bytes: usize,
    pub head_dim: usize,
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
        if needs.head_dim > MAX_HEAD_DIM {
            return Err((
                false,
                format!("heads of {} values; the kernels go to {MAX_HEAD_DIM}", needs.head_dim),
            ));
        }
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
        let opened = open("cpu", Needs { bytes: usize::MAX, head_dim: 1000 });
        assert!(matches!(opened, Ok((Device::Cpu, None))));
        assert!(open("tpu", Needs::default()).is_err());
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
