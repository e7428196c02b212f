//! The device: buffers, submission, reading back.

use super::buffer::{ALIGN, Graveyard, Raw, WebBuf};
use super::error::{Failure, WebError};
use super::record::Recorder;
use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

/// Which GPU does the work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdapterInfo {
    /// as the driver or browser calls it; browsers may give an empty name
    pub name: String,
    /// "vulkan", "browser-webgpu", ...
    pub api: String,
    /// computed by the CPU (lavapipe, SwiftShader)
    pub software: bool,
    /// bytes of the largest buffer
    pub max_buffer: u64,
    /// bytes of the largest tensor a shader can see
    pub max_binding: u64,
}

/// A WebGPU device and what is recorded for it. Not shared between threads.
pub struct Web {
    pub(super) device: wgpu::Device,
    queue: wgpu::Queue,
    info: AdapterInfo,
    pub(super) failure: Failure,
    pub(super) recorder: RefCell<Recorder>,
    graveyard: Graveyard,
    names: Cell<u64>,
    /// buffers for reading back that are free now
    staging: RefCell<Vec<wgpu::Buffer>>,
    pub(super) tables: RefCell<Tables>,
}

/// Small tables the shaders need, made once.
#[derive(Default)]
pub(super) struct Tables {
    /// turns a position of every pair, by (theta bits, head_dim)
    pub turns: HashMap<(u32, usize), Raw>,
    /// one bit a forbidden id, by (vocabulary, ids)
    pub forbidden: HashMap<(usize, Vec<u32>), Raw>,
    /// the head's partial states
    pub states: Option<Raw>,
}

impl Web {
    /// The most powerful adapter of this browser or machine.
    ///
    /// # Errors
    /// [`WebError::NoAdapter`] and [`WebError::NoDevice`].
    pub async fn new() -> Result<Web, WebError> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
        let adapter = instance
            .request_adapter(&wgpu::RequestAdapterOptions {
                power_preference: wgpu::PowerPreference::HighPerformance,
                ..Default::default()
            })
            .await
            // what follows the first clause lists back ends that no page has
            .map_err(|e| WebError::NoAdapter(e.to_string().split(';').next().unwrap_or_default().into()))?;
        let limits = adapter.limits();
        let (device, queue) = adapter
            .request_device(&wgpu::DeviceDescriptor { required_limits: limits.clone(), ..Default::default() })
            .await
            .map_err(|e| WebError::NoDevice(e.to_string()))?;
        let found = adapter.get_info();
        let failure = Failure::default();
        let sink = failure.clone();
        device.on_uncaptured_error(Arc::new(move |e: wgpu::Error| sink.set(e.into())));
        let sink = failure.clone();
        device.set_device_lost_callback(move |reason, message| {
            sink.set(WebError::Lost(format!("{reason:?} {message}").trim().to_string()));
        });
        Ok(Web {
            info: AdapterInfo {
                name: found.name,
                api: found.backend.to_str().to_string(),
                software: found.device_type == wgpu::DeviceType::Cpu,
                max_buffer: limits.max_buffer_size,
                max_binding: limits.max_storage_buffer_binding_size,
            },
            device,
            queue,
            failure,
            recorder: Default::default(),
            graveyard: Default::default(),
            names: Cell::new(0),
            staging: Default::default(),
            tables: Default::default(),
        })
    }

    /// Which GPU does the work.
    pub fn info(&self) -> &AdapterInfo {
        &self.info
    }

    /// Hands everything recorded to the GPU, without waiting for it.
    ///
    /// # Errors
    /// The first failure since the last report. In the browser, failures of the device arrive a moment later
    /// and come out of the next call.
    pub fn submit(&self) -> Result<(), WebError> {
        self.flush();
        self.failure.take()
    }

    /// `len` values of `src` from `offset` on, after everything recorded so far.
    ///
    /// # Errors
    /// [`WebError::Shape`] outside the buffer, [`WebError::Map`], and the first failure since the last report.
    pub async fn read(&self, src: &WebBuf, offset: usize, len: usize) -> Result<Vec<f32>, WebError> {
        if offset.checked_add(len).is_none_or(|end| end > src.len) {
            let what = format!("{len} values from {offset} of a buffer of {}", src.len);
            return Err(WebError::Shape { op: "read", what });
        }
        if len == 0 || self.failure.is_lost() {
            self.flush();
            return self.failure.take().map(|()| Vec::new());
        }
        let size = 4 * len as u64;
        let staging = self.staging_for(size);
        self.recorder.borrow_mut().copy_out(&src.raw, 4 * offset as u64, &staging, size);
        self.flush();
        let (send, receive) = futures_channel::oneshot::channel();
        staging.map_async(wgpu::MapMode::Read, ..size, move |r| {
            // a reader that was dropped no longer waits
            send.send(r).ok();
        });
        #[cfg(not(target_arch = "wasm32"))]
        if let Err(e) = self.device.poll(wgpu::PollType::wait_indefinitely()) {
            self.failure.set(WebError::Map(e.to_string()));
        }
        let mapped = receive.await.map_err(|_| WebError::Map("the device went away".into())).and_then(|r| {
            r.map_err(|e| WebError::Map(e.to_string()))?;
            let view = staging.get_mapped_range(..size).map_err(|e| WebError::Map(e.to_string()))?;
            Ok(bytemuck::pod_collect_to_vec::<u8, f32>(&view))
        });
        if mapped.is_ok() {
            staging.unmap();
            self.staging.borrow_mut().push(staging);
        }
        self.failure.take()?;
        mapped
    }

    /// A zeroed buffer of at least `bytes`.
    pub(super) fn allocate(&self, bytes: u64) -> Raw {
        let id = self.names.get();
        self.names.set(id + 1);
        let buffer = self.device.create_buffer(&wgpu::BufferDescriptor {
            label: None,
            size: bytes.max(1).next_multiple_of(ALIGN),
            usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        });
        Raw { id, buffer, graveyard: self.graveyard.clone() }
    }

    /// Writes at once; what is recorded and uses `dst` is submitted first.
    pub(super) fn upload(&self, dst: &Raw, at: u64, data: &[u8]) {
        if data.is_empty() || self.failure.is_lost() {
            return;
        }
        if self.recorder.borrow().uses(dst) {
            self.flush();
        }
        self.queue.write_buffer(&dst.buffer, at, data);
    }

    pub(super) fn flush(&self) {
        let mut recorder = self.recorder.borrow_mut();
        if self.failure.is_lost() {
            recorder.clear();
        }
        if !recorder.is_empty() {
            recorder.submit(&self.device, &self.queue);
        }
        let dropped = std::mem::take(&mut *self.graveyard.borrow_mut());
        if !dropped.is_empty() {
            recorder.purge(&dropped.iter().map(|(id, _)| *id).collect::<HashSet<_>>());
            dropped.iter().for_each(|(_, buffer)| buffer.destroy());
        }
    }

    /// A free buffer for reading `size` bytes back, or a new one.
    fn staging_for(&self, size: u64) -> wgpu::Buffer {
        let mut free = self.staging.borrow_mut();
        if let Some(i) = free.iter().position(|b| b.size() >= size) {
            return free.swap_remove(i);
        }
        // the ones that have become too small go
        free.drain(..).for_each(|b| b.destroy());
        self.device.create_buffer(&wgpu::BufferDescriptor {
            label: Some("read"),
            size: size.next_power_of_two().max(ALIGN),
            usage: wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            mapped_at_creation: false,
        })
    }
}
