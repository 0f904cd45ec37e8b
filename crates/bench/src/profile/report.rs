//! A profile as lines: what each operation took of the step and of its ceiling.

use super::{Entry, Profiled};
use crate::Ceilings;
use serde::Serialize;
use std::fmt;

/// One operation's part in a step.
#[derive(Clone, Debug, Serialize)]
pub struct ProfileLine {
    /// What was profiled: `train`, `prefill` or `decode`.
    pub profile: String,
    /// The operation, or `outside operations`.
    pub operation: String,
    /// Input and output features of its matrix, for example `768 → 2304`.
    pub shape: Option<String>,
    /// Calls in a step.
    pub calls: f64,
    /// Milliseconds in a step.
    pub ms: f64,
    /// The part of the step's time.
    pub share_of_step: f64,
    /// Billions of operations of matrix products a second.
    pub gflops: Option<f64>,
    /// Billions of bytes that must be read and written, a second.
    pub gbs: f64,
    /// What limits it: arithmetic or memory, whichever needs more time for its work.
    pub ceiling_by: Option<String>,
    /// The least time that its work needs at that limit, over the time it took.
    pub share_of_ceiling: Option<f64>,
}

/// Where the time of a step went, the longest first.
#[derive(Clone, Debug)]
pub struct Profile {
    /// A line an operation, and at the end what was spent outside of them.
    pub lines: Vec<ProfileLine>,
    /// What a step is, for example `token`.
    pub step: &'static str,
    /// Milliseconds of a step.
    pub ms: f64,
}

impl Profile {
    /// What `profiled` saw in `steps` steps that took `seconds` together, named `name`; memory is read at `bandwidth`
    /// bytes a second at most.
    pub(crate) fn of(
        profiled: &Profiled<'_>,
        name: &str,
        step: &'static str,
        steps: f64,
        seconds: f64,
        ceilings: &Ceilings,
        bandwidth: f64,
    ) -> Self {
        let mut entries = profiled.entries();
        entries.sort_by(|a, b| b.seconds.total_cmp(&a.seconds));
        let inside: f64 = entries.iter().map(|entry| entry.seconds).sum();
        let mut lines: Vec<_> =
            entries.iter().map(|entry| line(name, entry, steps, seconds, ceilings, bandwidth)).collect();
        lines.push(ProfileLine {
            profile: name.into(),
            operation: "outside operations".into(),
            shape: None,
            calls: 0.0,
            ms: 1e3 * (seconds - inside) / steps,
            share_of_step: 1.0 - inside / seconds,
            gflops: None,
            gbs: 0.0,
            ceiling_by: None,
            share_of_ceiling: None,
        });
        Self { lines, step, ms: 1e3 * seconds / steps }
    }
}

fn line(name: &str, entry: &Entry, steps: f64, seconds: f64, ceilings: &Ceilings, bandwidth: f64) -> ProfileLine {
    let Entry { work, .. } = entry;
    let flops = ceilings.flops(work.precision);
    let (arithmetic, memory) = (work.flops / flops, work.bytes / bandwidth);
    let ceiling = if arithmetic > memory {
        format!("{:.0} GFLOP/s", flops / 1e9)
    } else {
        format!("{:.1} GB/s", bandwidth / 1e9)
    };
    ProfileLine {
        profile: name.into(),
        operation: entry.operation.into(),
        shape: entry.shape.map(|(outputs, inputs)| format!("{inputs} → {outputs}")),
        calls: entry.calls as f64 / steps,
        ms: 1e3 * entry.seconds / steps,
        share_of_step: entry.seconds / seconds,
        gflops: (work.flops > 0.0).then(|| work.flops / entry.seconds / 1e9),
        gbs: work.bytes / entry.seconds / 1e9,
        ceiling_by: Some(ceiling),
        share_of_ceiling: Some(arithmetic.max(memory) / entry.seconds),
    }
}

/// A table in Markdown.
impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| operation | calls | ms a {} | share | GFLOP/s | GB/s | of its ceiling |", self.step)?;
        writeln!(f, "|---|---|---|---|---|---|---|")?;
        for line in &self.lines {
            let shape = line.shape.as_ref().map_or_else(String::new, |shape| format!(" {shape}"));
            let gflops = line.gflops.map_or_else(String::new, |gflops| format!("{gflops:.1}"));
            let (calls, gbs) = match line.ceiling_by {
                Some(_) => (format!("{}", (100.0 * line.calls).round() / 100.0), format!("{:.1}", line.gbs)),
                None => Default::default(),
            };
            let ceiling = match (line.share_of_ceiling, &line.ceiling_by) {
                (Some(share), Some(by)) => format!("{:.0} % of {by}", 100.0 * share),
                _ => String::new(),
            };
            writeln!(
                f,
                "| {}{shape} | {calls} | {:.3} | {:.1} % | {gflops} | {gbs} | {ceiling} |",
                line.operation,
                line.ms,
                100.0 * line.share_of_step
            )?;
        }
        write!(f, "| all | | {:.3} | 100 % | | | |", self.ms)
    }
}
