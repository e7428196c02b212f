//! The device of the tests: kernels compiled by the machine's C++ compiler with `shim.h`, every thread a fiber.
//!
//! A file of kernels becomes one shared library beside the test program, named by the hash of its text, so that a
//! second run compiles nothing. The compiler runs here and not in a build script: building HILDA needs none.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::kernels::{HEADER, SOURCES, Source};
use super::{Arg, CudaError, Device, Launch};

/// Words of NaN before and after every allocation.
const GUARD: usize = 64;
const POISON: u32 = u32::MAX;

type Run = unsafe extern "C" fn(*mut *mut c_void);
type Start = unsafe extern "C" fn(Run, *mut *mut c_void, *const c_uint, c_uint, c_int) -> *const c_char;

/// A compiled file of kernels; one launch at a time.
pub(super) struct Library {
    library: libloading::Library,
    turn: Mutex<()>,
}

/// Allocations are words, so that their guards are too.
pub(super) struct Shim {
    libraries: HashMap<&'static str, Arc<Library>>,
    memory: Mutex<HashMap<u64, Allocation>>,
    pub launches: AtomicU64,
    pub allocations: AtomicU64,
}

struct Allocation {
    words: Vec<u32>,
    /// index of the first word of the allocation, which lies at a multiple of 256 bytes
    first: usize,
    bytes: usize,
}

impl Allocation {
    fn new(bytes: usize) -> Allocation {
        let words = vec![POISON; bytes.div_ceil(4) + 2 * GUARD + 64];
        let misplaced = (words.as_ptr() as usize / 4 + GUARD) % 64;
        Allocation { first: GUARD + (64 - misplaced) % 64, words, bytes }
    }
    fn address(&self) -> u64 {
        self.words[self.first..].as_ptr() as u64
    }
    fn intact(&self) -> bool {
        let end = self.first + self.bytes.div_ceil(4);
        self.words[..self.first].iter().chain(&self.words[end..]).all(|w| *w == POISON)
    }
}

/// Why there is no shim on this machine.
pub(super) fn compiler() -> Result<String, String> {
    static FOUND: OnceLock<Result<String, String>> = OnceLock::new();
    FOUND
        .get_or_init(|| {
            if !cfg!(target_arch = "x86_64") {
                return Err("the fiber shim switches contexts on x86-64 only".into());
            }
            let chosen = std::env::var("CXX").ok();
            let names = chosen.as_deref().map_or(vec!["c++", "g++", "clang++"], |c| vec![c]);
            let works =
                |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
            names.iter().find(|n| works(n)).map(|n| n.to_string()).ok_or("no C++ compiler on PATH".into())
        })
        .clone()
}

