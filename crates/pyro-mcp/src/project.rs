//! The project that a server was started for: what new workspaces begin with.

use crate::limits::CLONE_DEADLINE;
use pyro_core::store::SeedOrigin;
use pyro_core::workspace::SeedFilter;
use pyro_core::{Blame, Explain, Problem};
use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::process::Command;

/// A directory of the host that workspaces begin with where their maker names nothing else.
#[derive(Clone, Debug)]
pub struct Project {
    root: PathBuf,
    filter: SeedFilter,
    origin: SeedOrigin,
    /// A clone lives as long as its server.
    _clone: Option<Arc<TempDir>>,
}

/// Why a project cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ProjectError {
    /// No directory.
    #[error("the project path '{}' is not a directory", .0.display())]
    NoDirectory(PathBuf),
    /// git is not there, or cannot be started.
    #[error("cannot run git")]
    Git(#[source] io::Error),
    /// git failed.
    #[error("git cannot clone the project: {0}")]
    Clone(String),
    /// git took too long.
    #[error("git did not clone the project within {} seconds", CLONE_DEADLINE.as_secs())]
    Deadline,
    /// It could be taken for an option of git.
    #[error("'{0}' must not begin with '-'")]
    Option(String),
}

impl Explain for ProjectError {
    fn explain(&self) -> Problem {
        match self {
            Self::NoDirectory(_) | Self::Option(_) => Problem::new("bad_project", Blame::Caller, self),
            Self::Git(_) => Problem::new("no_git", Blame::Host, self).with_hint("install git"),
            Self::Clone(_) | Self::Deadline => Problem::new("clone_failed", Blame::Remote, self)
                .with_hint("try the same with `git clone`; --project-path takes a clone that is there"),
        }
    }
}

impl Project {
    /// The directory `path`, as git sees it where it is a checkout.
    pub fn of_directory(path: &Path) -> Result<Self, ProjectError> {
        let root = path.canonicalize().map_err(|_| ProjectError::NoDirectory(path.to_owned()))?;
        if !root.is_dir() {
            return Err(ProjectError::NoDirectory(path.to_owned()));
        }
        let (filter, origin_kind) = match checkout_of(&root) {
            Some(_) => (SeedFilter::Git, "git_checkout"),
            None => (SeedFilter::All, "directory"),
        };
        let origin =
            SeedOrigin { origin_kind: origin_kind.to_owned(), origin_ref: root.display().to_string() };
        Ok(Self { root, filter, origin, _clone: None })
    }

    /// The git checkout that `directory` lies in, if any.
    pub fn around(directory: &Path) -> Option<Self> {
        let root = checkout_of(&directory.canonicalize().ok()?)?;
        Self::of_directory(&root).ok()
    }

    /// A fresh clone of `url` at the branch, tag or commit `reference`.
    pub async fn of_repository(url: &str, reference: Option<&str>) -> Result<Self, ProjectError> {
        for text in std::iter::once(url).chain(reference) {
            if text.starts_with('-') {
                return Err(ProjectError::Option(text.to_owned()));
            }
        }
        let dir = tempfile::Builder::new().prefix("pyro-project-").tempdir().map_err(ProjectError::Git)?;
        let root = dir.path().join("project");
        let cloning = clone(url, reference, &root);
        tokio::time::timeout(CLONE_DEADLINE, cloning).await.map_err(|_| ProjectError::Deadline)??;
        let origin_ref = match reference {
            Some(reference) => format!("{url} at {reference}"),
            None => url.to_owned(),
        };
        let origin = SeedOrigin { origin_kind: "repo_url".to_owned(), origin_ref };
        Ok(Self { root, filter: SeedFilter::Git, origin, _clone: Some(Arc::new(dir)) })
    }

    /// Where it is on the host.
    pub fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn filter(&self) -> SeedFilter {
        self.filter
    }

    pub(crate) fn origin(&self) -> &SeedOrigin {
        &self.origin
    }
}

/// The nearest directory, from `directory` up, that has a `.git`.
fn checkout_of(directory: &Path) -> Option<PathBuf> {
    directory.ancestors().find(|dir| dir.join(".git").exists()).map(Path::to_owned)
}

