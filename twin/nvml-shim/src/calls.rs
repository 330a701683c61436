//! The C functions, by NVML's names.
//!
//! Every function checks its pointers and lengths, and writes nothing unless
//! it returns `SUCCESS`.

use crate::board::{
    FAULT_NO_ENERGY, FAULT_NO_LIMITS, FAULT_NO_PERMISSION, FAULT_NO_POWER, Facts, Limit, Readings,
};
use crate::state::{self, Target, code};
use std::ffi::{CStr, c_char, c_int, c_uint, c_ulonglong, c_void};

/// An opaque device, as NVML's `nvmlDevice_t`.
pub type Device = *mut c_void;

/// `nvmlUtilization_t`, per cent.
#[repr(C)]
pub struct Utilization {
    gpu: c_uint,
    memory: c_uint,
}

/// `nvmlMemory_t`, bytes.
#[repr(C)]
pub struct Memory {
    total: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlMemory_v2_t`, bytes.
#[repr(C)]
pub struct MemoryV2 {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlPciInfo_t`.
#[repr(C)]
pub struct PciInfo {
    bus_id_legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    pci_device_id: c_uint,
    pci_sub_system_id: c_uint,
    bus_id: [c_char; 32],
}

fn answer(outcome: Result<(), u32>) -> c_uint {
    outcome.err().unwrap_or(code::SUCCESS)
}

/// Writes through a pointer from outside.
fn put<T>(place: *mut T, value: T) -> Result<(), u32> {
    if place.is_null() || !place.is_aligned() {
        return Err(code::INVALID_ARGUMENT);
    }
    // SAFETY: not null and aligned; that it points to a `T` is the C contract.
    unsafe { place.write(value) };
    Ok(())
}

/// Writes a C string of at most `length` bytes, the final zero included.
fn put_text(place: *mut c_char, length: c_uint, text: &str) -> Result<(), u32> {
    if place.is_null() {
        return Err(code::INVALID_ARGUMENT);
    }
    if text.len() + 1 > length as usize {
        return Err(code::INSUFFICIENT_SIZE);
    }
    // SAFETY: the caller owns `length` bytes at `place`, and no more are written.
    unsafe {
        std::ptr::copy_nonoverlapping(text.as_ptr().cast(), place, text.len());
        place.add(text.len()).write(0);
    }
    Ok(())
}

fn readings(target: &Target) -> Result<Readings, u32> {
    target
        .board
        .readings(target.index)
        .map_err(|_| code::UNKNOWN)
}

fn limit(target: &Target) -> Result<Limit, u32> {
    target.unless(FAULT_NO_LIMITS, code::NOT_SUPPORTED)?;
    target.board.limit(target.index).map_err(|_| code::UNKNOWN)
}

fn facts(target: &Target) -> &Facts {
    // `state::target` has checked the index.
    &target.board.facts()[target.index]
}

fn chars<const N: usize>(text: &str) -> [c_char; N] {
    let mut out = [0; N];
    for (place, byte) in out.iter_mut().take(N - 1).zip(text.bytes()) {
        *place = byte as c_char;
    }
    out
}

/// Begins to use the library.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInit_v2() -> c_uint {
    state::initialise()
}

/// Begins to use the library; the flags change nothing here.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> c_uint {
    state::initialise()
}

/// Ends the use of the library.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlShutdown() -> c_uint {
    state::shut_down()
}

/// A code in words; never null.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlErrorString(result: c_uint) -> *const c_char {
    let text: &'static CStr = match result {
        code::SUCCESS => c"Success",
        code::UNINITIALIZED => c"Uninitialized",
        code::INVALID_ARGUMENT => c"Invalid Argument",
        code::NOT_SUPPORTED => c"Not Supported",
        code::NO_PERMISSION => c"Insufficient Permissions",
        code::NOT_FOUND => c"Not Found",
        code::INSUFFICIENT_SIZE => c"Insufficient Size",
        code::DRIVER_NOT_LOADED => c"Driver Not Loaded",
        code::GPU_IS_LOST => c"GPU is lost",
        code::ARGUMENT_VERSION_MISMATCH => c"Argument version mismatch",
        _ => c"Unknown Error",
    };
    text.as_ptr()
}

/// Version of the driver.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> c_uint {
    answer(state::board().and_then(|b| put_text(version, length, b.driver())))
}

