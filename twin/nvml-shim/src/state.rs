//! Which board this copy of the library answers from, and NVML's reference
//! count of `nvmlInit` and `nvmlShutdown`.

use crate::board::{Board, FAULT_LOST, FAULT_SLOW, FaultFlags};
use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

/// NVML's return codes, as far as this library gives them.
pub mod code {
    #![allow(missing_docs, reason = "the names are NVML's own")]
    pub const SUCCESS: u32 = 0;
    pub const UNINITIALIZED: u32 = 1;
    pub const INVALID_ARGUMENT: u32 = 2;
    pub const NOT_SUPPORTED: u32 = 3;
    pub const NO_PERMISSION: u32 = 4;
    pub const NOT_FOUND: u32 = 6;
    pub const INSUFFICIENT_SIZE: u32 = 7;
    pub const DRIVER_NOT_LOADED: u32 = 9;
    pub const GPU_IS_LOST: u32 = 15;
    pub const ARGUMENT_VERSION_MISMATCH: u32 = 25;
    pub const UNKNOWN: u32 = 999;
}

struct State {
    initialised: u32,
    board: Option<Arc<Board>>,
}

static STATE: RwLock<State> = RwLock::new(State {
    initialised: 0,
    board: None,
});
/// Two sets at once must not lose a count.
static SETTING: Mutex<()> = Mutex::new(());

/// Handles are no pointers into memory: index plus this, so that a wild one is
/// recognised and never followed.
const HANDLE_BASE: usize = 0x4e56_4d4c_0000;

#[repr(C)]
struct DlInfo {
    file_name: *const c_char,
    file_base: *mut c_void,
    symbol_name: *const c_char,
    symbol_address: *mut c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
}

/// Where the board file is: `HELIOSTAT_BOARD`, else beside this library.
fn board_path() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("HELIOSTAT_BOARD").filter(|p| !p.is_empty()) {
        return Some(PathBuf::from(path));
    }
    let mut info = DlInfo {
        file_name: std::ptr::null(),
        file_base: std::ptr::null_mut(),
        symbol_name: std::ptr::null(),
        symbol_address: std::ptr::null_mut(),
    };
    let here: fn() -> Option<PathBuf> = board_path;
    // SAFETY: `info` outlives the call; the address is one of this library's functions.
    let found = unsafe { dladdr(here as *const c_void, &raw mut info) };
    if found == 0 || info.file_name.is_null() {
        return None;
    }
    // SAFETY: on success `file_name` is a C string that lives as long as this library.
    let name = unsafe { CStr::from_ptr(info.file_name) };
    let library = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    Some(library.parent()?.join("board.bin"))
}

/// One more user of the library. The board is opened by the first.
pub fn initialise() -> u32 {
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    if state.board.is_none() {
        let Some(path) = board_path() else {
            return code::UNKNOWN;
        };
        match Board::open(&path) {
            Ok(board) => state.board = Some(Arc::new(board)),
            Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
                return code::NO_PERMISSION;
            }
            // No board: as if no driver were there.
            Err(_) => return code::DRIVER_NOT_LOADED,
        }
    }
    state.initialised += 1;
    code::SUCCESS
}

/// One user less. The last one closes the board.
pub fn shut_down() -> u32 {
    let mut state = STATE.write().unwrap_or_else(PoisonError::into_inner);
    if state.initialised == 0 {
        return code::UNINITIALIZED;
    }
    state.initialised -= 1;
    if state.initialised == 0 {
        state.board = None;
    }
    code::SUCCESS
}

/// The board in use.
pub fn board() -> Result<Arc<Board>, u32> {
    let state = STATE.read().unwrap_or_else(PoisonError::into_inner);
    match &state.board {
        Some(board) if state.initialised > 0 => Ok(Arc::clone(board)),
        _ => Err(code::UNINITIALIZED),
    }
}

/// A device that a call speaks of.
pub struct Target {
    /// Its board.
    pub board: Arc<Board>,
    /// Its index on the board.
    pub index: usize,
    /// Its faults now.
    pub faults: FaultFlags,
}

/// The handle of a device.
pub fn handle(index: usize) -> *mut c_void {
    (HANDLE_BASE + index) as *mut c_void
}

/// The device of an index. A lost one is named as such, as the driver does.
pub fn target(index: usize) -> Result<Target, u32> {
    let board = board()?;
    if index >= board.facts().len() {
        return Err(code::INVALID_ARGUMENT);
    }
    let faults = board.faults(index).map_err(|_| code::UNKNOWN)?;
    if faults.bits & FAULT_SLOW != 0 {
        std::thread::sleep(std::time::Duration::from_millis(faults.delay_ms.into()));
    }
    if faults.bits & FAULT_LOST != 0 {
        return Err(code::GPU_IS_LOST);
    }
    Ok(Target {
        board,
        index,
        faults,
    })
}

/// The device behind a handle that came from outside.
pub fn target_of(handle: *mut c_void) -> Result<Target, u32> {
    // An uninitialised library says so whatever the handle is.
    board()?;
    let index = (handle as usize)
        .checked_sub(HANDLE_BASE)
        .ok_or(code::INVALID_ARGUMENT)?;
    target(index)
}

impl Target {
    /// Refuses when a fault bit is set.
    pub fn unless(&self, fault: u32, refusal: u32) -> Result<(), u32> {
        if self.faults.bits & fault == 0 {
            Ok(())
        } else {
            Err(refusal)
        }
    }

    /// Sets the limit, one caller at a time.
    pub fn set_limit(&self, limit_mw: u32) -> Result<(), u32> {
        let _one = SETTING.lock().unwrap_or_else(PoisonError::into_inner);
        self.board
            .set_limit(self.index, limit_mw)
            .map_err(|_| code::UNKNOWN)
    }
}
