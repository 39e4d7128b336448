//! What a boot is made of. Every stage can be called alone and says in words what went wrong.

use std::fmt::Display;
use std::path::Path;

use godwit_wire::messages::Failed;

pub(crate) mod clock;
pub(crate) mod disks;
pub(crate) mod environment;
pub(crate) mod identity;
pub(crate) mod modules;
pub(crate) mod mounts;
pub(crate) mod network;
pub(crate) mod root;
pub(crate) mod spawn;
pub(crate) mod users;

/// What a stage returns: `Failed` carries its name and a sentence.
pub(crate) type Staged<T> = Result<T, Failed>;

/// Makes the failure of a stage.
pub(crate) fn failed(stage: &str, message: impl Display) -> Failed {
    Failed {
        stage: stage.into(),
        message: message.to_string(),
    }
}

/// Puts a stage's name and what was being done in front of an error.
pub(crate) trait Context<T> {
    fn stage(self, stage: &str, doing: impl Display) -> Staged<T>;
}

impl<T, E: Display> Context<T> for Result<T, E> {
    fn stage(self, stage: &str, doing: impl Display) -> Staged<T> {
        self.map_err(|error| failed(stage, format_args!("{doing}: {error}")))
    }
}

/// Ensures that a directory exists, with its parents.
pub(crate) fn ensure_directory(stage: &str, path: impl AsRef<Path>) -> Staged<()> {
    let path = path.as_ref();
    std::fs::create_dir_all(path).stage(
        stage,
        format_args!("cannot make directory {}", path.display()),
    )
}
