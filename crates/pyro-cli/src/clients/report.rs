//! How each client stands towards pyro. Looks only.

use super::settlement::Found;
use super::{Client, Launch, Scope, Standing, find_program};
use crate::settings::Surroundings;
use pyro_core::{Explain, Problem};
use serde::Serialize;
use std::path::PathBuf;

/// A client.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ClientReport {
    pub(crate) host: Client,
    /// Whether it seems to be used here.
    pub(crate) installed: bool,
    /// Its program, where PATH has it.
    pub(crate) program: Option<PathBuf>,
    /// Of all its lists together: `present`, `drifted`, `missing` or `unreadable`.
    pub(crate) state: &'static str,
    /// Each of its lists.
    pub(crate) places: Vec<PlaceReport>,
}

/// One list of servers.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PlaceReport {
    pub(crate) scope: Scope,
    pub(crate) path: PathBuf,
    /// `present`, `drifted`, `missing` or `unreadable`.
    pub(crate) state: &'static str,
    /// Where it drifted: what differs from what is wanted.
    pub(crate) differences: Vec<String>,
    /// Where it is unreadable: why.
    pub(crate) problem: Option<Problem>,
}

/// Looks at everything that `client` may read, for an entry that starts a server by `launch`.
pub(crate) fn examine(client: Client, launch: &Launch, around: &Surroundings) -> ClientReport {
    let places: Vec<PlaceReport> = client
        .places(around)
        .into_iter()
        .map(|place| {
            let (state, differences, problem) = match Found::read(client, &place, launch) {
                Ok(found) => match found.standing() {
                    Standing::Present => ("present", Vec::new(), None),
                    Standing::Drifted(differences) => ("drifted", differences, None),
                    Standing::Missing => ("missing", Vec::new(), None),
                },
                Err(error) => ("unreadable", Vec::new(), Some(error.explain())),
            };
            PlaceReport { scope: place.scope, path: place.path, state, differences, problem }
        })
        .collect();
    let has = |state: &str| places.iter().any(|place| place.state == state);
    let state = ["drifted", "present", "unreadable"].into_iter().find(|state| has(state));
    ClientReport {
        host: client,
        installed: client.is_installed(around),
        program: find_program(&around.program_path, client.program()),
        state: state.unwrap_or("missing"),
        places,
    }
}
