//! Programs that take cores away, to see what that costs.

use anyhow::{Context, Result};
use std::process::{Child, Command, Stdio};

/// Processes that spin, a core each, until this is dropped.
pub(crate) struct BusyCores(Vec<Child>);

/// Spins for as long as the program that started it lives, were it killed.
const SPIN: &str = "while kill -0 $PPID 2>/dev/null; do i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; done";

impl BusyCores {
    /// Takes the last `count` cores, each by a process that stays on it (`taskset` of util-linux).
    pub(crate) fn take(count: u16) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut busy = Self(Vec::new());
        for index in 0..usize::from(count) {
            let core = (cores - 1).saturating_sub(index).to_string();
            let child = Command::new("taskset")
                .args(["-c", &core, "sh", "-c", SPIN])
                .stdin(Stdio::null())
                .spawn()
                .context("--busy-cores needs `taskset` of util-linux")?;
            busy.0.push(child);
        }
        Ok(busy)
    }
}

impl Drop for BusyCores {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It may have ended by itself; there is nothing to do about either.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