/// FNV-1a
fn hash(parts: &[&str]) -> u64 {
    let bytes = parts.iter().flat_map(|p| p.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

/// Compiles the text of a file of kernels.
pub(super) fn compile(name: &str, cuda: &str, kernels: &[&str]) -> Result<Arc<Library>, String> {
    const FLAGS: &[&str] =
        &["-std=c++17", "-O1", "-shared", "-fPIC", "-fvisibility=hidden", "-Wno-unknown-pragmas"];
    let compiler = compiler()?;
    let mut text = format!("#line 1 \"{name}.cu\"\n{cuda}\nSHIM_LIBRARY\n");
    kernels.iter().for_each(|k| text.push_str(&format!("SHIM_KERNEL({k})\n")));
    let shim = include_str!("shim.h");
    let key = hash(&[&text, HEADER, shim, &compiler, &FLAGS.join(" ")]);
    let beside = std::env::current_exe().map_err(|e| e.to_string())?;
    let folder = beside.parent().expect("a program lies in a folder").join("cuda-shim");
    let library = folder.join(format!("{name}-{key:016x}.so"));
    if !library.exists() {
        // several test programs may get here at once: each writes a folder of its own and moves the result
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let own = folder.join(format!("{name}-{key:016x}-{}-{count}", std::process::id()));
        let write = |file: &str, text: &str| std::fs::write(own.join(file), text).map_err(|e| e.to_string());
        std::fs::create_dir_all(&own).map_err(|e| e.to_string())?;
        write("kernel.cpp", &text)?;
        write("cuda.cuh", HEADER)?;
        write("shim.h", shim)?;
        let out = own.join("kernel.so");
        let made =
            Command::new(&compiler).args(FLAGS).arg("-o").arg(&out).arg(own.join("kernel.cpp")).output();
        let made = made.map_err(|e| e.to_string())?;
        assert!(made.status.success(), "{name}.cu: {}", String::from_utf8_lossy(&made.stderr));
        std::fs::rename(&out, &library).map_err(|e| e.to_string())?;
        let _ = std::fs::remove_dir_all(&own);
    }
    open(library)
}

/// The library at `path`. The loader maps a file once however often it is opened, so it has one turn too.
fn open(path: PathBuf) -> Result<Arc<Library>, String> {
    static OPEN: Mutex<BTreeMap<PathBuf, Arc<Library>>> = Mutex::new(BTreeMap::new());
    let mut opened = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(library) = opened.get(&path) {
        return Ok(library.clone());
    }
    // SAFETY: the library is ours and has no initialisers.
    let library =
        unsafe { libloading::Library::new(&path) }.map_err(|e| format!("{}: {e}", path.display()))?;
    let library = Arc::new(Library { library, turn: Mutex::default() });
    opened.insert(path, library.clone());
    Ok(library)
}

impl Shim {
    /// With every kernel as it is.
    pub fn new() -> Result<Shim, String> {
        static LIBRARIES: OnceLock<Result<HashMap<&'static str, Arc<Library>>, String>> = OnceLock::new();
        let made = LIBRARIES.get_or_init(|| {
            let build = |s: &Source| compile(s.name, s.cuda, s.kernels);
            let made = crate::par::map(SOURCES.len(), |i| build(&SOURCES[i]));
            let mut libraries = HashMap::new();
            for (source, library) in SOURCES.iter().zip(made) {
                let library = library?;
                libraries.extend(source.kernels.iter().map(|k| (*k, library.clone())));
            }
            Ok(libraries)
        });
        Ok(Shim {
            libraries: made.clone()?,
            memory: Mutex::default(),
            launches: AtomicU64::new(0),
            allocations: AtomicU64::new(0),
        })
    }

    /// With one file of kernels replaced by another text.
    pub fn with(name: &'static str, cuda: &str, kernels: &[&'static str]) -> Result<Shim, String> {
        let mut shim = Shim::new()?;
        let library = compile(name, cuda, kernels)?;
        shim.libraries.extend(kernels.iter().map(|k| (*k, library.clone())));
        Ok(shim)
    }

    fn check(&self, at: u64) {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let broken = memory.values().filter(|a| !a.intact()).count();
        // during a panic a second one would hide the first
        assert!(
            broken == 0 || std::thread::panicking(),
            "a kernel wrote outside its memory (checked at {at:#x})"
        );
    }
}

impl Device for Shim {
    fn allocate(&self, bytes: usize) -> Result<u64, CudaError> {
        self.allocations.fetch_add(1, Ordering::Relaxed);
        let a = Allocation::new(bytes);
        let at = a.address();
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).insert(at, a);
        Ok(at)
    }
    fn free(&self, at: u64) {
        self.check(at);
        self.memory.lock().unwrap_or_else(PoisonError::into_inner).remove(&at);
    }
    /// Exact, so that the guards stand right behind the values.
    fn class(&self, bytes: usize) -> usize {
        bytes
    }
    fn zero(&self, at: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: the back end checks ranges against its buffers.
        unsafe { std::ptr::write_bytes(at as *mut u8, 0, bytes) };
        Ok(())
    }
    fn upload(&self, at: u64, data: &[u8]) -> Result<(), CudaError> {
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(data.as_ptr(), at as *mut u8, data.len()) };
        Ok(())
    }
    fn download(&self, at: u64, data: &mut [u8]) -> Result<(), CudaError> {
        self.check(at);
        // SAFETY: as above.
        unsafe { std::ptr::copy_nonoverlapping(at as *const u8, data.as_mut_ptr(), data.len()) };
        Ok(())
    }
    fn copy(&self, from: u64, to: u64, bytes: usize) -> Result<(), CudaError> {
        // SAFETY: as above.
        unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        Ok(())
    }
    fn launch(&self, l: Launch) -> Result<(), CudaError> {
        // forwards or backwards in an order without a period, so that every kernel of a sequence meets both
        let reverse = self.launches.fetch_add(1, Ordering::Relaxed).count_ones() % 2;
        let library = &self.libraries[l.kernel];
        let letters: String = l.args.iter().map(letter).collect();
        let mut pointers: Vec<*mut c_void> = l.args.iter().map(Arg::address).collect();
        let shape = [l.grid[0], l.grid[1], l.grid[2], l.threads];
        let _turn = library.turn.lock().unwrap_or_else(PoisonError::into_inner);
        // SAFETY: the library exports these for each of its kernels; the arguments' kinds are compared first.
        let error = unsafe {
            let symbol = |prefix: &str| format!("{prefix}_{}", l.kernel);
            let signature: libloading::Symbol<unsafe extern "C" fn() -> *const c_char> =
                library.library.get(symbol("signature").as_bytes()).expect("a kernel of the library");
            let want = CStr::from_ptr(signature()).to_string_lossy();
            assert_eq!(letters, want, "{}: kinds of the arguments", l.kernel);
            let run: libloading::Symbol<Run> =
                library.library.get(symbol("run").as_bytes()).expect("a kernel of the library");
            let start: libloading::Symbol<Start> =
                library.library.get("shim_launch").expect("a library of kernels");
            let error = start(*run, pointers.as_mut_ptr(), shape.as_ptr(), l.shared, reverse as c_int);
            (!error.is_null()).then(|| CStr::from_ptr(error).to_string_lossy().into_owned())
        };
        error.map_or(Ok(()), |code| Err(CudaError::Driver { what: l.kernel.into(), code }))
    }
    /// Few, so that small shapes already need grid-stride loops and several blocks.
    fn multiprocessors(&self) -> usize {
        2
    }
}

fn letter(a: &Arg) -> char {
    match a {
        Arg::Pointer(_) => 'p',
        Arg::Int(_) => 'i',
        Arg::Word(_) => 'u',
        Arg::Float(_) => 'f',
    }
}
