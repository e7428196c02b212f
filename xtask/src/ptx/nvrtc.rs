//! NVRTC by hand: the seven functions that turn CUDA C++ into PTX, from a shared library opened at run time, so that
//! xtask keeps having no dependencies.

use std::ffi::{CStr, CString, c_char, c_int, c_ulong, c_void};
use std::path::Path;
use std::process::{Command, ExitCode};

use crate::shell::{self, Result};

unsafe extern "C" {
    fn dlopen(file: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlerror() -> *const c_char;
    fn personality(flags: c_ulong) -> c_int;
}
const ADDR_NO_RANDOMIZE: c_ulong = 0x0004_0000;
const ONLY_ASK: c_ulong = 0xffff_ffff;
const RTLD_NOW: c_int = 2;
const RTLD_GLOBAL: c_int = 0x100;

type Program = *mut c_void;
type Create = unsafe extern "C" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> c_int;
type Size = unsafe extern "C" fn(Program, *mut usize) -> c_int;
type Text = unsafe extern "C" fn(Program, *mut c_char) -> c_int;
type Destroy = unsafe extern "C" fn(*mut Program) -> c_int;

/// The open library.
pub struct Nvrtc {
    create: Create,
    compile: Compile,
    log: (Size, Text),
    ptx: (Size, Text),
    destroy: Destroy,
}

/// Starts this program again without address randomisation and returns its exit code; `None` if it runs so already.
/// The compiler orders some instructions by the addresses of its own objects: without this, two runs may differ.
pub fn at_fixed_addresses() -> Result<Option<ExitCode>> {
    // SAFETY: asks and sets a flag of this process that counts at the next `exec`.
    let fixed = unsafe {
        let now = personality(ONLY_ASK);
        // where that is forbidden (some containers) the kernels are compiled as they come
        now < 0
            || now as c_ulong & ADDR_NO_RANDOMIZE != 0
            || personality(now as c_ulong | ADDR_NO_RANDOMIZE) < 0
    };
    if fixed {
        return Ok(None);
    }
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args().skip(1));
    shell::become_program(again).map(Some)
}

fn open(path: &Path) -> Result<*mut c_void> {
    let name = CString::new(path.to_string_lossy().as_bytes())?;
    // SAFETY: the name ends with a zero; the library stays open until the program ends.
    let library = unsafe { dlopen(name.as_ptr(), RTLD_NOW | RTLD_GLOBAL) };
    if library.is_null() {
        // SAFETY: the text is the error of the call above.
        return Err(unsafe { CStr::from_ptr(dlerror()) }.to_string_lossy().into());
    }
    Ok(library)
}

impl Nvrtc {
    /// Opens `libnvrtc.so.12` of `folder`. Its built-in headers are opened first: it looks for them by name alone.
    pub fn new(folder: &Path) -> Result<Nvrtc> {
        open(&folder.join("libnvrtc-builtins.so.12.9"))?;
        let library = open(&folder.join("libnvrtc.so.12"))?;
        let find = |name: &str| -> Result<*mut c_void> {
            let c = CString::new(name)?;
            // SAFETY: the library is open.
            let at = unsafe { dlsym(library, c.as_ptr()) };
            if at.is_null() { Err(format!("libnvrtc has no {name}").into()) } else { Ok(at) }
        };
        // SAFETY: the types are those of nvrtc.h.
        unsafe {
            Ok(Nvrtc {
                create: std::mem::transmute::<*mut c_void, Create>(find("nvrtcCreateProgram")?),
                compile: std::mem::transmute::<*mut c_void, Compile>(find("nvrtcCompileProgram")?),
                log: (
                    std::mem::transmute::<*mut c_void, Size>(find("nvrtcGetProgramLogSize")?),
                    std::mem::transmute::<*mut c_void, Text>(find("nvrtcGetProgramLog")?),
                ),
                ptx: (
                    std::mem::transmute::<*mut c_void, Size>(find("nvrtcGetPTXSize")?),
                    std::mem::transmute::<*mut c_void, Text>(find("nvrtcGetPTX")?),
                ),
                destroy: std::mem::transmute::<*mut c_void, Destroy>(find("nvrtcDestroyProgram")?),
            })
        }
    }

    /// PTX of `source`, which may include `header` under its name.
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        header: (&str, &str),
        options: &[&str],
    ) -> Result<String> {
        let (name_c, source) = (CString::new(name)?, CString::new(source)?);
        let (include, text) = (CString::new(header.0)?, CString::new(header.1)?);
        let options = options.iter().map(|o| CString::new(*o)).collect::<std::result::Result<Vec<_>, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|o| o.as_ptr()).collect();
        let mut program: Program = std::ptr::null_mut();
        // SAFETY: every text ends with a zero and outlives the program; sizes come from the library.
        unsafe {
            let (headers, includes) = ([text.as_ptr()], [include.as_ptr()]);
            let code = (self.create)(
                &mut program,
                source.as_ptr(),
                name_c.as_ptr(),
                1,
                headers.as_ptr(),
                includes.as_ptr(),
            );
            if code != 0 {
                return Err(format!("{name}: nvrtcCreateProgram ended with {code}").into());
            }
            let code = (self.compile)(program, pointers.len() as c_int, pointers.as_ptr());
            let out = if code == 0 { text_of(program, self.ptx) } else { text_of(program, self.log) };
            (self.destroy)(&mut program);
            match code {
                0 => out,
                _ => Err(format!("{name}:\n{}", out?).into()),
            }
        }
    }
}

/// # Safety
/// `program` is one of the library that the functions come from.
unsafe fn text_of(program: Program, (size, text): (Size, Text)) -> Result<String> {
    let mut bytes = 0;
    // SAFETY: the buffer has the size that the library asks for.
    let buffer = unsafe {
        if size(program, &mut bytes) != 0 {
            return Err("NVRTC does not tell the size of its answer".into());
        }
        let mut buffer = vec![0u8; bytes];
        if text(program, buffer.as_mut_ptr().cast()) != 0 {
            return Err("NVRTC does not hand over its answer".into());
        }
        buffer
    };
    Ok(String::from_utf8(buffer)?.trim_end_matches('\0').to_string())
}
