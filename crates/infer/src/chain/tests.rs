//! What the engine's own choice of widths earns, with drafters and a target that are dice: time is what [`Costs`] say.

use super::*;
use crate::random::{Draw, uniform};
use std::cell::RefCell;
use std::rc::Rc;

/// How often a proposed token has this confidence, and how often it is then accepted.
#[derive(Clone, Copy)]
struct Face {
    share: f64,
    confidence: f32,
    acceptance: f64,
}

/// What is known about the last proposal of whoever made it.
#[derive(Default)]
struct Truth {
    /// Whether each proposed token is what the target writes.
    right: Vec<bool>,
    passes: usize,
    /// Rows read beyond the first of a pass.
    rows: usize,
}

/// A drafter that throws dice: whether it has something to say, then a face for each token.
struct Dice {
    seed: u64,
    throws: usize,
    speaks: f64,
    faces: Vec<Face>,
    is_model: bool,
    read: usize,
    truth: Rc<RefCell<Truth>>,
}

impl Dice {
    fn throw(&mut self) -> f64 {
        self.throws += 1;
        uniform(self.seed, Draw::Token, self.throws)
    }

    fn face(&mut self) -> Face {
        let mut at = self.throw();
        for face in &self.faces[..self.faces.len() - 1] {
            if at < face.share {
                return *face;
            }
            at -= face.share;
        }
        self.faces[self.faces.len() - 1]
    }
}

impl Drafter for Dice {
    fn prepare(&mut self, _prompt: &[u32], _sampling: &SamplingOptions) -> Result<(), InferError> {
        Ok(())
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        let mut proposal = Proposal::default();
        let mut truth = Truth::default();
        if self.throw() >= self.speaks {
            return Ok(proposal);
        }
        if self.is_model {
            truth.rows = (request.history.len() - self.read).min(request.catch_up).saturating_sub(1);
            self.read = request.history.len();
        }
        while proposal.ids.len() < request.most && request.pace.read_on() {
            truth.passes += usize::from(self.is_model);
            let face = self.face();
            let right = self.throw() < face.acceptance;
            if !request.pace.take(face.confidence) {
                break;
            }
            proposal.ids.push(0);
            proposal.confidences.push(face.confidence);
            truth.right.push(right);
        }
        *self.truth.borrow_mut() = truth;
        Ok(proposal)
    }

    fn unread(&self, history: &[u32]) -> usize {
        history.len() - self.read
    }
}

/// Tokens per step of the target over `rounds` rounds.
fn rate(costs: &Costs, matches: Option<(f64, Face)>, model: &[Face], rounds: usize, seed: u64) -> f64 {
    let truth = Rc::new(RefCell::new(Truth::default()));
    let dice = |seed, speaks, faces: &[Face], is_model| {
        Box::new(Dice { seed, throws: 0, speaks, faces: faces.to_vec(), is_model, read: 0, truth: truth.clone() })
    };
    let mut chain = Chain::new(Schedule::Adaptive(costs.clone()));
    if let Some((speaks, face)) = matches {
        chain = chain.then(dice(seed, speaks, &[face], false), MATCH, false);
    }
    if !model.is_empty() {
        chain = chain.then_model(dice(seed + 1000, 1.0, model, true));
    }
    let mut sampler = crate::Sampler::new(SamplingOptions::default()).unwrap();
    let mut history = vec![0; 1];
    let mut time = 0.0;
    for _ in 0..rounds {
        *truth.borrow_mut() = Truth::default();
        let request = Request {
            history: &history,
            most: MAX_DRAFT_LENGTH,
            stop: &[],
            sampler: &mut sampler,
            pace: &mut crate::draft::Unhurried,
            catch_up: usize::MAX,
        };
        let proposal = chain.propose(request).unwrap();
        let truth = truth.borrow();
        let right = truth.right.iter().take(proposal.ids.len());
        let accepted = right.take_while(|right| **right).count();
        chain.learn(&proposal, accepted);
        history.resize(history.len() + accepted + 1, 0);
        time += costs.verify(proposal.ids.len() + 1)
            + truth.passes as f64 * costs.draft
            + if truth.passes > 0 { costs.draft_once } else { 0.0 }
            + truth.rows as f64 * costs.draft_row;
    }
    (history.len() - 1) as f64 / time
}

const TARGET_135M: [f64; 9] = [1.0, 1.25, 1.29, 1.37, 1.47, 1.57, 1.75, 1.93, 2.0];

/// V and c as measured for SmolLM2-135M and a draft of 12M parameters (docs/BENCHMARKS.md).
fn small() -> Costs {
    let mut costs = Costs { draft_row: 0.01, draft_once: 0.05, ..Costs::flat(0.074) };
    for (rows, verify) in costs.verify.iter_mut().enumerate() {
        *verify = TARGET_135M.get(rows).copied().unwrap_or(2.0 + 0.12 * (rows as f64 - 8.0));
    }
    costs
}

/// As measured for a 7B target in q4_0 and a draft of 135M parameters.
fn large() -> Costs {
    let mut costs = Costs { draft_row: 0.01, ..Costs::flat(0.053) };
    costs.verify = [1.0, 1.24, 1.24, 1.24, 1.25, 1.36, 1.62, 1.89, 1.99, 2.09, 2.18, 2.28, 2.5, 2.72, 2.93, 3.15, 3.37];
    costs
}

fn face(share: f64, confidence: f32, acceptance: f64) -> Face {
    Face { share, confidence, acceptance }
}

/// Mean over ten seeds.
fn mean_rate(costs: &Costs, matches: Option<(f64, Face)>, model: &[Face]) -> f64 {
    (0..10).map(|seed| rate(costs, matches, model, 1000, seed)).sum::<f64>() / 10.0
}

/// Always wrong, and sure of it or not; and one that is right now and then, too seldom for what it takes to ask it.
#[test]
fn a_draft_that_does_not_pay_costs_little() {
    let wrong = [face(0.5, 0.3, 0.0), face(0.5, 5.0, 0.0)];
    let unsure = [face(1.0, 0.1, 0.05)];
    let seldom = [face(0.65, 0.3, 0.08), face(0.2, 2.0, 0.25), face(0.15, 5.0, 0.6)];
    for costs in [small(), large()] {
        for model in [&wrong[..], &unsure, &seldom] {
            assert!(mean_rate(&costs, None, model) > 0.985);
            for matches in [Some((0.3, face(1.0, 6.0, 0.8))), Some((0.7, face(1.0, 9.0, 0.9)))] {
                let (with, without) = (mean_rate(&costs, matches, model), mean_rate(&costs, matches, &[]));
                assert!(with > 0.97 * without, "{with} beside {without} without the draft");
            }
        }
    }
}

#[test]
fn a_good_draft_comes_close_to_the_best_fixed_width() {
    for costs in [small(), large()] {
        for alpha in [0.6, 0.7, 0.8, 0.9] {
            let (reached, best) = (mean_rate(&costs, None, &[face(1.0, 3.5, alpha)]), costs.optimum(alpha).1);
            assert!(reached > 0.95 * best, "α {alpha}: {reached} of {best}");
        }
    }
}
