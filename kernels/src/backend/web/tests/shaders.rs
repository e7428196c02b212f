//! Every shader variant parses, passes naga's validation without optional capabilities, and stays inside WebGPU's
//! default limits. Needs no GPU.

use super::super::shader::{FLAT, HEAD_FLAT, HEAD_WIDE, Kernel, LARGE, SMALL, Weight};
use wgpu::naga::front::wgsl;
use wgpu::naga::valid::{Capabilities, ValidationFlags, Validator};
use wgpu::naga::{AddressSpace, proc::Layouter};

fn variants() -> Vec<Kernel> {
    use Kernel::*;
    let mut all = vec![CopyColumns, Norm, Bias, Rope, Glu, Gelu];
    for codes in [false, true] {
        all.extend([Embed { codes }, EmbedMix { codes }]);
    }
    for vectors in [false, true] {
        all.extend([1, 6, 32, 64, 80, 128, 256].map(|head_dim| Kernel::Attention { head_dim, vectors }));
    }
    for top_k in [0, 1, 5, 16] {
        all.extend([64, 256].map(|threads| Kernel::Merge { threads, top_k }));
    }
    for weight in [Weight::Scalars, Weight::Vectors, Weight::Codes] {
        all.extend([FLAT, SMALL, LARGE].map(|tile| Kernel::Gemm { tile, weight }));
        for top_k in [0, 1, 5, 16] {
            all.extend([HEAD_FLAT, HEAD_WIDE].map(|tile| Kernel::Head { tile, weight, top_k }));
        }
    }
    all
}

#[test]
fn every_shader_is_valid_within_default_limits() {
    let limits = wgpu::Limits::default();
    for kernel in variants() {
        let source = kernel.source();
        let module = match wgsl::parse_str(&source) {
            Ok(m) => m,
            Err(e) => panic!("{kernel:?}: {}", e.emit_to_string(&source)),
        };
        if let Err(e) = Validator::new(ValidationFlags::all(), Capabilities::empty()).validate(&module) {
            panic!("{kernel:?}: {}", e.emit_to_string(&source));
        }
        let mut layouter = Layouter::default();
        layouter.update(module.to_ctx()).expect("layout");
        let bytes_in = |space: fn(&AddressSpace) -> bool| -> Vec<u32> {
            let of_space = module.global_variables.iter().filter(|(_, v)| space(&v.space));
            of_space.map(|(_, v)| layouter[v.ty].size).collect()
        };
        let shared: u32 = bytes_in(|s| *s == AddressSpace::WorkGroup).iter().sum();
        assert!(shared <= limits.max_compute_workgroup_storage_size, "{kernel:?}: {shared} bytes shared");
        let storage = bytes_in(|s| matches!(s, AddressSpace::Storage { .. })).len();
        assert_eq!(storage, kernel.access().len(), "{kernel:?}: storage bindings");
        assert!(storage <= limits.max_storage_buffers_per_shader_stage as usize, "{kernel:?}");
        let uniform: u32 = bytes_in(|s| *s == AddressSpace::Uniform).iter().sum();
        assert!(uniform <= 128, "{kernel:?}: {uniform} bytes of parameters");
        let threads: u32 = module.entry_points[0].workgroup_size.iter().product();
        assert!(threads <= limits.max_compute_invocations_per_workgroup, "{kernel:?}: {threads} threads");
    }
}
