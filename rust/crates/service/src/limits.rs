//! Limits of the kernel on this process.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Open as many files as the kernel lets this process: each connection is one.
pub fn raise_open_files() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        log::warn!("at most {:?} open files: {error}", limit.current);
    }
}
