//! Every environment variable that `slm` reads, and nothing else reads the environment.

use std::path::PathBuf;

/// Forces a dispatch level of the CPU: `scalar`, `avx2`, `avx512`, `avx512bf16`, `amx`.
pub(crate) const SLM_CPU: &str = "SLM_CPU";

/// What is logged on stderr: `error`, `warn` (the default), `info`, `debug`, `trace`, or a filter such as
/// `data=debug`.
pub(crate) const SLM_LOG: &str = "SLM_LOG";

/// Cargo's home, where the default corpus lies; `$HOME/.cargo` when it is not set.
const CARGO_HOME: &str = "CARGO_HOME";

/// The value of `name`, if it is set and not empty.
pub(crate) fn get(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// Cargo's home folder.
pub(crate) fn cargo_home() -> PathBuf {
    match get(CARGO_HOME) {
        Some(home) => PathBuf::from(home),
        None => std::env::home_dir().unwrap_or_default().join(".cargo"),
    }
}

/// Where a user's programs keep what they can make again; `$HOME/.cache` when it is not set.
const XDG_CACHE_HOME: &str = "XDG_CACHE_HOME";

/// Our folder there, if the user has a home.
pub(crate) fn cache_folder() -> Option<PathBuf> {
    let home = || std::env::home_dir().filter(|home| !home.as_os_str().is_empty()).map(|home| home.join(".cache"));
    get(XDG_CACHE_HOME).map(PathBuf::from).or_else(home).map(|folder| folder.join("slm"))
}
