//! What a front end knows and pyro-core does not look up: where things are. Here, the places of a build directory.

use pyro_core::Config;
use pyro_core::machine::EngineChoice;
use std::path::{Path, PathBuf};

/// The configuration of an example, after `cargo xtask demo` has built everything that it names.
pub(crate) fn config() -> Result<Config, Box<dyn std::error::Error>> {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target");
    let programs = build.join("release");
    let home = PathBuf::from(std::env::var_os("HOME").ok_or("HOME is not set")?);
    Ok(Config {
        environment_cache_dir: home.join(".cache/pyro-mcp/environments"),
        state_dir: home.join(".local/state/pyro-mcp"),
        guest_bundle_dir: Some(build.join("guest")),
        vmm_binary: programs.join("pyro-vmm"),
        // An embedder can be its own supervisor: any program that calls `supervisor::serve_stdin`.
        supervisor_command: vec![programs.join("pyro"), PathBuf::from("supervise-machine")],
        program_path: std::env::var_os("PATH").unwrap_or_default(),
        engine: EngineChoice::Auto,
        registry: Default::default(),
        host_proxy: Default::default(),
        fault: None,
        trap_log: None,
    })
}
