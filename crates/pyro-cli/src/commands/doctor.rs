use crate::cli::config;
use crate::output::{self, Format, printable, yes_no};
use crate::readiness::{Readiness, Warmth};
use clap::Args;
use pyro_core::Explain;
use pyro_core::doctor::{PLATFORM, Report, examine};
use serde::Serialize;
use std::process::ExitCode;

/// Tell whether this host can run machines, and what to do where it cannot.
///
/// Exits with 0 when everything needed is there, with 5 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  pyro doctor --json\n  pyro doctor --environment debian:12")]
pub(crate) struct Doctor {
    /// The platform to report on; linux-x86_64 is the only one.
    #[arg(long, default_value = PLATFORM, value_parser = [PLATFORM])]
    platform: String,
    /// Tell also whether `pyro prepare` has proved this environment: warm, cold or stale.
    #[arg(long, value_name = "ENVIRONMENT")]
    environment: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// The report, and what was asked for beside it.
#[derive(Serialize)]
struct Told<'a> {
    #[serde(flatten)]
    report: &'a Report,
    #[serde(skip_serializing_if = "Option::is_none")]
    readiness: Option<Readiness>,
}

impl Doctor {
    pub(crate) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        let config = match config(format) {
            Ok(config) => config,
            Err(code) => return code,
        };
        let readiness = self.environment.as_deref().map(|name| Readiness::of(&config, name)).transpose();
        let readiness = match readiness {
            Ok(readiness) => readiness,
            Err(error) => return output::problem(&error.explain(), format),
        };
        let report = examine(&config);
        match format {
            Format::Json => output::json(&Told { report: &report, readiness }),
            Format::Human => {
                show(&report);
                readiness.iter().for_each(show_readiness);
            }
        }
        if report.runtime_ok { ExitCode::SUCCESS } else { ExitCode::from(pyro_core::Blame::Host.exit_code()) }
    }
}

fn show(report: &Report) {
    output::line(format_args!("Platform: {}", report.platform));
    output::line(format_args!("Runtime: {}", if report.runtime_ok { "PASS" } else { "FAIL" }));
    output::line(format_args!(
        "KVM: exists={} readable={} writable={}",
        yes_no(report.kvm.exists),
        yes_no(report.kvm.readable),
        yes_no(report.kvm.writable)
    ));
    if let Some(runtime) = &report.runtime {
        let can = &runtime.capabilities;
        output::line(format_args!("Environment cache: {}", runtime.cache_dir.display()));
        output::line(format_args!(
            "Capabilities: vm_boot={} guest_exec={} guest_network={}",
            yes_no(can.supports_vm_boot),
            yes_no(can.supports_guest_exec),
            yes_no(can.supports_guest_network)
        ));
    }
    output::line(format_args!(
        "Networking: tun={} ip_forward={}",
        yes_no(report.networking.tun_available),
        yes_no(report.networking.ip_forward_enabled)
    ));
    output::line(format_args!("Engine: {} ({})", report.engine.name, report.engine.reason));
    if let Some(jail) = &report.jail {
        output::line(format_args!("Jail: {jail}"));
    }
    if let Some(runtime) = &report.runtime {
        let qemu = report.engine.qemu_version().map(|version| format!("qemu={version} ")).unwrap_or_default();
        let versions: Vec<String> =
            runtime.component_versions.iter().map(|(name, version)| format!("{name}={version}")).collect();
        output::line(format_args!("Versions: {qemu}{}", versions.join(" ")));
    }
    if !report.issues.is_empty() {
        output::line("Issues:");
        for issue in &report.issues {
            output::line(format_args!("- {issue}"));
        }
    }
}

/// One line: how ready the environment is, and why not readier.
fn show_readiness(readiness: &Readiness) {
    let advice = match readiness.state {
        Warmth::Warm => String::new(),
        Warmth::Cold | Warmth::Stale => {
            format!(" ({}); run `pyro prepare {}`", readiness.reasons.join(", "), readiness.environment)
        }
    };
    let line = format!("Environment {}: {}{advice}", readiness.environment, readiness.state.as_str());
    output::line(printable(&line));
}
