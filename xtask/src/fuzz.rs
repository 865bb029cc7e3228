//! `cargo xtask fuzz`: the fuzz targets, for a while each.

mod seeds;

use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::{output, root, steps};

/// Run the fuzz targets (needs cargo-fuzz)
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// Only this target; all of fuzz/fuzz_targets when left out
    target: Option<String>,
    /// How long each target runs
    #[arg(long, default_value_t = 60)]
    seconds: u32,
    /// Install cargo-fuzz where it is missing
    #[arg(long)]
    install: bool,
}

/// Fuzzes each target for the given time; the first crash ends the run.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !succeeds(&mut steps::cargo(&["fuzz", "--version"])) {
        ensure!(
            arguments.install,
            "cargo-fuzz is missing: add --install, or run `cargo install cargo-fuzz --locked`"
        );
        steps::run("install cargo-fuzz", &mut steps::cargo(&["install", "cargo-fuzz", "--locked"]))?;
    }
    let targets = chosen(arguments.target.as_deref())?;
    for target in &targets {
        let mut fuzz = steps::cargo(&["fuzz", "run", target]);
        if let Some(seeds) = seeds::make(target)? {
            // What is found goes to the first directory.
            let found = root::workspace().join("fuzz/corpus").join(target);
            std::fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
            fuzz.args([found, seeds]).arg("--").arg(format!("-max_len={}", seeds::MAX_BYTES));
        } else {
            fuzz.arg("--");
        }
        // The pinned compiler has the sanitizers, but gives them to nightly alone unless it is told otherwise.
        fuzz.env("RUSTC_BOOTSTRAP", "1").current_dir(root::workspace());
        fuzz.arg(format!("-max_total_time={}", arguments.seconds))
            .arg("-rss_limit_mb=4096")
            .arg("-timeout=10");
        steps::run(target, &mut fuzz)?;
    }
    output::line(&format!("{} targets, {} s each, no crash", targets.len(), arguments.seconds));
    Ok(())
}

fn chosen(wanted: Option<&str>) -> Result<Vec<String>> {
    let directory = root::workspace().join("fuzz/fuzz_targets");
    let mut targets: Vec<String> = std::fs::read_dir(&directory)
        .with_context(|| format!("cannot list {}", directory.display()))?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.strip_suffix(".rs").map(str::to_owned))
        .collect();
    targets.sort();
    if let Some(wanted) = wanted {
        if !targets.iter().any(|target| target == wanted) {
            bail!("no fuzz target is called {wanted}; there are {}", targets.join(", "));
        }
        targets.retain(|target| target == wanted);
    }
    Ok(targets)
}

fn succeeds(command: &mut Command) -> bool {
    command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}