/// Version of NVML.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetNVMLVersion(version: *mut c_char, length: c_uint) -> c_uint {
    answer(state::board().and_then(|b| put_text(version, length, b.nvml())))
}

/// Version of CUDA that the driver supports: 12.4.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> c_uint {
    answer(state::board().and_then(|_| put(version, 12_040)))
}

/// How many devices there are, lost ones included.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> c_uint {
    answer(state::board().and_then(|b| put(count, b.facts().len() as c_uint)))
}

/// A device by its index, in PCI order.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Device) -> c_uint {
    answer(state::target(index as usize).and_then(|t| put(device, state::handle(t.index))))
}

/// A device by its UUID.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByUUID(uuid: *const c_char, device: *mut Device) -> c_uint {
    let find = || {
        let board = state::board()?;
        if uuid.is_null() {
            return Err(code::INVALID_ARGUMENT);
        }
        // SAFETY: not null; that it is a C string is the C contract.
        let uuid = unsafe { CStr::from_ptr(uuid) }.to_bytes();
        let index = board
            .facts()
            .iter()
            .position(|f| f.uuid.as_bytes() == uuid)
            .ok_or(code::NOT_FOUND)?;
        put(device, state::handle(state::target(index)?.index))
    };
    answer(find())
}

/// A device by its PCI bus id, like `00000000:17:00.0`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(
    bus_id: *const c_char,
    device: *mut Device,
) -> c_uint {
    let find = || {
        let board = state::board()?;
        if bus_id.is_null() {
            return Err(code::INVALID_ARGUMENT);
        }
        // SAFETY: not null; that it is a C string is the C contract.
        let wanted = unsafe { CStr::from_ptr(bus_id) }.to_bytes();
        let index = board
            .facts()
            .iter()
            .position(|f| bus_text(f).as_bytes().eq_ignore_ascii_case(wanted))
            .ok_or(code::NOT_FOUND)?;
        put(device, state::handle(state::target(index)?.index))
    };
    answer(find())
}

fn bus_text(facts: &Facts) -> String {
    format!("00000000:{:02X}:00.0", facts.pci_bus)
}

/// The UUID.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUUID(device: Device, uuid: *mut c_char, length: c_uint) -> c_uint {
    answer(state::target_of(device).and_then(|t| put_text(uuid, length, &facts(&t).uuid)))
}

/// The product's name.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetName(device: Device, name: *mut c_char, length: c_uint) -> c_uint {
    answer(state::target_of(device).and_then(|t| put_text(name, length, &facts(&t).name)))
}

/// The index.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetIndex(device: Device, index: *mut c_uint) -> c_uint {
    answer(state::target_of(device).and_then(|t| put(index, t.index as c_uint)))
}

/// The number in `/dev/nvidiaN`.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMinorNumber(device: Device, number: *mut c_uint) -> c_uint {
    nvmlDeviceGetIndex(device, number)
}

/// Where it sits on the PCI bus.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPciInfo_v3(device: Device, info: *mut PciInfo) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        let f = facts(&t);
        let bus_id = bus_text(f);
        put(
            info,
            PciInfo {
                bus_id_legacy: chars(&bus_id[4..]),
                domain: 0,
                bus: f.pci_bus,
                device: 0,
                pci_device_id: f.pci_device_id,
                pci_sub_system_id: 0,
                bus_id: chars(&bus_id),
            },
        )
    }))
}

/// Power drawn now, milliwatts.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerUsage(device: Device, power: *mut c_uint) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        t.unless(FAULT_NO_POWER, code::NOT_SUPPORTED)?;
        put(power, readings(&t)?.power_mw)
    }))
}

/// Energy since the driver was loaded, millijoules.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTotalEnergyConsumption(
    device: Device,
    energy: *mut c_ulonglong,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        t.unless(FAULT_NO_ENERGY, code::NOT_SUPPORTED)?;
        put(energy, readings(&t)?.energy_mj)
    }))
}

/// The limit that the driver enforces, milliwatts.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetEnforcedPowerLimit(
    device: Device,
    milliwatts: *mut c_uint,
) -> c_uint {
    nvmlDeviceGetPowerManagementLimit(device, milliwatts)
}

/// The limit that was set, milliwatts.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerManagementLimit(
    device: Device,
    milliwatts: *mut c_uint,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| put(milliwatts, limit(&t)?.limit_mw)))
}

