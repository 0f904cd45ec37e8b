//! What this processor can do, found once and kept as a value: whoever holds a [`Level`] may run its instructions.
//!
//! `scalar`, `avx2` and `avx512` return the same bits for every operation: they do the same fused multiply-adds in the
//! same order. `avx512bf16` differs from them in products of bf16 matrices alone, where `vdpbf16ps` rounds in its own way
//! (see [`crate::gemm`]); `amx` in products of bf16 matrices and rows of prompts or training, where tiles sum in an order of
//! their own. So the name of the level is all that must be written beside a result to repeat its bits.
//!
//! `amx` has so far run on software tiles only (see [`crate::gemm`]), no machine with AMX being at hand.

#[cfg(target_arch = "x86_64")]
mod amx;

#[cfg(target_arch = "x86_64")]
pub(crate) use amx::has_tiles;

use std::fmt;

/// A set of instructions that this processor was seen to have. Made by [`detect`], [`available`] and [`Level::parse`]
/// only; in order from the plainest to the fastest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Level {
    /// Plain Rust, on any processor.
    #[non_exhaustive]
    Scalar,
    /// AVX2, FMA and F16C.
    #[non_exhaustive]
    Avx2,
    /// AVX-512 F, BW, DQ, VL, beside all of [`Level::Avx2`]. Bf16 is widened and multiplied by f32 instructions.
    #[non_exhaustive]
    Avx512,
    /// [`Level::Avx512`] with AVX512-BF16: bf16 is multiplied by `vdpbf16ps`.
    #[non_exhaustive]
    Avx512Bf16,
    /// [`Level::Avx512Bf16`] with AMX-TILE and AMX-BF16, permitted by the system: bf16 is multiplied by tiles in prompts and
    /// in training, elsewhere as at [`Level::Avx512`].
    #[non_exhaustive]
    Amx,
}

/// What can be wrong with a wish for a processor or for its threads.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum CpuError {
    /// A level that does not exist.
    #[error("CPU level `{asked}` is unknown; this machine has {}", names(available))]
    UnknownLevel {
        /// What was asked for.
        asked: String,
        /// What could be asked for here.
        available: Vec<Level>,
    },
    /// A level that exists, on other machines or in other versions.
    #[error("CPU level `{asked}` is not available here; this machine has {}", names(available))]
    UnavailableLevel {
        /// What was asked for.
        asked: String,
        /// What could be asked for here.
        available: Vec<Level>,
    },
    /// The operating system refused a thread.
    #[error("{threads} threads could not be started ({reason}); ask for fewer")]
    Threads {
        /// How many were asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

fn names(levels: &[Level]) -> String {
    levels.iter().map(|level| level.name()).collect::<Vec<_>>().join(", ")
}

impl Level {
    /// The level named `name` (`scalar`, `avx2`, `avx512`, `avx512bf16`, `amx`), as written in `SLM_CPU` and beside results.
    ///
    /// # Errors
    /// [`CpuError::UnknownLevel`], and [`CpuError::UnavailableLevel`] where this processor does not have it.
    pub fn parse(name: &str) -> Result<Self, CpuError> {
        let available = available();
        if let Some(&level) = available.iter().find(|level| level.name() == name) {
            return Ok(level);
        }
        let asked = name.to_owned();
        Err(match name {
            "avx2" | "avx512" | "avx512bf16" | "amx" => CpuError::UnavailableLevel { asked, available },
            _ => CpuError::UnknownLevel { asked, available },
        })
    }

    /// The level's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Avx512Bf16 => "avx512bf16",
            Self::Amx => "amx",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// All levels of this processor, the plainest first.
pub fn available() -> Vec<Level> {
    #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut, reason = "there is but one"))]
    let mut levels = vec![Level::Scalar];
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if has!("avx2") && has!("fma") && has!("f16c") {
            levels.push(Level::Avx2);
            if has!("avx512f") && has!("avx512bw") && has!("avx512dq") && has!("avx512vl") {
                levels.push(Level::Avx512);
                if has!("avx512bf16") {
                    levels.push(Level::Avx512Bf16);
                    if tiles_usable() {
                        levels.push(Level::Amx);
                    }
                }
            }
        }
    }
    levels
}

/// Whether tiles are there, permitted, and multiply as they should; found once.
#[cfg(target_arch = "x86_64")]
fn tiles_usable() -> bool {
    static USABLE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    let there = || has_tiles() || cfg!(any(test, feature = "software-tiles"));
    *USABLE.get_or_init(|| there() && crate::gemm::amx::tiles_are_right())
}

/// The level to use where none is asked for: the best of [`available`], except that tiles and `vdpbf16ps` must prove
/// themselves in a race of a few milliseconds, run once: `vdpbf16ps` is twice as fast as f32 multiply-adds on AMD's Zen 4
/// and 5, half as fast on Intel's Sapphire Rapids, where tiles are fifteen times as fast.
pub fn detect() -> Level {
    let best = available().last().copied().unwrap_or(Level::Scalar);
    match best {
        Level::Amx if tiles_win() => Level::Amx,
        Level::Amx | Level::Avx512Bf16 if race().is_some_and(|gain| gain <= 1.0) => Level::Avx512,
        Level::Amx => Level::Avx512Bf16,
        _ => best,
    }
}

/// Whether tiles are faster than vectors. With software tiles theirs is the level to be tested.
fn tiles_win() -> bool {
    static WIN: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    cfg!(feature = "software-tiles") || *WIN.get_or_init(|| crate::ceiling::tiles_gain() > 1.0)
}

/// How many times the rate of f32 multiply-adds `vdpbf16ps` has; `None` where the processor does not have it.
pub(crate) fn race() -> Option<f64> {
    static RACE: std::sync::OnceLock<Option<f64>> = std::sync::OnceLock::new();
    *RACE.get_or_init(|| available().contains(&Level::Avx512Bf16).then(crate::ceiling::bf16_dots_gain))
}

/// Processors this process may use, two threads of one core counted once: what compute-bound work can use. At least 1.
pub fn physical_threads() -> usize {
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let mut cores = std::collections::BTreeSet::new();
    for index in 0..logical {
        let path = format!("/sys/devices/system/cpu/cpu{index}/topology/thread_siblings_list");
        // Where the system does not say, every thread counts as a core.
        let siblings = formats::file::read_to_string(path.as_ref()).unwrap_or_else(|_| index.to_string());
        cores.insert(siblings);
    }
    cores.len().clamp(1, logical)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_to_their_levels() {
        for level in available() {
            assert_eq!(Level::parse(level.name()), Ok(level));
        }
        assert!(available().contains(&detect()));
    }

    #[test]
    fn a_level_that_is_not_here_is_refused_by_name() {
        let all = names(&available());
        let message = |name| Level::parse(name).unwrap_err().to_string();
        for name in ["avx2", "avx512", "avx512bf16", "amx"] {
            if available().iter().all(|level| level.name() != name) {
                assert_eq!(message(name), format!("CPU level `{name}` is not available here; this machine has {all}"));
            }
        }
        assert_eq!(message("AVX"), format!("CPU level `AVX` is unknown; this machine has {all}"));
    }
}
