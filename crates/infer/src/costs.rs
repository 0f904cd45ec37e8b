//! [`Costs`] of two models on this machine, measured in a fraction of a second.

use crate::{Costs, InferError, MAX_GENERATED_ROWS, Session};
use std::time::{Duration, Instant};

/// Rows of a pass that are timed; V is a straight line between them.
const ROWS: [usize; 8] = [1, 2, 3, 4, 6, 8, 12, MAX_GENERATED_ROWS];
/// Tokens that are read before passes are timed.
const DEPTH: usize = 32;
/// The least of so many passes counts: whatever else the machine does makes a pass longer, never shorter.
const REPEATS: usize = 3;
/// No pass is repeated beyond this time, so a large model is measured in one round.
const BUDGET: Duration = Duration::from_millis(400);

/// Times passes of both sessions, whose texts are forgotten.
///
/// # Errors
/// A session with room for fewer than two tokens; what a pass meets.
pub fn measure_costs(target: &mut Session<'_>, draft: Option<&mut Session<'_>>) -> Result<Costs, InferError> {
    let seconds = pass_seconds(target, &ROWS)?;
    let step = seconds[0].1;
    let mut costs = Costs { step_seconds: step, ..Costs::flat(0.0) };
    for rows in 2..=MAX_GENERATED_ROWS {
        let relative = interpolated(&seconds, rows) / step;
        costs.verify[rows - 1] = relative.max(costs.verify[rows - 2]);
    }
    if let Some(draft) = draft {
        let seconds = pass_seconds(draft, &[1, MAX_GENERATED_ROWS])?;
        let (one, most) = (seconds[0], seconds[seconds.len() - 1]);
        costs.draft = one.1 / step;
        costs.draft_once = (cold_seconds(target, draft)? / step - costs.draft).max(0.0);
        costs.draft_row = ((most.1 - one.1) / (most.0 - one.0).max(1) as f64 / step).max(0.0);
    }
    Ok(costs)
}

/// Seconds of one step of `target`, whose text is forgotten: the least of a few, so a large model's in a fraction of a second.
///
/// # Errors
/// What a pass meets.
pub fn measure_step(target: &mut Session<'_>) -> Result<f64, InferError> {
    let mut least = f64::INFINITY;
    for _ in 0..REPEATS {
        target.truncate(0);
        let pass = Instant::now();
        target.extend(&[0])?;
        least = least.min(pass.elapsed().as_secs_f64());
    }
    target.truncate(0);
    Ok(least)
}

/// Rows and seconds of a pass over them, as far as they fit; at least one entry.
fn pass_seconds(session: &mut Session<'_>, rows: &[usize]) -> Result<Vec<(usize, f64)>, InferError> {
    let depth = DEPTH.min(session.capacity() / 2);
    let room = session.capacity() - depth;
    let ids: Vec<u32> = (0..(depth + room.min(MAX_GENERATED_ROWS)) as u64)
        // Scattered over the vocabulary, as the rows of an embedding that text needs are.
        .map(|index| (index * 2_654_435_761 % session.vocab() as u64) as u32)
        .collect();
    session.truncate(0);
    if depth > 0 {
        session.prefill(&ids[..depth])?;
    }
    let mut least: Vec<(usize, f64)> =
        rows.iter().filter(|&&rows| rows <= room).map(|&rows| (rows, f64::INFINITY)).collect();
    let started = Instant::now();
    // In turns, so that a disturbance does not hit one number of rows alone. The first turn finds cold caches.
    for turn in 0..=REPEATS {
        for (rows, seconds) in &mut least {
            let pass = Instant::now();
            session.truncate(depth);
            session.extend(&ids[depth..depth + *rows])?;
            *seconds = seconds.min(pass.elapsed().as_secs_f64());
        }
        if turn > 0 && started.elapsed() > BUDGET {
            break;
        }
    }
    session.truncate(0);
    Ok(least)
}

/// Seconds of a pass of `draft` over one row behind one of `target`, whose weights have taken the caches meanwhile.
fn cold_seconds(target: &mut Session<'_>, draft: &mut Session<'_>) -> Result<f64, InferError> {
    let mut least = f64::INFINITY;
    for _ in 0..=REPEATS {
        target.truncate(0);
        target.extend(&[0])?;
        draft.truncate(0);
        let pass = Instant::now();
        draft.extend(&[0])?;
        least = least.min(pass.elapsed().as_secs_f64());
    }
    target.truncate(0);
    draft.truncate(0);
    Ok(least)
}

/// On the line between the neighbours of `rows`; beyond the last, on the line through the last two.
fn interpolated(seconds: &[(usize, f64)], rows: usize) -> f64 {
    let after = seconds.partition_point(|&(known, _)| known < rows).clamp(1, seconds.len().max(2) - 1);
    let (Some(&(x0, y0)), Some(&(x1, y1))) = (seconds.get(after - 1), seconds.get(after)) else {
        return seconds[0].1;
    };
    y0 + (y1 - y0) * (rows as f64 - x0 as f64) / (x1 - x0) as f64
}

#[cfg(test)]
mod tests {
    use super::interpolated;

    #[test]
    fn what_was_not_timed_lies_on_lines() {
        let seconds = [(1, 1.0), (4, 4.0), (8, 6.0)];
        for (rows, expected) in [(1, 1.0), (2, 2.0), (4, 4.0), (6, 5.0), (8, 6.0), (10, 7.0)] {
            assert!((interpolated(&seconds, rows) - expected).abs() < 1e-12, "{rows}");
        }
        assert_eq!(interpolated(&[(1, 2.0)], 5), 2.0);
    }
}