/// A commit cannot be cloned by its name alone everywhere, so the history comes along and git finds it there.
async fn clone(url: &str, reference: Option<&str>, root: &Path) -> Result<(), ProjectError> {
    let arguments: [&OsStr; 6] = [
        "clone".as_ref(),
        "--quiet".as_ref(),
        "--no-checkout".as_ref(),
        "--".as_ref(),
        url.as_ref(),
        root.as_os_str(),
    ];
    git(&arguments.map(OsStr::to_owned)).await?;
    let reference = reference.unwrap_or("HEAD");
    // What is a branch of the origin is none of the clone's yet.
    let mut last = None;
    for name in [format!("refs/remotes/origin/{reference}"), reference.to_owned()] {
        let arguments: [&OsStr; 8] = [
            "-C".as_ref(),
            root.as_os_str(),
            "checkout".as_ref(),
            "--quiet".as_ref(),
            "--detach".as_ref(),
            "--end-of-options".as_ref(),
            name.as_ref(),
            "--".as_ref(),
        ];
        match git(&arguments.map(OsStr::to_owned)).await {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error),
        }
    }
    Err(last.expect("two names were tried"))
}

async fn git(arguments: &[OsString]) -> Result<(), ProjectError> {
    let mut command = Command::new("git");
    command.args(arguments).env("GIT_TERMINAL_PROMPT", "0").stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.map_err(ProjectError::Git)?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            let last =
                text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it failed without a word");
            Err(ProjectError::Clone(last.to_owned()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    async fn repository(root: &Path) {
        fs::create_dir_all(root).unwrap();
        let run = async |arguments: &[&str]| {
            let arguments: Vec<OsString> =
                ["-C", root.to_str().unwrap(), "-c", "user.name=n", "-c", "user.email=e@example.com"]
                    .iter()
                    .chain(arguments)
                    .map(OsString::from)
                    .collect();
            git(&arguments).await.unwrap();
        };
        run(&["init", "--quiet", "--initial-branch", "main"]).await;
        fs::write(root.join("file"), "one").unwrap();
        run(&["add", "."]).await;
        run(&["commit", "--quiet", "-m", "one"]).await;
        run(&["branch", "other"]).await;
        run(&["tag", "first"]).await;
        fs::write(root.join("file"), "two").unwrap();
        run(&["commit", "--quiet", "-am", "two"]).await;
    }

    #[tokio::test]
    async fn a_checkout_is_found_from_below_and_taken_as_git_sees_it() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap().join("p");
        repository(&root).await;
        fs::create_dir(root.join("deep")).unwrap();
        let project = Project::around(&root.join("deep")).unwrap();
        assert_eq!((project.root(), project.filter()), (root.as_path(), SeedFilter::Git));
        assert_eq!(project.origin().origin_kind, "git_checkout");
        fs::create_dir(dir.path().join("plain")).unwrap();
        let plain = Project::of_directory(&dir.path().join("plain")).unwrap();
        assert_eq!((plain.origin().origin_kind.as_str(), plain.filter()), ("directory", SeedFilter::All));
        assert!(matches!(Project::of_directory(&root.join("file")), Err(ProjectError::NoDirectory(_))));
    }

    #[tokio::test]
    async fn a_repository_is_cloned_at_a_branch_a_tag_or_a_commit() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("p");
        repository(&root).await;
        let url = format!("file://{}", root.display());
        for (reference, content) in [(None, "two"), (Some("other"), "one"), (Some("first"), "one")] {
            let project = Project::of_repository(&url, reference).await.unwrap();
            assert_eq!(fs::read_to_string(project.root().join("file")).unwrap(), content, "{reference:?}");
            assert_eq!(project.origin().origin_kind, "repo_url");
            let root = project.root().to_owned();
            drop(project);
            assert!(!root.exists(), "a clone goes with its project");
        }
        let missing = Project::of_repository(&url, Some("missing")).await.unwrap_err();
        assert!(matches!(missing, ProjectError::Clone(_)), "{missing}");
        let nowhere = format!("file://{}", dir.path().join("nowhere").display());
        assert!(matches!(Project::of_repository(&nowhere, None).await, Err(ProjectError::Clone(_))));
        assert!(matches!(
            Project::of_repository("--upload-pack=x", None).await,
            Err(ProjectError::Option(_))
        ));
    }
}
