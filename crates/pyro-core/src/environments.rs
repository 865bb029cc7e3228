//! Environments as front ends use them: named by text, kept in the configured cache.

use crate::authorities::Authorities;
use crate::config::Config;
use crate::exec::ExecRequest;
use crate::problem::{Blame, Explain, Problem};
use pyro_oci::{Fault, Reference, ReferenceError, Store, StoreConfig, StoreError};
use std::collections::HashSet;
use std::sync::Arc;

pub use pyro_oci::{Digest, Inspection, Installed, Phase, Progress, Pruned, PullError, Silent};

/// Version of the catalog of curated environments.
pub fn catalog_version() -> &'static str {
    pyro_oci::catalog::CATALOG_VERSION
}

/// Why an environment could not be had.
#[derive(Debug, thiserror::Error)]
pub enum EnvironmentError {
    /// The text names none.
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    /// It could not be pulled.
    #[error("cannot pull '{name}'")]
    Pull {
        /// The environment.
        name: String,
        /// Why.
        source: PullError,
        /// Whether it was to come from a file of the caller's rather than from a registry.
        local: bool,
    },
    /// The cache could not be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// It is not installed, so it cannot be removed.
    #[error("environment '{0}' is not installed")]
    NotInstalled(String),
}

impl Explain for EnvironmentError {
    fn explain(&self) -> Problem {
        match self {
            Self::Reference(error) => {
                let problem = Problem::new("unknown_environment", Blame::Caller, self);
                Problem { hint: error.hint(), ..problem }
            }
            Self::Pull { source, local, name: _ } => explain_pull(source, *local, self),
            Self::Store(_) => Problem::new("cache_failed", Blame::Host, self)
                .with_hint("PYRO_ENVIRONMENT_CACHE_DIR must name a directory that you can write to"),
            Self::NotInstalled(_) => Problem::new("not_installed", Blame::Caller, self)
                .with_hint("`pyro env list` shows what is installed"),
        }
    }
}

fn explain_pull(pull: &PullError, local: bool, shown: &EnvironmentError) -> Problem {
    let blame = match (pull.fault(), local) {
        (Fault::Caller, _) | (Fault::Remote, true) => Blame::Caller,
        (Fault::Remote, false) => Blame::Remote,
        (Fault::Host, _) => Blame::Host,
    };
    let problem = Problem::new("pull_failed", blame, shown);
    Problem { hint: pull.hint().map(str::to_owned), ..problem }
}

fn store(config: &Config) -> Store {
    let registry = config.registry.clone();
    Store::open(StoreConfig { registry, ..StoreConfig::new(config.environment_cache_dir.clone()) })
}

/// Checks that `name` names an environment, without looking for it.
pub fn check(name: &str) -> Result<(), EnvironmentError> {
    name.parse::<Reference>()?;
    Ok(())
}

/// The environment `name`, pulled when it is not installed. Dropping the future stops the pull; what was
/// downloaded is resumed by the next one.
pub async fn ensure(
    config: &Config,
    name: &str,
    progress: Arc<dyn Progress>,
) -> Result<Installed, EnvironmentError> {
    let reference: Reference = name.parse()?;
    let local = matches!(reference, Reference::Layout(_) | Reference::Archive(_));
    let pulled = store(config).pull(&reference, progress).await;
    pulled.map_err(|source| EnvironmentError::Pull { name: name.to_owned(), source, local })
}

/// The catalog with its state here, then the images that were pulled.
pub fn list(config: &Config) -> Vec<Inspection> {
    store(config).inspect_all()
}

/// What is known about one environment, installed or not.
pub fn inspect(config: &Config, name: &str) -> Result<Inspection, EnvironmentError> {
    Ok(store(config).inspect(&name.parse()?))
}

/// Deletes what is broken, unfinished or out of date.
pub fn prune(config: &Config) -> Result<Pruned, EnvironmentError> {
    Ok(store(config).prune(&HashSet::new())?)
}

/// Deletes one installed environment. Machines that run from it go on: their disks stay open.
pub async fn remove(config: &Config, name: &str) -> Result<(), EnvironmentError> {
    match store(config).remove(&name.parse()?).await? {
        true => Ok(()),
        false => Err(EnvironmentError::NotInstalled(name.to_owned())),
    }
}

/// `request` with what the image wants where the request says nothing: variables, directory, user.
pub fn with_image_defaults(
    installed: &Installed,
    authorities: &Authorities,
    request: ExecRequest,
) -> ExecRequest {
    let image = installed.config();
    let mut env: Vec<(String, String)> =
        image.env.iter().filter_map(|pair| pair.split_once('=')).map(|(k, v)| (k.into(), v.into())).collect();
    env.retain(|(key, _)| request.env.iter().all(|(wanted, _)| wanted != key));
    env.retain(|(key, _)| authorities.is_empty() || !Authorities::is_variable(key));
    env.extend(request.env);
    ExecRequest {
        env,
        cwd: request.cwd.or_else(|| named(&image.working_dir)),
        user: request.user.or_else(|| named(&image.user)),
        ..request
    }
}

fn named(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}
