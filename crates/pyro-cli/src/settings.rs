//! Where things are: the environment, `config.toml` and the place of the executable, read once.

use crate::commands::engine::parse_engine;
use pyro_core::config::Config;
use pyro_core::config::{HostProxy, Mirror, RegistryConfig};
use pyro_core::faults::Fault;
use pyro_core::machine::EngineChoice;
use pyro_core::{Blame, Explain, Problem};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

/// A configuration file is a page of text.
const CONFIG_BYTES: u64 = 1 << 20;
/// The first argument that makes this executable a supervisor.
pub(crate) const SUPERVISE: &str = "supervise-machine";

/// `config.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ConfigFile {
    /// `auto`, `kvm` or `emulated`.
    engine: EngineChoice,
    /// By registry host, `*` for all.
    registry: BTreeMap<String, RegistrySection>,
}

/// One `[registry."HOST"]` table.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RegistrySection {
    /// Tried in order before the registry itself: `HOST[:PORT][/PREFIX]`.
    mirrors: Vec<String>,
    /// Speak http without TLS to this host.
    plain_http: bool,
}

/// Why settings cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SettingsError {
    #[error("{}", no_home(.0))]
    NoHome(&'static str),
    #[error("cannot read `{path}`")]
    Read { path: PathBuf, source: io::Error },
    #[error("`{path}` is not valid")]
    Parse { path: PathBuf, source: Box<toml::de::Error> },
    #[error("PYRO_ENGINE: {0}")]
    Engine(String),
    #[error("cannot find this executable's own path")]
    Executable(#[source] io::Error),
    #[error("the directory that pyro was started in is gone")]
    CurrentDir(#[source] io::Error),
}

impl Explain for SettingsError {
    fn explain(&self) -> Problem {
        match self {
            Self::NoHome(_) => Problem::new("no_home", Blame::Caller, self)
                .with_hint("set HOME, or PYRO_ENVIRONMENT_CACHE_DIR and PYRO_STATE_DIR"),
            Self::Read { .. } | Self::Parse { .. } => Problem::new("bad_config", Blame::Caller, self)
                .with_hint("docs/configuration.md lists what config.toml may hold"),
            Self::Engine(_) => Problem::new("bad_config", Blame::Caller, self)
                .with_hint("unset it, or name auto, kvm or emulated"),
            Self::Executable(_) => Problem::new("no_executable_path", Blame::Host, self),
            Self::CurrentDir(_) => Problem::new("no_current_dir", Blame::Caller, self),
        }
    }
}

/// Reads the settings of this process.
pub(crate) fn load() -> Result<Config, SettingsError> {
    let executable = std::env::current_exe().map_err(SettingsError::Executable)?;
    resolve(&|name| std::env::var_os(name).filter(|value| !value.is_empty()), &executable)
}

/// Where this process is, and where other programs of its user keep their configuration.
#[derive(Clone, Debug)]
pub(crate) struct Surroundings {
    /// The user's home.
    pub(crate) home: PathBuf,
    /// Where programs keep configuration that has no place of its own.
    pub(crate) config_home: PathBuf,
    /// Another home of Claude Code.
    pub(crate) claude_config_dir: Option<PathBuf>,
    /// Another home of Codex.
    pub(crate) codex_home: Option<PathBuf>,
    /// A search path for programs.
    pub(crate) program_path: OsString,
    /// This executable.
    pub(crate) executable: PathBuf,
    /// Where this process was started.
    pub(crate) current_dir: PathBuf,
}

/// Looks at the surroundings of this process.
pub(crate) fn surroundings() -> Result<Surroundings, SettingsError> {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let home = var("HOME").map(PathBuf::from).ok_or(SettingsError::NoHome("HOME"))?;
    Ok(Surroundings {
        config_home: var("XDG_CONFIG_HOME").map_or_else(|| home.join(".config"), PathBuf::from),
        claude_config_dir: var("CLAUDE_CONFIG_DIR").map(PathBuf::from),
        codex_home: var("CODEX_HOME").map(PathBuf::from),
        program_path: var("PATH").unwrap_or_default(),
        executable: std::env::current_exe().map_err(SettingsError::Executable)?,
        current_dir: std::env::current_dir().map_err(SettingsError::CurrentDir)?,
        home,
    })
}

/// Where this process was started; `None` where that is gone.
pub(crate) fn current_dir() -> Option<PathBuf> {
    std::env::current_dir().ok()
}

/// A variable of this process that the caller named, such as a secret's value.
pub(crate) fn variable(name: &str) -> Option<OsString> {
    std::env::var_os(name)
}

/// Certificates of this host's authorities, each in DER.
pub(crate) fn host_authorities() -> Result<Vec<Vec<u8>>, String> {
    let found = rustls_native_certs::load_native_certs();
    match found.errors.first() {
        Some(error) if found.certs.is_empty() => Err(error.to_string()),
        Some(_) | None => Ok(found.certs.iter().map(|certificate| certificate.to_vec()).collect()),
    }
}

fn no_home(name: &str) -> String {
    match name {
        "HOME" => "HOME is not set".to_owned(),
        name => format!("neither {name} nor HOME is set"),
    }
}

fn resolve(
    var: &dyn Fn(&'static str) -> Option<OsString>,
    executable: &Path,
) -> Result<Config, SettingsError> {
    let below = |own: &'static str, xdg: &'static str, home: &str, tail: &str| {
        if let Some(path) = var(own) {
            return Ok(PathBuf::from(path));
        }
        let base = var(xdg).map(PathBuf::from).or_else(|| var("HOME").map(|h| PathBuf::from(h).join(home)));
        base.map(|base| base.join(tail)).ok_or(SettingsError::NoHome(own))
    };
    let config_path = below("PYRO_CONFIG", "XDG_CONFIG_HOME", ".config", "pyro-mcp/config.toml")?;
    let file = read_config(&config_path)?;
    let programs = executable.parent().unwrap_or(Path::new("/"));
    Ok(Config {
        environment_cache_dir: below(
            "PYRO_ENVIRONMENT_CACHE_DIR",
            "XDG_CACHE_HOME",
            ".cache",
            "pyro-mcp/environments",
        )?,
        state_dir: below("PYRO_STATE_DIR", "XDG_STATE_HOME", ".local/state", "pyro-mcp")?,
        guest_bundle_dir: guest_bundle_dir(var("PYRO_RUNTIME_BUNDLE_DIR"), programs),
        vmm_binary: programs.join("pyro-vmm"),
        supervisor_command: vec![executable.to_owned(), PathBuf::from(SUPERVISE)],
        program_path: var("PATH").unwrap_or_default(),
        engine: engine(var)?.unwrap_or(file.engine),
        registry: registry_config(var, file.registry),
        host_proxy: host_proxy(var),
        fault: fault(var),
        trap_log: trap_log(var),
    })
}

/// `PYRO_ENGINE`, which the file's word gives way to.
fn engine(var: &dyn Fn(&'static str) -> Option<OsString>) -> Result<Option<EngineChoice>, SettingsError> {
    let Some(name) = var("PYRO_ENGINE").filter(|name| !name.is_empty()) else { return Ok(None) };
    let name = name.to_string_lossy();
    parse_engine(&name).map(Some).map_err(SettingsError::Engine)
}

/// The proxy of this host's own programs. All connections of guests go by CONNECT, which is what HTTPS_PROXY is for.
fn host_proxy(var: &dyn Fn(&'static str) -> Option<OsString>) -> HostProxy {
    let text = |names: &[&'static str]| {
        names.iter().find_map(|name| var(name).and_then(|value| value.into_string().ok()))
    };
    HostProxy {
        url: text(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"]),
        exempt: text(&["NO_PROXY", "no_proxy"]).unwrap_or_default(),
    }
}

/// Where tests let this process die. A build for users has no such variable.
fn fault(var: &dyn Fn(&'static str) -> Option<OsString>) -> Option<Fault> {
    if !cfg!(debug_assertions) {
        return None;
    }
    Fault::parse(var("PYRO_TEST_FAULT")?.to_str()?)
}

/// Where tests want to hear of forbidden system calls. A build for users has no such variable.
fn trap_log(var: &dyn Fn(&'static str) -> Option<OsString>) -> Option<PathBuf> {
    if !cfg!(debug_assertions) {
        return None;
    }
    var("PYRO_TEST_TRAP_LOG").map(PathBuf::from)
}

fn read_config(path: &Path) -> Result<ConfigFile, SettingsError> {
    let read = |source| SettingsError::Read { path: path.to_owned(), source };
    match std::fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(ConfigFile::default()),
        Err(error) => return Err(read(error)),
        Ok(found) if found.len() > CONFIG_BYTES => return Err(read(io::Error::other("too large"))),
        Ok(_) => {}
    }
    let text = std::fs::read_to_string(path).map_err(read)?;
    toml::from_str(&text)
        .map_err(|source| SettingsError::Parse { path: path.to_owned(), source: Box::new(source) })
}

/// The bundle named by the environment, else the one beside the executable: `share/pyro/guest` of an
/// installation, or `guest` of a build directory.
fn guest_bundle_dir(named: Option<OsString>, programs: &Path) -> Option<PathBuf> {
    if let Some(path) = named {
        return Some(PathBuf::from(path));
    }
    ["../share/pyro/guest", "../guest"].iter().map(|tail| programs.join(tail)).find(|dir| dir.is_dir())
}
fn registry_config(
    var: &dyn Fn(&'static str) -> Option<OsString>,
    sections: BTreeMap<String, RegistrySection>,
) -> RegistryConfig {
    let text = |name| var(name).and_then(|value| value.into_string().ok());
    let mut config = RegistryConfig {
        docker_config: var("DOCKER_CONFIG")
            .map(PathBuf::from)
            .or_else(|| var("HOME").map(|home| PathBuf::from(home).join(".docker")))
            .map(|dir| dir.join("config.json")),
        proxy: text("HTTPS_PROXY").or_else(|| text("https_proxy")),
        ..RegistryConfig::default()
    };
    config.mirrors.extend(text("PYRO_REGISTRY_MIRROR").map(|endpoint| Mirror { registry: None, endpoint }));
    for (host, section) in sections {
        let registry = (host != "*").then(|| host.clone());
        let mirrors = section.mirrors.into_iter();
        config.mirrors.extend(mirrors.map(|endpoint| Mirror { registry: registry.clone(), endpoint }));
        if section.plain_http {
            config.plain_http.push(host);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(vars: &[(&'static str, &str)], config: &str) -> Result<Config, SettingsError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("config.toml");
        std::fs::write(&path, config).unwrap();
        let var = |name: &'static str| match name {
            "PYRO_CONFIG" => Some(path.clone().into_os_string()),
            _ => vars.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value)),
        };
        resolve(&var, Path::new("/opt/pyro/bin/pyro"))
    }

    #[test]
    fn places_come_from_pyros_variables_then_xdg_then_home() {
        let config = resolved(&[("HOME", "/h")], "").unwrap();
        assert_eq!(config.environment_cache_dir, Path::new("/h/.cache/pyro-mcp/environments"));
        assert_eq!(config.state_dir, Path::new("/h/.local/state/pyro-mcp"));
        let config =
            resolved(&[("HOME", "/h"), ("XDG_CACHE_HOME", "/c"), ("PYRO_STATE_DIR", "/s")], "").unwrap();
        assert_eq!(config.environment_cache_dir, Path::new("/c/pyro-mcp/environments"));
        assert_eq!(config.state_dir, Path::new("/s"));
        assert!(matches!(resolved(&[], ""), Err(SettingsError::NoHome(_))));
    }

    #[test]
    fn mirrors_come_from_the_variable_first_and_by_registry_from_the_file() {
        let file = "[registry.\"r.example\"]\nmirrors = [\"m.example\"]\nplain_http = true\n";
        let config = resolved(&[("HOME", "/h"), ("PYRO_REGISTRY_MIRROR", "all.example")], file).unwrap();
        let shown: Vec<_> = config
            .registry
            .mirrors
            .iter()
            .map(|mirror| (mirror.registry.as_deref(), mirror.endpoint.as_str()))
            .collect();
        assert_eq!(shown, [(None, "all.example"), (Some("r.example"), "m.example")]);
        assert_eq!(config.registry.plain_http, ["r.example"]);
    }

    #[test]
    fn the_proxy_is_the_one_for_https_and_is_never_shown() {
        let proxy = |vars: &[(&'static str, &str)]| {
            resolved(&[&[("HOME", "/h")], vars].concat(), "").unwrap().host_proxy
        };
        assert_eq!(proxy(&[]), HostProxy::default());
        let all = [
            ("HTTP_PROXY", "http://plain:1"),
            ("ALL_PROXY", "http://all:1"),
            ("https_proxy", "http://jo:secret@secure:1"),
            ("no_proxy", ".corp"),
        ];
        let found = proxy(&all);
        assert_eq!(
            (found.url.as_deref(), found.exempt.as_str()),
            (Some("http://jo:secret@secure:1"), ".corp")
        );
        assert!(!format!("{found:?}").contains("secret"));
        assert_eq!(proxy(&all[..2]).url.as_deref(), Some("http://all:1"));
        assert_eq!(proxy(&all[..1]).url.as_deref(), Some("http://plain:1"));
    }

    #[test]
    fn unknown_keys_and_bad_values_are_errors() {
        for text in ["engin = \"kvm\"", "engine = \"xen\"", "[registry.\"x\"]\nmirror = []", "="] {
            assert!(matches!(resolved(&[("HOME", "/h")], text), Err(SettingsError::Parse { .. })), "{text}");
        }
    }
}
