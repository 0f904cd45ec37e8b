//! Time: what each stage took, and what is left for the next.

use crate::output;
use std::time::Instant;

/// What the stages after training need at least: evaluation, export, generation, report.
const RESERVE_SHARE: f64 = 0.07;

/// A clock over the stages.
pub(crate) struct Budget {
    started: Instant,
    seconds: f64,
    stage: Option<(String, Instant)>,
    stages: Vec<(String, f64)>,
    /// Share of the training time that earlier runs were given.
    given: f64,
}

impl Budget {
    /// `seconds` from now on.
    pub(crate) fn new(seconds: f64) -> Self {
        Self { started: Instant::now(), seconds, stage: None, stages: Vec::new(), given: 0.0 }
    }

    /// A stage begins.
    pub(crate) fn begin(&mut self, stage: &str) {
        output::note(format!("\n{} {stage}", number(self.stages.len() + 1)));
        self.stage = Some((stage.into(), Instant::now()));
    }

    /// The stage ends; `result` in a few words.
    pub(crate) fn end(&mut self, result: &str) {
        if let Some((stage, began)) = self.stage.take() {
            let seconds = began.elapsed().as_secs_f64();
            let result = if result.is_empty() { "done" } else { result };
            output::note(format!("  {result} ({seconds:.1} s)"));
            self.stages.push((stage, seconds));
        }
    }

    /// Seconds since the stage began.
    pub(crate) fn stage_seconds(&self) -> f64 {
        self.stage.as_ref().map_or(0.0, |(_, began)| began.elapsed().as_secs_f64())
    }

    /// Seconds of a training run that may take `share` of all training: what is left is divided anew each time, so that a
    /// run that took longer is made up for by the next.
    pub(crate) fn share(&mut self, share: f64) -> f64 {
        let left = (1.0 - RESERVE_SHARE) * self.seconds - self.elapsed();
        let part = share / (1.0 - self.given).max(share);
        self.given += share;
        (left * part).max(1.0)
    }

    /// Seconds since the beginning.
    pub(crate) fn elapsed(&self) -> f64 {
        self.started.elapsed().as_secs_f64()
    }

    /// Stages that have ended, with their seconds.
    pub(crate) fn stages(&self) -> &[(String, f64)] {
        &self.stages
    }
}

fn number(stage: usize) -> String {
    format!("[{stage}/10]")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_run_may_take_all_that_is_left() {
        let mut budget = Budget::new(100.0);
        let first = budget.share(0.75);
        assert!((first - 69.75).abs() < 0.5, "{first}");
        let last = budget.share(0.25);
        assert!((last - 93.0).abs() < 0.5, "nothing was spent yet, so all of it is left: {last}");
    }
}
