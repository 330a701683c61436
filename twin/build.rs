//! Compiles the NVML shim as a shared library of its own, so that the twin can
//! carry it: `include_bytes!` in `src/boards.rs`.
//!
//! Cargo cannot yet hand a `cdylib` of one package to another package's build,
//! so the compiler is called directly. The shim uses nothing but `std`.

use std::path::PathBuf;
use std::process::Command;

fn main() {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let (Some(out), Some(here), Some(rustc)) = (
        variable("OUT_DIR"),
        variable("CARGO_MANIFEST_DIR"),
        variable("RUSTC"),
    ) else {
        fail("build.rs must be run by cargo: OUT_DIR, CARGO_MANIFEST_DIR or RUSTC is not set");
    };
    println!("cargo::rerun-if-changed=nvml-shim/src");
    println!("cargo::rerun-if-changed=build.rs");
    let library = out.join("libnvidia-ml.so.1");
    let mut command = Command::new(rustc);
    command
        .args(["--crate-type", "cdylib", "--crate-name", "nvidia_ml"])
        .args(["--edition", "2024", "--cap-lints", "allow"])
        .args(["-C", "opt-level=2", "-C", "panic=abort"])
        // Whole-program optimisation halves the library: most of std is not used.
        .args(["-C", "lto=fat", "-C", "codegen-units=1"])
        .args(["-C", "strip=symbols"]);
    let (host, target) = (std::env::var("HOST"), std::env::var("TARGET"));
    if let Ok(target) = target
        && host.as_ref() != Ok(&target)
    {
        command.args(["--target", &target]);
    }
    if let Ok(linker) = std::env::var("RUSTC_LINKER") {
        command.arg(format!("-Clinker={linker}"));
    }
    command
        .arg(here.join("nvml-shim/src/lib.rs"))
        .arg("-o")
        .arg(&library);
    match command.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!(
            "the NVML shim does not compile ({status}): {command:?}"
        )),
        Err(e) => fail(&format!(
            "the compiler cannot be started ({e}): {command:?}"
        )),
    }
    println!("cargo::rustc-env=HELIOSTAT_SHIM={}", library.display());
}

fn fail(why: &str) -> ! {
    println!("cargo::error={why}");
    std::process::exit(1)
}
