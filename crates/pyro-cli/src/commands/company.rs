//! What a company's network asks of guests: certificate authorities and the way through its proxy.

use crate::settings;
use clap::Args;
use pyro_core::authorities::{Authorities, AuthorityError};
use pyro_core::{Blame, Explain, Problem};
use std::path::PathBuf;

// Wherever a guest is made. A doc comment here would replace the commands' help.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct AuthorityArgs {
    /// Let the guest's programs trust this host's certificate authorities, beside the image's own.
    ///
    /// Variables like SSL_CERT_FILE lead them to a file in the guest's memory; the image is not changed.
    #[arg(long)]
    host_ca: bool,
    /// Let the guest's programs trust the certificate authorities of a PEM file, beside the image's own; repeatable.
    ///
    /// The certificates are kept with the workspace: the file may change or go. For example: --ca-file company.pem
    #[arg(long, value_name = "PATH")]
    ca_file: Vec<PathBuf>,
}

// A doc comment here would replace the commands' help.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct ProxyArgs {
    /// Let the guest's connections to names go through this host's proxy: HTTPS_PROXY, else ALL_PROXY, else
    /// HTTP_PROXY; names in NO_PROXY go past it.
    ///
    /// The guest needs no settings and learns no password. The policy decides on names, whose addresses the proxy
    /// finds; what the guest reaches by address or over UDP goes past the proxy.
    #[arg(long)]
    pub(crate) host_proxy: bool,
}

/// Why certificate authorities cannot be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityArgumentError {
    #[error(transparent)]
    Authorities(#[from] AuthorityError),
    #[error("this host's certificate authorities cannot be read: {0}")]
    Host(String),
    #[error("this host has no certificate authorities")]
    NoneOnHost,
}

impl Explain for AuthorityArgumentError {
    fn explain(&self) -> Problem {
        match self {
            Self::Authorities(error) => error.explain(),
            Self::Host(_) | Self::NoneOnHost => Problem::new("no_certificate_authorities", Blame::Host, self)
                .with_hint("install ca-certificates, let SSL_CERT_FILE name a PEM file, or use --ca-file"),
        }
    }
}

impl AuthorityArgs {
    /// Whether there is anything in them.
    pub(crate) fn is_empty(&self) -> bool {
        !self.host_ca && self.ca_file.is_empty()
    }

    /// Reads what they name.
    pub(crate) fn read(&self) -> Result<Authorities, AuthorityArgumentError> {
        let mut authorities = Authorities::default();
        if self.host_ca {
            let found = settings::host_authorities().map_err(AuthorityArgumentError::Host)?;
            if found.is_empty() {
                return Err(AuthorityArgumentError::NoneOnHost);
            }
            // One that nobody could use is left out, as the host's own programs do.
            let usable = found.iter().map(Vec::as_slice).filter(|der| Authorities::is_certificate(der));
            authorities.add_der(Authorities::HOST, usable)?;
        }
        for path in &self.ca_file {
            authorities.add_file(path)?;
        }
        Ok(authorities)
    }
}
