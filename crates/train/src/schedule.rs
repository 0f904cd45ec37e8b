//! The learning rate over the steps.

use recipe::{Schedule, ScheduleKind};

/// The learning rate of step `step` (the first is 1) of `steps`.
///
/// With `p` the peak, `m` the minimum, `w` the steps of warm-up and `n` all steps:
/// - warm-up, every kind: `p · step/w` up to step `w`, so step 0 would be 0;
/// - cosine: `m + (p − m) · ½(1 + cos(π · (step − w)/(n − w)))`, AMD's and TinyLlama's `get_lr`;
/// - linear: `p + (m − p) · (step − w)/(n − w)`;
/// - wsd: `p` until the last `d = round(decay_fraction · n)` steps, then `p + (m − p) · (step − (n − d))/d`;
/// - constant: `p`.
///
/// The last step of the three that fall has exactly `m` (AMD's script counts from 0: its first step learns nothing and
/// its last one is a step short of `m`).
pub fn learning_rate(schedule: &Schedule, step: u64, steps: u64) -> f64 {
    let Schedule { learning_rate: peak, min_learning_rate: least, warmup_steps: warmup, .. } = *schedule;
    if step < warmup {
        return peak * step as f64 / warmup as f64;
    }
    let fall = |from: u64| match steps.saturating_sub(from) {
        0 => 0.0,
        length => (step.saturating_sub(from) as f64 / length as f64).min(1.0),
    };
    match schedule.kind {
        ScheduleKind::Constant => peak,
        ScheduleKind::Linear => between(peak, least, fall(warmup)),
        ScheduleKind::Cosine => {
            let share = 0.5 * (1.0 + (std::f64::consts::PI * fall(warmup)).cos());
            least + share * (peak - least)
        }
        ScheduleKind::Wsd => {
            let decay = (schedule.decay_fraction * steps as f64).round() as u64;
            between(peak, least, fall(steps.saturating_sub(decay)))
        }
    }
}

/// The point at `share` of the way; exactly `to` at its end.
fn between(from: f64, to: f64, share: f64) -> f64 {
    from * (1.0 - share) + to * share
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(kind: ScheduleKind, warmup_steps: u64) -> Schedule {
        Schedule { kind, learning_rate: 6e-4, min_learning_rate: 6e-5, warmup_steps, decay_fraction: 0.2 }
    }

    #[track_caller]
    fn check(schedule: &Schedule, steps: u64, expected: &[(u64, f64)]) {
        for &(step, rate) in expected {
            let found = learning_rate(schedule, step, steps);
            assert!((found - rate).abs() < 1e-15, "step {step}: {found} instead of {rate}");
        }
    }

    #[test]
    fn cosine_is_amds() {
        // 320,000 steps, 2,000 of warm-up; at a quarter of the cosine ½(1 + cos 45°) = 0.853553390593…
        let amd = schedule(ScheduleKind::Cosine, 2_000);
        let quarter = 6e-5 + 0.853_553_390_593_273_8 * 5.4e-4;
        check(
            &amd,
            320_000,
            &[
                (1, 3e-7),
                (1_000, 3e-4),
                (2_000, 6e-4),
                (2_000 + 79_500, quarter),
                (161_000, 3.3e-4),
                (320_000, 6e-5),
                (400_000, 6e-5),
            ],
        );
    }

    #[test]
    fn wsd_is_flat_then_falls_in_a_line() {
        let wsd = schedule(ScheduleKind::Wsd, 10);
        let middle = (6e-4 + 6e-5) / 2.0;
        check(&wsd, 100, &[(5, 3e-4), (10, 6e-4), (80, 6e-4), (90, middle), (100, 6e-5)]);
    }

    #[test]
    fn linear_and_constant() {
        let middle = (6e-4 + 6e-5) / 2.0;
        check(&schedule(ScheduleKind::Linear, 10), 110, &[(5, 3e-4), (10, 6e-4), (60, middle), (110, 6e-5)]);
        check(&schedule(ScheduleKind::Constant, 4), 10, &[(1, 1.5e-4), (4, 6e-4), (10, 6e-4)]);
    }

    #[test]
    fn warm_up_longer_than_the_run_and_runs_of_one_step_are_finite() {
        for kind in [ScheduleKind::Cosine, ScheduleKind::Wsd, ScheduleKind::Linear, ScheduleKind::Constant] {
            for (warmup, steps) in [(0, 1), (1, 1), (5, 1), (100, 10)] {
                for step in 1..=steps {
                    let rate = learning_rate(&schedule(kind, warmup), step, steps);
                    assert!(rate > 0.0 && rate <= 6e-4, "{kind:?} {warmup} {step}/{steps}: {rate}");
                }
            }
        }
    }
}
