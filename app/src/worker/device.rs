//! The device that computes: WebGPU where the browser has an adapter, else WebAssembly on the worker's own thread; or the
//! server.

use std::sync::Arc;

use hilda_engine::decode::{ForwardRequest, RowStats};
#[cfg(feature = "web")]
use hilda_engine::model::Parameters;
use hilda_engine::model::session::{Session, Weights};
use hilda_engine::model::{Arithmetic, LoadedModel, SessionError, page};
use hilda_kernels::Cpu;
#[cfg(feature = "web")]
use hilda_kernels::backend::web::{Web, WebError};

use super::Backend;
use super::remote::{Remote, RemoteError};

/// A forward that failed.
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error(transparent)]
    Session(#[from] SessionError),
    #[cfg(feature = "web")]
    #[error("WebGPU: {0}")]
    Web(#[from] WebError),
    #[error(transparent)]
    Server(#[from] RemoteError),
    #[error("this browser offers no WebGPU")]
    NoWebGpu,
    #[cfg(feature = "web")]
    #[error("WebGPU holds buffers of up to {} MB here, the weights have {}", limit / 1_000_000, bytes / 1_000_000)]
    TooLarge { bytes: u64, limit: u64 },
}

impl DeviceError {
    /// Whether the device is at fault, and not what it was asked: another device can answer.
    pub fn is_of_device(&self) -> bool {
        match self {
            #[cfg(feature = "web")]
            DeviceError::Web(WebError::Shape { .. }) => false,
            #[cfg(feature = "web")]
            DeviceError::Web(_) => true,
            #[cfg(feature = "web")]
            DeviceError::TooLarge { .. } => false,
            DeviceError::Session(_) | DeviceError::NoWebGpu | DeviceError::Server(_) => false,
        }
    }

    /// Whether the device only lost what it kept of the text.
    pub fn is_forgetful(&self) -> bool {
        matches!(self, DeviceError::Server(RemoteError::Forgotten))
    }
}

/// A session on whichever device was chosen.
#[allow(clippy::large_enum_variant)] // a worker holds one
pub enum Device {
    Cpu(Session<Cpu>),
    Server(Remote),
    #[cfg(feature = "web")]
    Web(Web, Session<Web>),
}

/// What opening a device said.
pub struct Opened {
    pub device: Device,
    /// as the page shows it
    pub name: String,
    /// why it is not WebGPU, where a visitor may wonder
    pub note: Option<String>,
    /// "wasm", "webgpu"
    pub backend: &'static str,
    /// numbers of its products; the server has not said yet
    pub arithmetic: Option<Arithmetic>,
}

impl Device {
    /// Uploads `model`. With [`Backend::Auto`], WebGPU is used unless the only adapter is a software one, which is
    /// slower than WebAssembly.
    pub async fn open(model: LoadedModel, want: Backend) -> Result<Opened, DeviceError> {
        let mut note = None;
        if want == Backend::WasmInt8 {
            return Ok(Device::wasm(model, Some(Arithmetic::Int8)));
        }
        if want != Backend::Wasm {
            match Device::web(&model, want).await {
                Ok(opened) => return Ok(opened),
                Err(error) if want == Backend::Webgpu => return Err(error),
                Err(error) => note = Some(error.to_string()),
            }
        }
        let asked = (want == Backend::Wasm).then_some(Arithmetic::F32);
        Ok(Opened { note, ..Device::wasm(model, asked) })
    }

    /// WebAssembly on this thread, which is always there. A model that came in int8 is computed in integers, unless other
    /// numbers were asked for.
    pub fn wasm(model: LoadedModel, asked: Option<Arithmetic>) -> Opened {
        let context = page::context(&model.config);
        let weights = Arc::new(match asked {
            Some(arithmetic) => Weights::of_computing(model, arithmetic),
            None => Weights::of_shipped(model),
        });
        let arithmetic = weights.arithmetic();
        let device = Device::Cpu(Session::new(&Cpu, weights, context));
        let simd = if relaxed() { "WASM relaxed SIMD" } else { "WASM SIMD" };
        let numbers = if arithmetic == Arithmetic::Int8 { ", int8 weights" } else { "" };
        let name = format!("{simd}{numbers}, one thread");
        Opened { device, name, note: None, backend: "wasm", arithmetic: Some(arithmetic) }
    }

    /// The server at `site`, which calls the model `id`; nothing is asked of it yet.
    pub fn server(site: String, id: String, token: Option<String>) -> Opened {
        let device = Device::Server(Remote::new(site, id, token));
        let name = "the server's processor".into();
        Opened { device, name, note: None, backend: "server", arithmetic: None }
    }

    #[cfg(not(feature = "web"))]
    async fn web(_: &LoadedModel, _: Backend) -> Result<Opened, DeviceError> {
        Err(DeviceError::NoWebGpu)
    }

    #[cfg(feature = "web")]
    async fn web(model: &LoadedModel, want: Backend) -> Result<Opened, DeviceError> {
        if !has_webgpu() {
            return Err(DeviceError::NoWebGpu);
        }
        let web = Web::new().await?;
        let info = web.info();
        if info.software && want == Backend::Auto {
            return Err(DeviceError::NoWebGpu);
        }
        let parameters = Parameters::new(&web, model);
        for (bytes, limit) in parameters.bytes().into_iter().zip([info.max_buffer, info.max_binding]) {
            if bytes as u64 > limit {
                return Err(DeviceError::TooLarge { bytes: bytes as u64, limit });
            }
        }
        let adapter = if info.name.is_empty() { "adapter not named" } else { info.name.as_str() };
        let software = if info.software { ", software" } else { "" };
        let name = format!("WebGPU ({adapter}{software})");
        #[allow(clippy::arc_with_non_send_sync)] // sessions of every back end share weights by Arc
        let weights = Arc::new(Weights::upload(&web, parameters));
        let session = Session::new(&web, weights, page::context(&model.config));
        let device = Device::Web(web, session);
        Ok(Opened { device, name, note: None, backend: "webgpu", arithmetic: Some(Arithmetic::F32) })
    }

    /// Another text begins.
    pub fn forget(&mut self) {
        match self {
            Device::Cpu(session) => session.forget(),
            Device::Server(remote) => remote.forget(),
            #[cfg(feature = "web")]
            Device::Web(_, session) => session.forget(),
        }
    }

    /// Runs one forward.
    pub async fn answer(&mut self, request: &ForwardRequest) -> Result<RowStats, DeviceError> {
        match self {
            Device::Cpu(session) => Ok(session.answer(request)?),
            Device::Server(remote) => Ok(remote.answer(request).await?),
            #[cfg(feature = "web")]
            Device::Web(web, session) => {
                let pending = session.forward(web, request)?;
                let values = web.read(session.stats(), 0, pending.len()).await?;
                Ok(RowStats { held: Some(session.held()), ..pending.decode(&values) })
            }
        }
    }
}

/// Whether this worker runs the module with relaxed SIMD: the page says so in the address of the script (`boot.js`).
fn relaxed() -> bool {
    let location = js_sys::Reflect::get(&js_sys::global(), &"location".into());
    let hash = location.and_then(|l| js_sys::Reflect::get(&l, &"hash".into()));
    hash.is_ok_and(|hash| hash.as_string().as_deref() == Some("#relaxed"))
}

/// Whether `navigator.gpu` exists in this worker.
#[cfg(feature = "web")]
fn has_webgpu() -> bool {
    let navigator = js_sys::Reflect::get(&js_sys::global(), &"navigator".into());
    let gpu = navigator.and_then(|n| js_sys::Reflect::get(&n, &"gpu".into()));
    gpu.is_ok_and(|gpu| !gpu.is_undefined() && !gpu.is_null())
}
