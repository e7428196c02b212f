//! What was asked for since the last submission, and the caches that make asking cheap: pipelines by kernel, bind
//! groups by buffers, one uniform buffer for the parameters of all dispatches of a submission.

use super::buffer::{ALIGN, Raw};
use super::shader::Kernel;
use crate::attention::rule::{Base, MaskRule};
use crate::rng::Stream;
use std::collections::{HashMap, HashSet};

/// Bytes of the uniform window every shader sees.
const WINDOW: u64 = 128;

/// Part of a buffer, in bytes; offset and size are multiples of 256.
#[derive(Clone, Copy)]
pub(super) struct Part<'a> {
    pub raw: &'a Raw,
    pub offset: u64,
    pub size: u64,
}

impl Raw {
    pub fn whole(&self) -> Part<'_> {
        Part { raw: self, offset: 0, size: self.buffer.size() }
    }
}

pub(super) enum Command {
    Dispatch { kernel: Kernel, group: wgpu::BindGroup, params: u32, workgroups: [u32; 3] },
    Copy { src: wgpu::Buffer, src_at: u64, dst: wgpu::Buffer, dst_at: u64, size: u64 },
}

type GroupKey = (&'static [bool], Vec<(u64, u64, u64)>);

#[derive(Default)]
pub(super) struct Recorder {
    layouts: HashMap<&'static [bool], wgpu::BindGroupLayout>,
    pipelines: HashMap<Kernel, wgpu::ComputePipeline>,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    uniform_layout: Option<wgpu::BindGroupLayout>,
    uniform: Option<(wgpu::Buffer, wgpu::BindGroup)>,
    params: Vec<u8>,
    commands: Vec<Command>,
    touched: HashSet<u64>,
}

impl Recorder {
    /// Does a recorded command use this buffer?
    pub fn uses(&self, raw: &Raw) -> bool {
        self.touched.contains(&raw.id)
    }

    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    pub fn copy(&mut self, src: &Raw, src_at: u64, dst: &Raw, dst_at: u64, size: u64) {
        self.touched.extend([src.id, dst.id]);
        let (src, dst) = (src.buffer.clone(), dst.buffer.clone());
        self.commands.push(Command::Copy { src, src_at, dst, dst_at, size });
    }

    pub fn copy_out(&mut self, src: &Raw, src_at: u64, dst: &wgpu::Buffer, size: u64) {
        self.touched.insert(src.id);
        let (src, dst) = (src.buffer.clone(), dst.clone());
        self.commands.push(Command::Copy { src, src_at, dst, dst_at: 0, size });
    }

    /// Records a dispatch of `kernel` over `parts` (bindings 0.. of group 0) with the words of its `Params`.
    pub fn dispatch(
        &mut self,
        device: &wgpu::Device,
        kernel: Kernel,
        parts: &[Part],
        params: &[u32],
        workgroups: [u32; 3],
    ) {
        if workgroups.contains(&0) {
            return;
        }
        self.prepare(device, kernel);
        let access = kernel.access();
        let key = (access, parts.iter().map(|p| (p.raw.id, p.offset, p.size)).collect());
        let layout = &self.layouts[access];
        let group = self.groups.entry(key).or_insert_with(|| {
            let entries: Vec<_> = (0u32..)
                .zip(parts)
                .map(|(binding, p)| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &p.raw.buffer,
                        offset: p.offset,
                        size: wgpu::BufferSize::new(p.size),
                    }),
                })
                .collect();
            device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some(kernel.label()),
                layout,
                entries: &entries,
            })
        });
        let group = group.clone();
        self.touched.extend(parts.iter().map(|p| p.raw.id));
        let stride = WINDOW.max(device.limits().min_uniform_buffer_offset_alignment as u64) as usize;
        let at = self.params.len();
        self.params.extend_from_slice(bytemuck::cast_slice(params));
        self.params.resize(at + stride, 0);
        self.commands.push(Command::Dispatch { kernel, group, params: at as u32, workgroups });
    }

    /// Compiles `kernel` if it is new.
    pub fn prepare(&mut self, device: &wgpu::Device, kernel: Kernel) {
        if self.pipelines.contains_key(&kernel) {
            return;
        }
        let entry = |binding, ty, has_dynamic_offset| wgpu::BindGroupLayoutEntry {
            binding,
            visibility: wgpu::ShaderStages::COMPUTE,
            ty: wgpu::BindingType::Buffer { ty, has_dynamic_offset, min_binding_size: None },
            count: None,
        };
        let access = kernel.access();
        let storage = self.layouts.entry(access).or_insert_with(|| {
            let entries: Vec<_> = (0u32..)
                .zip(access)
                .map(|(i, write)| entry(i, wgpu::BufferBindingType::Storage { read_only: !write }, false))
                .collect();
            device
                .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor { label: None, entries: &entries })
        });
        let uniform = self.uniform_layout.get_or_insert_with(|| {
            device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: Some("params"),
                entries: &[entry(0, wgpu::BufferBindingType::Uniform, true)],
            })
        });
        let layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.label()),
            bind_group_layouts: &[Some(storage), Some(uniform)],
            immediate_size: 0,
        });
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.label()),
            source: wgpu::ShaderSource::Wgsl(kernel.source().into()),
        });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.label()),
            layout: Some(&layout),
            module: &module,
            entry_point: Some("main"),
            // every shader writes its workgroup memory before it reads it, except the attention's one flag
            compilation_options: wgpu::PipelineCompilationOptions {
                zero_initialize_workgroup_memory: matches!(kernel, Kernel::Attention { .. }),
                ..Default::default()
            },
            cache: None,
        });
        self.pipelines.insert(kernel, pipeline);
    }

    /// Submits everything recorded as one command buffer.
    pub fn submit(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) {
        if self.commands.is_empty() {
            return;
        }
        if !self.params.is_empty() {
            self.upload(device, queue);
        }
        let mut encoder = device.create_command_encoder(&Default::default());
        let dispatches = |c: &Command| matches!(c, Command::Dispatch { .. });
        for run in self.commands.chunk_by(|a, b| dispatches(a) && dispatches(b)) {
            if let [Command::Copy { src, src_at, dst, dst_at, size }] = run {
                encoder.copy_buffer_to_buffer(src, *src_at, dst, *dst_at, *size);
                continue;
            }
            let mut pass = encoder.begin_compute_pass(&Default::default());
            let mut current = None;
            for command in run {
                let Command::Dispatch { kernel, group, params, workgroups: [x, y, z] } = command else {
                    continue;
                };
                if current != Some(*kernel) {
                    pass.set_pipeline(&self.pipelines[kernel]);
                    current = Some(*kernel);
                }
                pass.set_bind_group(0, group, &[]);
                if let Some((_, uniform)) = &self.uniform {
                    pass.set_bind_group(1, uniform, &[*params]);
                }
                pass.dispatch_workgroups(*x, *y, *z);
            }
        }
        queue.submit([encoder.finish()]);
        self.clear();
    }

    /// Forgets what was recorded.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.params.clear();
        self.touched.clear();
    }

    /// Drops the bind groups of buffers that no longer exist.
    pub fn purge(&mut self, dead: &HashSet<u64>) {
        self.groups.retain(|(_, parts), _| !parts.iter().any(|(id, ..)| dead.contains(id)));
    }

    fn upload(&mut self, device: &wgpu::Device, queue: &wgpu::Queue) {
        let need = self.params.len() as u64;
        if self.uniform.as_ref().is_none_or(|(b, _)| b.size() < need) {
            let buffer = device.create_buffer(&wgpu::BufferDescriptor {
                label: Some("params"),
                size: need.next_power_of_two().max(64 * ALIGN),
                usage: wgpu::BufferUsages::UNIFORM | wgpu::BufferUsages::COPY_DST,
                mapped_at_creation: false,
            });
            let Some(layout) = &self.uniform_layout else { return };
            let group = device.create_bind_group(&wgpu::BindGroupDescriptor {
                label: Some("params"),
                layout,
                entries: &[wgpu::BindGroupEntry {
                    binding: 0,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &buffer,
                        offset: 0,
                        size: wgpu::BufferSize::new(WINDOW),
                    }),
                }],
            });
            if let Some((old, _)) = self.uniform.replace((buffer, group)) {
                old.destroy();
            }
        }
        if let Some((buffer, _)) = &self.uniform {
            queue.write_buffer(buffer, 0, &self.params);
        }
    }
}

