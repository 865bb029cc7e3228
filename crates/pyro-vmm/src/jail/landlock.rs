//! Landlock rules: nothing for this process, its own files for the engine.

use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreated, RulesetCreatedAttr, Scope,
};

use super::seccomp::Engine;

/// The newest ABI whose rights are asked for; older kernels give what they have.
const WANTED: ABI = ABI::V6;

/// Directories of programs' libraries and data. Those that do not exist are left out.
const LIBRARIES: [&str; 9] = [
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/etc/ld.so.cache",
    "/nix/store",
];
/// Files that every program may touch.
const FILES: [&str; 3] = ["/dev/null", "/dev/urandom", "/sys/devices/system/cpu"];

/// Rules under which nothing opens. With the ABI in force. An engine that is a process is outside of these rules and
/// must be ended through its descriptor, so that signals stay possible beside one.
pub(super) fn for_vmm(engine: Engine) -> Result<(RulesetCreated, u32), String> {
    ruleset(match engine {
        Engine::Process => Scope::AbstractUnixSocket.into(),
        Engine::Threads => Scope::from_all(WANTED),
    })
}

/// Rules under which the engine opens its program, libraries and firmware, and `readable`.
pub(super) fn for_engine(
    program: &Path,
    readable: &[BorrowedFd<'_>],
) -> Result<(RulesetCreated, u32), String> {
    let (mut ruleset, abi) = ruleset(Scope::from_all(WANTED))?;
    let read = AccessFs::ReadFile | AccessFs::ReadDir;
    let run = read | AccessFs::Execute;
    for path in engine_paths(program) {
        if let Ok(fd) = PathFd::new(&path) {
            ruleset = add(ruleset, fd, if path.is_dir() { run } else { run & !AccessFs::ReadDir })?;
        }
    }
    for path in FILES {
        let path = Path::new(path);
        if let Ok(fd) = PathFd::new(path) {
            let access =
                AccessFs::ReadFile | if path.is_dir() { AccessFs::ReadDir } else { AccessFs::WriteFile };
            ruleset = add(ruleset, fd, access)?;
        }
    }
    for fd in readable {
        ruleset = add(ruleset, fd, AccessFs::ReadFile.into())?;
    }
    Ok((ruleset, abi))
}

/// Puts the rules in force on this thread and confirms it: the root directory must not open any more.
pub(super) fn enforce(ruleset: RulesetCreated) -> bool {
    ruleset.restrict_self().is_ok()
        && std::fs::File::open("/").is_err_and(|error| error.raw_os_error() == Some(libc::EACCES))
}

fn ruleset(scope: BitFlags<Scope>) -> Result<(RulesetCreated, u32), String> {
    let abi = super::sys::landlock_abi().map_err(|error| error.to_string())?;
    let ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(WANTED))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(WANTED)))
        .and_then(|ruleset| ruleset.scope(scope))
        .and_then(Ruleset::create)
        .map_err(|error| error.to_string())?;
    Ok((ruleset, abi))
}

fn add(
    ruleset: RulesetCreated,
    parent: impl std::os::fd::AsFd,
    access: BitFlags<AccessFs>,
) -> Result<RulesetCreated, String> {
    ruleset.add_rule(PathBeneath::new(parent, access)).map_err(|error| error.to_string())
}

/// The program, what is installed beside it, and the system's libraries.
fn engine_paths(program: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = LIBRARIES.iter().map(PathBuf::from).collect();
    paths.push(program.to_owned());
    // `PREFIX/bin/qemu` has its firmware in `PREFIX/share` and may have libraries in `PREFIX/lib`.
    if let Ok(real) = program.canonicalize() {
        if let Some(prefix) = real.parent().and_then(Path::parent) {
            paths.extend(["share/qemu", "share/seabios", "lib", "lib64"].map(|name| prefix.join(name)));
        }
        paths.push(real);
    }
    paths
}