/// The limit after power-on, milliwatts.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerManagementDefaultLimit(
    device: Device,
    milliwatts: *mut c_uint,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        t.unless(FAULT_NO_LIMITS, code::NOT_SUPPORTED)?;
        put(milliwatts, facts(&t).default_limit_mw)
    }))
}

/// The range in which a limit can be set, milliwatts.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetPowerManagementLimitConstraints(
    device: Device,
    min: *mut c_uint,
    max: *mut c_uint,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        t.unless(FAULT_NO_LIMITS, code::NOT_SUPPORTED)?;
        if min.is_null() || max.is_null() {
            return Err(code::INVALID_ARGUMENT);
        }
        put(min, facts(&t).min_limit_mw)?;
        put(max, facts(&t).max_limit_mw)
    }))
}

/// Sets the limit, milliwatts. Outside the range: `INVALID_ARGUMENT`, and the
/// limit stays as it is.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceSetPowerManagementLimit(device: Device, milliwatts: c_uint) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        t.unless(FAULT_NO_LIMITS, code::NOT_SUPPORTED)?;
        t.unless(FAULT_NO_PERMISSION, code::NO_PERMISSION)?;
        let f = facts(&t);
        if (f.min_limit_mw..=f.max_limit_mw).contains(&milliwatts) {
            t.set_limit(milliwatts)
        } else {
            Err(code::INVALID_ARGUMENT)
        }
    }))
}

/// Temperature of the die, degrees Celsius. Sensor 0 is the only one.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetTemperature(
    device: Device,
    sensor: c_uint,
    temperature: *mut c_uint,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        if sensor != 0 {
            return Err(code::INVALID_ARGUMENT);
        }
        put(temperature, readings(&t)?.temperature_c)
    }))
}

/// Shares of time in which kernels ran and memory was busy, per cent.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetUtilizationRates(
    device: Device,
    utilization: *mut Utilization,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        let r = readings(&t)?;
        put(
            utilization,
            Utilization {
                gpu: r.gpu_percent,
                memory: r.memory_percent,
            },
        )
    }))
}

/// Memory in all, free and in use, bytes.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo(device: Device, memory: *mut Memory) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        let (total, used) = (facts(&t).memory_bytes, readings(&t)?.memory_used);
        put(
            memory,
            Memory {
                total,
                free: total.saturating_sub(used),
                used,
            },
        )
    }))
}

/// As [`nvmlDeviceGetMemoryInfo`], in the second version of the struct.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Device, memory: *mut MemoryV2) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        if memory.is_null() || !memory.is_aligned() {
            return Err(code::INVALID_ARGUMENT);
        }
        // SAFETY: not null and aligned; that it points to the struct is the C contract.
        let version = unsafe { (&raw const (*memory).version).read() };
        // NVML_STRUCT_VERSION(Memory, 2): the size and, from bit 24 on, the version.
        if version != (size_of::<MemoryV2>() as u32 | 2 << 24) {
            return Err(code::ARGUMENT_VERSION_MISMATCH);
        }
        let (total, used) = (facts(&t).memory_bytes, readings(&t)?.memory_used);
        put(
            memory,
            MemoryV2 {
                version,
                total,
                reserved: 0,
                free: total.saturating_sub(used),
                used,
            },
        )
    }))
}

/// A clock now, megahertz: graphics and video follow the SM clock.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetClockInfo(
    device: Device,
    kind: c_uint,
    megahertz: *mut c_uint,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        let r = readings(&t)?;
        put(megahertz, by_kind(kind, r.sm_mhz, r.memory_mhz)?)
    }))
}

/// The highest value of a clock, megahertz.
#[unsafe(no_mangle)]
pub extern "C" fn nvmlDeviceGetMaxClockInfo(
    device: Device,
    kind: c_uint,
    megahertz: *mut c_uint,
) -> c_uint {
    answer(state::target_of(device).and_then(|t| {
        let f = facts(&t);
        put(megahertz, by_kind(kind, f.max_sm_mhz, f.max_memory_mhz)?)
    }))
}

/// NVML's clock kinds: 0 graphics, 1 SM, 2 memory, 3 video.
fn by_kind(kind: c_uint, sm: u32, memory: u32) -> Result<u32, u32> {
    match kind {
        0 | 1 | 3 => Ok(sm),
        2 => Ok(memory),
        _ => Err(code::INVALID_ARGUMENT),
    }
}