/// The rule as the attention shader's parameters read it: base, windowed, window, step (of the shadow: ahead), stream, always, seed (2),
/// threshold (2).
pub(super) type RuleWords = [u32; 10];

pub(super) fn rule_words(rule: MaskRule) -> RuleWords {
    let mut w = [0; 10];
    if let Some(window) = rule.window {
        (w[1], w[2]) = (1, window);
    }
    w[0] = match rule.base {
        Base::Bidirectional => 0,
        Base::Causal => 1,
        Base::BlockCausal => 2,
        Base::BlockDiffusion { causal_clean: false } => 3,
        Base::BlockDiffusion { causal_clean: true } => 4,
        Base::ComplementaryViews => 5,
        Base::Shadow { blocks, ahead } => {
            w[3] = ahead;
            7 + blocks as u32
        }
        Base::Annealed { r, seed, step } => {
            // a draw is an integer below 2^53: draw 2^-53 < r exactly if draw < ceil(r 2^53)
            let limit = (r as f64 * (1u64 << 53) as f64).ceil() as u64;
            w[3..].copy_from_slice(&[
                step,
                (Stream::Anneal as u32) << 24,
                (limit >= 1 << 53) as u32,
                seed as u32,
                (seed >> 32) as u32,
                (limit >> 21) as u32,
                (limit & 0x1f_ffff) as u32,
            ]);
            6
        }
    };
    w
}
