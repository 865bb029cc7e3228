//! Environments as people read them.

use crate::output::{self, yes_no};
use pyro_core::environments::Inspection;

pub(super) fn list(listed: &[Inspection]) {
    output::line(format_args!("Catalog version: {}", pyro_core::environments::catalog_version()));
    if listed.is_empty() {
        output::line("No environments found.");
    }
    for environment in listed {
        let installed = if environment.installed { "installed" } else { "not installed" };
        output::line(format_args!("{} [{installed}] {}", environment.name, environment.description));
    }
}

pub(super) fn inspected(heading: &str, environment: &Inspection) {
    output::line(format_args!("{heading}: {}", environment.name));
    output::line(format_args!("Version: {}", environment.version));
    if !environment.distribution.is_empty() {
        output::line(format_args!(
            "Distribution: {} {}",
            environment.distribution, environment.distribution_version
        ));
    }
    output::line(format_args!("Installed: {}", yes_no(environment.installed)));
    output::line(format_args!("Cache dir: {}", environment.cache_dir.display()));
    if !environment.default_packages.is_empty() {
        output::line(format_args!("Default packages: {}", environment.default_packages.join(", ")));
    }
    if heading == "Environment" {
        output::line(format_args!("Description: {}", environment.description));
    }
    for (name, path) in [
        ("Install dir", &Some(environment.install_dir.clone())),
        ("Install manifest", &environment.install_manifest),
        ("Kernel image", &environment.kernel_image),
        ("Rootfs image", &environment.rootfs_image),
    ] {
        if let Some(path) = path.as_ref().filter(|_| environment.installed) {
            output::line(format_args!("{name}: {}", path.display()));
        }
    }
    if let Some(source) = oci_source(environment) {
        output::line(format_args!("OCI source: {source}"));
    }
}

fn oci_source(environment: &Inspection) -> Option<String> {
    let registry = environment.oci_registry.as_ref()?;
    let repository = environment.oci_repository.as_ref()?;
    let reference = environment.oci_reference.as_ref()?;
    let mark = if reference.starts_with("sha256:") { '@' } else { ':' };
    Some(format!("{registry}/{repository}{mark}{reference}"))
}

pub(super) fn pruned(directories: &[String]) {
    let noun = if directories.len() == 1 { "entry" } else { "entries" };
    output::line(format_args!("Deleted {} cached environment {noun}.", directories.len()));
    for directory in directories {
        output::line(format_args!("- {directory}"));
    }
}
