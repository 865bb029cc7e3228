use crate::cli::config;
use crate::output::{self, Format, yes_no};
use clap::Args;
use pyro_core::doctor::{PLATFORM, Report, examine};
use std::process::ExitCode;

/// Tell whether this host can run machines, and what to do where it cannot.
///
/// Exits with 0 when everything needed is there, with 5 otherwise.
#[derive(Debug, Args)]
#[command(after_help = "Example:\n  pyro doctor --json")]
pub(crate) struct Doctor {
    /// The platform to report on; linux-x86_64 is the only one.
    #[arg(long, default_value = PLATFORM, value_parser = [PLATFORM])]
    platform: String,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Doctor {
    pub(crate) fn run(self) -> ExitCode {
        let format = Format::from_flag(self.json);
        let config = match config(format) {
            Ok(config) => config,
            Err(code) => return code,
        };
        let report = examine(&config);
        match format {
            Format::Json => output::json(&report),
            Format::Human => show(&report),
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
