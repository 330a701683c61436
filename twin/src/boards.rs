//! One directory a node: the shim library and its board file.
//!
//! ```text
//! DIR/NODE/libnvidia-ml.so.1   what `heliostat agent --nvml-lib` loads
//! DIR/NODE/board.bin           the node's accelerators
//! ```
//!
//! Every node has its own copy of the library, so that one process may load
//! many: the loader tells them apart by their files.

use crate::error::TwinError;
use heliostat_models::accelerators::AcceleratorCatalogue;
use heliostat_models::gpu::GpuModel;
use heliostat_models::site::Node;
use heliostat_models::{NodeId, Site, Watts};
use heliostat_nvml_shim::board::{Board, Facts};
use std::fs;
use std::path::{Path, PathBuf};

/// The shim, as `build.rs` compiled it.
const SHIM: &[u8] = include_bytes!(env!("HELIOSTAT_SHIM"));
/// Driver and NVML versions that the shim claims.
const DRIVER: &str = "550.144.03";
const NVML: &str = "12.550.144.03";

/// A node's board, open.
#[derive(Debug)]
pub struct NodeBoard {
    /// Whose.
    pub node: NodeId,
    /// The library to load.
    pub lib: PathBuf,
    /// The board.
    pub board: Board,
}

/// The figures of an accelerator of the site.
///
/// # Errors
/// When the catalogue does not know it.
pub fn gpu_model(accelerator: &str) -> Result<GpuModel, TwinError> {
    AcceleratorCatalogue::builtin()
        .get(accelerator)
        .map(GpuModel::from_catalogue)
        .ok_or_else(|| TwinError::UnknownAccelerator(accelerator.to_owned()))
}

/// A UUID that stays the same for the same site and device.
pub fn uuid(site: &Site, device: usize) -> String {
    let name = format!("{}/{}", site.id, site.devices[device].id);
    // Two rounds of FNV-1a with different starts: 128 bits.
    let hash = |start: u64| {
        name.bytes().fold(start, |h, b| {
            (h ^ u64::from(b))
                .wrapping_mul(0x0100_0000_01b3)
                .rotate_left(23)
        })
    };
    let (a, b) = (hash(0xcbf2_9ce4_8422_2325), hash(0x8422_2325_cbf2_9ce4));
    format!(
        "GPU-{:08x}-{:04x}-{:04x}-{:04x}-{:012x}",
        (a >> 32) as u32,
        (a >> 16) as u16,
        a as u16,
        (b >> 48) as u16,
        b & 0xffff_ffff_ffff
    )
}

/// Bus numbers of the eight accelerators of an HGX baseboard; others follow.
fn pci_bus(index: u32) -> u32 {
    const HGX: [u32; 8] = [0x18, 0x2a, 0x3a, 0x5d, 0x9a, 0xab, 0xba, 0xdb];
    HGX.get(index as usize).copied().unwrap_or(index + 1)
}

fn facts(site: &Site, node: &Node) -> Result<Vec<Facts>, TwinError> {
    let milliwatts = |w: Watts| w.to_milliwatts_floor();
    (node.devices.clone())
        .map(|index| {
            let device = &site.devices[index];
            let model = gpu_model(&device.accelerator)?;
            Ok(Facts {
                uuid: uuid(site, index),
                name: model.product,
                min_limit_mw: milliwatts(device.min_cap),
                max_limit_mw: milliwatts(device.max_cap),
                default_limit_mw: milliwatts(model.tdp.clamp(device.min_cap, device.max_cap)),
                max_sm_mhz: model.core_mhz,
                max_memory_mhz: model.memory_mhz,
                memory_bytes: model.memory_bytes,
                pci_bus: pci_bus(device.index),
                // H100 SXM (2330) of NVIDIA (10de).
                pci_device_id: 0x2330_10de,
            })
        })
        .collect()
}

/// Writes the directory of every node of the site, replacing old boards: all
/// devices are at their default limits again, without faults.
///
/// # Errors
/// When a file cannot be written, or an accelerator is not in the catalogue.
pub fn create(directory: &Path, site: &Site) -> Result<Vec<NodeBoard>, TwinError> {
    let mut boards = Vec::with_capacity(site.nodes.len());
    for node in &site.nodes {
        let home = directory.join(node.id.as_str());
        fs::create_dir_all(&home).map_err(TwinError::file(&home))?;
        let lib = home.join("libnvidia-ml.so.1");
        // Never written in place: an agent may have the old library mapped.
        let fresh = home.join("libnvidia-ml.new");
        fs::write(&fresh, SHIM).map_err(TwinError::file(&fresh))?;
        fs::rename(&fresh, &lib).map_err(TwinError::file(&lib))?;
        let path = home.join("board.bin");
        let board = Board::create(&path, DRIVER, NVML, &facts(site, node)?)
            .map_err(TwinError::file(&path))?;
        boards.push(NodeBoard {
            node: node.id.clone(),
            lib,
            board,
        });
    }
    Ok(boards)
}
