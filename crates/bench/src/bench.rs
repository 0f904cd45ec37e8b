//! What every benchmark needs: the machine, its ceilings, how often to run, and who watches.

use crate::ceiling::{Ceiling, Moment, by_reading};
use crate::measure::{Measurement, Statistics, seconds};
use crate::profile::{Profile, Profiled};
use crate::{BenchError, Ceilings};
use backend::{Backend, KvType, Precision};
use cpu::Cpu;

/// A machine to measure.
pub struct Bench<'a> {
    pub(crate) cpu: &'a Cpu,
    /// Its ceilings.
    pub ceilings: Ceilings,
    /// Timed runs.
    pub(crate) runs: usize,
    /// Watches the operations, if it was asked for.
    profiled: Option<Profiled<'a>>,
}

/// A result, and where the time went if that was asked for.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The result.
    pub line: Measurement,
    /// Where the time went.
    pub profile: Option<Profile>,
}

impl Outcome {
    /// The same, of a session whose keys and values were kept as `kv_type`.
    pub(crate) fn with_cache(self, kv_type: KvType) -> Self {
        Self { line: self.line.with_cache(kv_type), ..self }
    }
}

/// What was run, in the words of a result.
pub(crate) struct Subject<'a> {
    pub(crate) name: &'a str,
    pub(crate) shape: String,
    pub(crate) dtype: &'a str,
    pub(crate) unit: &'a str,
    /// What a profile calls a step.
    pub(crate) step: &'static str,
}

impl<'a> Bench<'a> {
    /// Working set of the bandwidth that limits operations which stream through activations, gradients or moments:
    /// beyond every cache but the largest.
    pub const STREAM_BYTES: f64 = 256.0 * (1 << 20) as f64;

    /// Measures the ceilings of `cpu`. With `profile` the products' precision, every operation is timed by itself;
    /// that costs a microsecond or so a call.
    pub fn new(cpu: &'a Cpu, runs: usize, profile: Option<Precision>) -> Self {
        let profiled = profile.map(|precision| Profiled::new(cpu, precision));
        Self { cpu, ceilings: Ceilings::measure(cpu), runs, profiled }
    }

    /// Who computes: the machine, or the watcher before it.
    pub(crate) fn backend(&self) -> &dyn Backend {
        match &self.profiled {
            Some(profiled) => profiled,
            None => self.cpu,
        }
    }

    /// Forgets what the watcher has seen.
    pub(crate) fn warm(&self) {
        if let Some(profiled) = &self.profiled {
            profiled.clear();
        }
    }

    /// Seconds of each run.
    pub(crate) fn seconds<E>(&self, work: impl FnMut() -> Result<(), E>) -> Result<Vec<f64>, E> {
        seconds(self.runs, || self.warm(), work)
    }

    /// The result of work that arithmetic limits: `amount` units a run.
    pub(crate) fn by_arithmetic(
        &self,
        subject: Subject<'_>,
        amount: f64,
        ceiling: Ceiling,
        work: impl FnOnce() -> Result<Vec<f64>, BenchError>,
    ) -> Result<Outcome, BenchError> {
        let seconds = work()?;
        let bandwidth = match self.profiled {
            Some(_) => Moment::now(self.cpu, Self::STREAM_BYTES).bandwidth,
            None => f64::INFINITY,
        };
        let statistics = Statistics::of_rates(amount, &seconds);
        let profile = self.profile(&subject, seconds.len() as f64, &seconds, bandwidth);
        let line = self.line(subject, statistics, Some(ceiling));
        Ok(Outcome { line, profile })
    }

    /// The result of work that memory limits: `amount` units a run, each of which reads `bytes`.
    pub(crate) fn by_reading(
        &self,
        subject: Subject<'_>,
        amount: f64,
        bytes: f64,
        work: impl FnMut() -> Result<(), BenchError>,
    ) -> Result<Outcome, BenchError> {
        let before = Moment::now(self.cpu, bytes);
        let seconds = self.seconds(work)?;
        let after = Moment::now(self.cpu, bytes);
        let bandwidth = before.bandwidth.max(after.bandwidth);
        let statistics = Statistics::of_rates(amount, &seconds);
        let profile = self.profile(&subject, amount * seconds.len() as f64, &seconds, bandwidth);
        let mut line = self.line(subject, statistics, Some(by_reading(bandwidth, bytes)));
        line.placement_ns = before.placement_ns.zip(after.placement_ns).map(|(before, after)| [before, after]);
        Ok(Outcome { line, profile })
    }

    /// A line of results.
    pub(crate) fn line(&self, subject: Subject<'_>, statistics: Statistics, ceiling: Option<Ceiling>) -> Measurement {
        let Subject { name, shape, dtype, unit, .. } = subject;
        Measurement::new(self.cpu, name, shape, dtype, unit, self.runs, statistics, ceiling)
    }

    fn profile(&self, subject: &Subject<'_>, steps: f64, seconds: &[f64], bandwidth: f64) -> Option<Profile> {
        let profiled = self.profiled.as_ref()?;
        let seconds = seconds.iter().sum();
        Some(Profile::of(profiled, subject.name, subject.step, steps, seconds, &self.ceilings, bandwidth))
    }
}
