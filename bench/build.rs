//! Tells the program which compiler and which ring it is made of: the counts depend on both.

use std::process::Command;

fn main() {
    let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".into());
    let version = Command::new(rustc).arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    println!(
        "cargo::rustc-env=SEALANE_BENCH_RUSTC={}",
        String::from_utf8_lossy(&version).trim().trim_start_matches("rustc ")
    );
    let lock_path = "../Cargo.lock";
    println!("cargo::rerun-if-changed={lock_path}");
    let lock = std::fs::read_to_string(lock_path).unwrap_or_default();
    let ring = lock.split("[[package]]").find(|package| package.contains("name = \"ring\"")).unwrap_or_default();
    let ring = ring.lines().find_map(|line| line.strip_prefix("version = ")).unwrap_or("unknown");
    println!("cargo::rustc-env=SEALANE_BENCH_RING={}", ring.trim_matches('"'));
}
