//! The machine's ceilings, and every kernel's share of the right one, at the shapes of AMD-135M.

mod cached;
mod elementwise;
mod machine;
mod products;
mod rows;

use crate::BenchError;
use crate::bench::{Bench, Subject};
use crate::ceiling::{Ceiling, Moment};
use crate::measure::{Measurement, Statistics};
use backend::{Backend, Buf, Element, Precision};
use cpu::Cpu;

/// A kernel to measure.
struct Case {
    name: &'static str,
    shape: String,
    dtype: &'static str,
    unit: &'static str,
    measure: Box<Measure>,
}

type Measure = dyn Fn(&Bench<'_>) -> Result<Found, BenchError>;

/// What was found.
struct Found {
    statistics: Statistics,
    ceiling: Option<Ceiling>,
    placement_ns: Option<[f64; 2]>,
}

impl Found {
    /// A limit of the machine: it has no other above it.
    fn limit(value: f64) -> Self {
        let statistics = Statistics { median: value, min: value, max: value };
        Self { statistics, ceiling: None, placement_ns: None }
    }
}

/// Measures every kernel whose line (name, shape, type) contains `only`, and gives each result to `found` as it comes.
///
/// # Errors
/// No memory.
pub fn kernels(bench: &Bench<'_>, only: &str, found: &mut dyn FnMut(Measurement)) -> Result<(), BenchError> {
    let cases = machine::cases()
        .into_iter()
        .chain(products::cases())
        .chain(rows::cases())
        .chain(cached::cases())
        .chain(elementwise::cases());
    for Case { name, shape, dtype, unit, measure } in cases {
        if !format!("{name} {shape} {dtype}").contains(only) {
            continue;
        }
        let Found { statistics, ceiling, placement_ns } = measure(bench)?;
        let mut line = bench.line(Subject { name, shape, dtype, unit, step: "" }, statistics, ceiling);
        line.placement_ns = placement_ns;
        found(line);
    }
    Ok(())
}

/// Shortest run: less than a scheduler's slice, much more than the clock's grain.
const RUN_SECONDS: f64 = 0.02;

/// Seconds of one call of `work`, per run of as many calls as take [`RUN_SECONDS`].
fn seconds_a_call(bench: &Bench<'_>, mut work: impl FnMut()) -> Result<Vec<f64>, BenchError> {
    let once = crate::measure::seconds::<BenchError>(
        1,
        || (),
        || {
            work();
            Ok(())
        },
    )?;
    let calls = (RUN_SECONDS / once[0].max(1e-7)).ceil().clamp(1.0, 1e5);
    let runs = bench.seconds::<BenchError>(|| {
        (0..calls as usize).for_each(|_| work());
        Ok(())
    })?;
    Ok(runs.iter().map(|seconds| seconds / calls).collect())
}

/// The rate of `work`, which does `flops` operations at `precision`, in GFLOP/s.
fn in_gigaflops(bench: &Bench<'_>, precision: Precision, flops: f64, work: impl FnMut()) -> Result<Found, BenchError> {
    Ok(of_gigaflops(bench, precision, flops, &seconds_a_call(bench, work)?))
}

/// [`in_gigaflops`] of seconds that are known.
fn of_gigaflops(bench: &Bench<'_>, precision: Precision, flops: f64, seconds: &[f64]) -> Found {
    let Ceiling { value, by } = bench.ceilings.by_arithmetic(precision, 1e9);
    let statistics = Statistics::of_rates(flops / 1e9, seconds);
    Found { statistics, ceiling: Some(Ceiling { value, by }), placement_ns: None }
}

/// The rate of `work`, which reads and writes `bytes` of a working set of `bytes`, in GB/s. Where it also does `flops`
/// operations at `precision` and those need longer, they are its ceiling.
fn in_gigabytes(
    bench: &Bench<'_>,
    bytes: f64,
    arithmetic: Option<(Precision, f64)>,
    work: impl FnMut(),
) -> Result<Found, BenchError> {
    let before = Moment::now(bench.cpu, bytes);
    let seconds = seconds_a_call(bench, work)?;
    let after = Moment::now(bench.cpu, bytes);
    let bandwidth = before.bandwidth.max(after.bandwidth) / 1e9;
    let mut ceiling = Ceiling { value: bandwidth, by: format!("reading {bandwidth:.1} GB/s") };
    if let Some((precision, flops)) = arithmetic {
        let limit = bench.ceilings.by_arithmetic(precision, flops);
        if limit.value * bytes / 1e9 < bandwidth {
            ceiling = Ceiling { value: limit.value * bytes / 1e9, by: limit.by };
        }
    }
    let placement_ns = before.placement_ns.zip(after.placement_ns).map(|(before, after)| [before, after]);
    Ok(Found { statistics: Statistics::of_rates(bytes / 1e9, &seconds), ceiling: Some(ceiling), placement_ns })
}

/// Buffers that are given back when they are no longer needed.
struct Buffers<'a> {
    cpu: &'a Cpu,
    held: std::cell::RefCell<Vec<Buf>>,
}

impl<'a> Buffers<'a> {
    fn new(cpu: &'a Cpu) -> Self {
        Self { cpu, held: Vec::new().into() }
    }

    /// A buffer of floats between −1 and 1: products of zeros are faster than products of numbers.
    fn noise(&self, len: usize) -> Result<Buf, BenchError> {
        let buf = self.cpu.alloc(Element::F32, len)?;
        self.held.borrow_mut().push(buf);
        self.cpu.write(buf, 0, &noise(len));
        Ok(buf)
    }

    /// A buffer of `ids`.
    fn ids(&self, ids: &[u32]) -> Result<Buf, BenchError> {
        let buf = self.cpu.alloc(Element::U32, ids.len())?;
        self.held.borrow_mut().push(buf);
        self.cpu.write_ids(buf, 0, ids);
        Ok(buf)
    }
}

impl Drop for Buffers<'_> {
    fn drop(&mut self) {
        self.held.take().into_iter().for_each(|buf| self.cpu.free(buf));
    }
}

/// Floats between −1 and 1, the same in every run.
fn noise(len: usize) -> Vec<f32> {
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    (0..len)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every kernel can be told from every other, and so be chosen.
    #[test]
    fn no_two_lines_are_the_same() {
        let lines: Vec<_> = [machine::cases(), products::cases(), rows::cases(), cached::cases(), elementwise::cases()]
            .iter()
            .flatten()
            .map(|case| format!("{} {} {}", case.name, case.shape, case.dtype))
            .collect();
        assert_eq!(lines.iter().collect::<std::collections::BTreeSet<_>>().len(), lines.len(), "{lines:#?}");
    }

    #[test]
    fn a_chosen_kernel_is_measured_alone() {
        let cpu = Cpu::new(1, None).unwrap();
        let bench = Bench::new(&cpu, 1, None);
        let mut lines = Vec::new();
        kernels(&bench, "attention 1 ×", &mut |line| lines.push(line)).unwrap();
        let names: Vec<_> = lines.iter().map(|line| (line.name.as_str(), line.dtype.as_str())).collect();
        assert_eq!(names, [("attention", "bf16"), ("attention", "f32")]);
        assert!(lines.iter().all(|line| line.share_of_ceiling.is_some_and(|share| share > 0.0)));
        let left = cpu.allocated_bytes();
        kernels(&bench, "attention 1 ×", &mut |_| ()).unwrap();
        assert_eq!(cpu.allocated_bytes(), left, "what a measurement took is given back");
    }
}
