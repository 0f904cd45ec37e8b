//! Several drafters, the cheapest first, and how many tokens they propose.
//!
//! With [`Schedule::Adaptive`] every decision follows from [`Costs`] and from what was accepted before; no clock is read
//! while text is written. So the same costs, seed and prompt give the same text, sampled text too.

use crate::acceptance::{Acceptance, MATCH, MODEL, Prior};
use crate::draft::{Pace, Request};
use crate::width::Choice;
use crate::{
    Costs, Drafter, InferError, MAX_DRAFT_LENGTH, ModelDrafter, NgramDrafter, Proposal, SamplingOptions, SuffixDrafter,
};

/// How many tokens are proposed at a time.
#[derive(Clone, Debug, PartialEq)]
pub enum Schedule {
    /// As many as may be.
    Fixed,
    /// That of transformers 4.37, which AMD's measurements used: 5 at first, 2 more after a round in which all were
    /// accepted, else 1 fewer; begun anew with each prompt. Never more than [`MAX_DRAFT_LENGTH`], which theirs may be.
    Heuristic,
    /// What promises the most tokens per second, nothing included.
    Adaptive(Costs),
}

/// First width of [`Schedule::Heuristic`].
const HEURISTIC_START: usize = 5;

/// Steps by which speculation may be behind before it must wait until it has earned more: a draft is found out in a
/// round or two.
const CREDIT: f64 = 1.5;
/// Share of the time that speculation may lose beyond the credit, and that trying a draft again may take.
const TRIAL_SHARE: f64 = 0.01;
/// Most tokens that a draft reads in order to be tried again.
const TRIAL_CATCH_UP: usize = 64;
/// Weight that a round loses with each later one in the estimate of the rate.
const RATE_DECAY: f64 = 0.98;

/// A drafter and what is known about it.
struct Stage<'b> {
    drafter: Box<dyn Drafter + 'b>,
    acceptance: Acceptance,
    /// Whether its tokens cost passes of a model.
    is_model: bool,
}

/// Tokens and time of the rounds so far, in steps of the target.
#[derive(Clone, Copy, Debug, Default)]
struct Ledger {
    /// Decaying sums.
    recent_tokens: f64,
    recent_time: f64,
    /// Time beyond that of plain decoding; negative where speculation gained.
    behind: f64,
    /// Time that may be spent on trying again a draft which promises nothing.
    trial_time: f64,
}

impl Ledger {
    fn round(&mut self, tokens: f64, time: f64) {
        self.recent_tokens = self.recent_tokens * RATE_DECAY + tokens;
        self.recent_time = self.recent_time * RATE_DECAY + time;
        self.behind += time - tokens * (1.0 + TRIAL_SHARE);
        // What an earlier text gained is no licence to lose as much.
        self.behind = self.behind.max(-4.0 * CREDIT);
        self.trial_time = (self.trial_time + TRIAL_SHARE * time).min(CREDIT * 4.0);
    }

    /// λ: tokens per step, at least those of plain decoding.
    fn rate(&self) -> f64 {
        // Ten steps of plain decoding to begin with, so that one lucky round is no standard.
        ((self.recent_tokens + 10.0) / (self.recent_time + 10.0)).max(1.0)
    }
}

/// Drafters in the order in which they are asked.
pub struct Chain<'b> {
    stages: Vec<Stage<'b>>,
    schedule: Schedule,
    heuristic: usize,
    ledger: Ledger,
    /// Which stage made the last proposal.
    author: usize,
    /// Steps that the draft's passes of this round took.
    drafted_time: f64,
}

impl<'b> Chain<'b> {
    /// No drafters yet.
    pub fn new(schedule: Schedule) -> Self {
        let ledger = Ledger::default();
        Self { stages: Vec::new(), schedule, heuristic: HEURISTIC_START, ledger, author: 0, drafted_time: 0.0 }
    }

    /// The longest match in prompt and output, then where given a model. The usual choice.
    pub fn usual(model: Option<ModelDrafter<'b>>, schedule: Schedule) -> Self {
        let chain = Self::new(schedule).then_suffix();
        match model {
            Some(model) => chain.then_model(Box::new(model)),
            None => chain,
        }
    }

    /// Then the longest match in prompt and output.
    #[must_use]
    pub fn then_suffix(self) -> Self {
        self.then(Box::new(SuffixDrafter::default()), MATCH, false)
    }

    /// Then the last few tokens' latest occurrence.
    #[must_use]
    pub fn then_ngram(self, ngram: NgramDrafter) -> Self {
        self.then(Box::new(ngram), MATCH, false)
    }

    /// Then a model, or whatever takes the time of one.
    #[must_use]
    pub fn then_model(self, model: Box<dyn Drafter + 'b>) -> Self {
        self.then(model, MODEL, true)
    }

    fn then(mut self, drafter: Box<dyn Drafter + 'b>, prior: Prior, is_model: bool) -> Self {
        self.stages.push(Stage { drafter, acceptance: Acceptance::new(prior), is_model });
        self
    }

    /// The first stage that has something to say.
    fn first(&mut self, mut request: Request<'_>, most: usize) -> Result<Proposal, InferError> {
        for (index, stage) in self.stages.iter_mut().enumerate() {
            let request = Request { most, ..reborrow(&mut request) };
            let proposal = stage.drafter.propose(request)?;
            if !proposal.ids.is_empty() {
                self.author = index;
                return Ok(proposal);
            }
        }
        Ok(Proposal::default())
    }

    /// What promises the most: the best match, a draft by a model, or nothing.
    fn best(&mut self, costs: &Costs, mut request: Request<'_>) -> Result<Proposal, InferError> {
        self.drafted_time = 0.0;
        if self.ledger.behind > CREDIT {
            return Ok(Proposal::default());
        }
        let price = self.ledger.rate();
        let mut best = (Choice { width: 0, gain: 0.0 }, Proposal::default());
        for (index, stage) in self.stages.iter_mut().enumerate() {
            if stage.is_model {
                if let Some(proposal) = draft(stage, costs, &mut request, price, best.0.gain, &mut self.ledger)? {
                    self.author = index;
                    self.drafted_time = proposal.0;
                    return Ok(proposal.1);
                }
                continue;
            }
            let proposal = stage.drafter.propose(reborrow(&mut request))?;
            let choice = costs.best_width(&stage.acceptance.survival(&proposal.confidences), price, 0.0, 0.0);
            if choice.gain > best.0.gain {
                best = (choice, proposal);
                self.author = index;
            }
        }
        let (choice, mut proposal) = best;
        shorten(&mut proposal, choice.width);
        Ok(proposal)
    }
}

/// A proposal by a model and the steps that it took; `None` if it is not worth trying. `to_beat` is what a match gains.
fn draft(
    stage: &mut Stage<'_>,
    costs: &Costs,
    request: &mut Request<'_>,
    price: f64,
    to_beat: f64,
    ledger: &mut Ledger,
) -> Result<Option<(f64, Proposal)>, InferError> {
    if stage.drafter.fault().is_some() {
        return Ok(None);
    }
    let unread = stage.drafter.unread(request.history);
    // The first pass reads what the text has grown by since the last one.
    let catching_up = |unread: usize| unread.saturating_sub(1) as f64 * costs.draft_row;
    let expected = stage.acceptance.expected(0);
    let most = request.most.min(MAX_DRAFT_LENGTH);
    let planned = costs.best_width(&expected[..most], price, costs.draft, catching_up(unread));
    let is_trial = planned.gain <= to_beat;
    let mut most = most;
    let mut catch_up = request.catch_up;
    if is_trial {
        let unread = unread.min(TRIAL_CATCH_UP);
        let time = costs.draft + catching_up(unread) + costs.verify(2) - 1.0;
        if to_beat > 0.0 || ledger.trial_time < time {
            return Ok(None);
        }
        ledger.trial_time -= time;
        (most, catch_up) = (1, TRIAL_CATCH_UP);
    }
    let unread = unread.min(catch_up);
    let greedy = request.sampler.is_greedy();
    let mut pace =
        Earning { costs, acceptance: &stage.acceptance, price, is_trial, most, taken: 0, survival: 1.0, passes: 0 };
    let request = Request { most, pace: &mut pace, catch_up, ..reborrow(request) };
    let mut proposal = stage.drafter.propose(request)?;
    let time = pace.passes as f64 * costs.draft + catching_up(unread);
    if greedy && !is_trial {
        // Only certain tokens may be taken back: see `Pace`.
        let survival = stage.acceptance.survival(&proposal.confidences);
        shorten(&mut proposal, costs.best_width(&survival, price, 0.0, 0.0).width);
    }
    Ok(Some((time, proposal)))
}

/// Goes on while what may follow is worth its time.
struct Earning<'a> {
    costs: &'a Costs,
    acceptance: &'a Acceptance,
    price: f64,
    /// One token, whatever it promises.
    is_trial: bool,
    most: usize,
    taken: usize,
    /// The probability that all that was taken is accepted.
    survival: f64,
    passes: usize,
}

impl Earning<'_> {
    /// Whether more is worth its time, where the next token (drafted already if it has a confidence) is accepted with
    /// `next`, and later ones as their places promise.
    fn worth_more(&self, next: Option<f64>) -> bool {
        let later = self.acceptance.expected(self.taken + usize::from(next.is_some()));
        let first = self.survival * next.unwrap_or(1.0);
        let ahead = next.map(|_| first).into_iter().chain(later.into_iter().map(|survival| first * survival));
        let ahead: Vec<f64> = ahead.take(self.most - self.taken).collect();
        self.costs.worth_more(self.taken, &ahead, self.price, self.costs.draft, usize::from(next.is_some()))
    }
}

impl Pace for Earning<'_> {
    fn read_on(&mut self) -> bool {
        // That the first pass is worth it was found by whoever asked.
        let wanted = self.passes == 0 || (self.taken < self.most && self.worth_more(None));
        self.passes += usize::from(wanted);
        wanted
    }

    fn take(&mut self, confidence: f32) -> bool {
        let next = self.acceptance.of_confidence(confidence);
        let wanted = self.is_trial || self.worth_more(Some(next));
        if wanted {
            self.taken += 1;
            self.survival *= next;
        }
        wanted
    }
}

/// The same request once more.
fn reborrow<'a>(request: &'a mut Request<'_>) -> Request<'a> {
    Request {
        history: request.history,
        most: request.most,
        stop: request.stop,
        sampler: &mut *request.sampler,
        pace: &mut *request.pace,
        catch_up: request.catch_up,
    }
}

fn shorten(proposal: &mut Proposal, width: usize) {
    proposal.ids.truncate(width);
    proposal.distributions.truncate(width);
    proposal.confidences.truncate(width);
}

impl Drafter for Chain<'_> {
    fn prepare(&mut self, prompt: &[u32], sampling: &SamplingOptions) -> Result<(), InferError> {
        self.heuristic = HEURISTIC_START;
        if sampling.temperature > 0.0 {
            self.ledger = Ledger::default();
            self.stages.iter_mut().for_each(|stage| stage.acceptance.forget());
        }
        let price = self.ledger.rate();
        for stage in &mut self.stages {
            if let (Schedule::Adaptive(costs), true) = (&self.schedule, stage.is_model) {
                let expected = stage.acceptance.expected(0);
                if costs.best_width(&expected, price, costs.draft, 0.0).width == 0 {
                    continue;
                }
            }
            stage.drafter.prepare(prompt, sampling)?;
        }
        Ok(())
    }

    fn propose(&mut self, request: Request<'_>) -> Result<Proposal, InferError> {
        let most = request.most;
        match &self.schedule {
            Schedule::Fixed => self.first(request, most),
            Schedule::Heuristic => self.first(request, most.min(self.heuristic)),
            Schedule::Adaptive(costs) => {
                let costs = costs.clone();
                self.best(&costs, request)
            }
        }
    }

    fn learn(&mut self, proposal: &Proposal, accepted: usize) {
        let width = proposal.ids.len();
        if width > 0 {
            self.heuristic = if accepted == width { self.heuristic + 2 } else { self.heuristic.saturating_sub(1) };
            self.heuristic = self.heuristic.clamp(1, MAX_DRAFT_LENGTH);
            let stage = &mut self.stages[self.author];
            stage.acceptance.learn(&proposal.confidences, accepted);
            stage.drafter.learn(proposal, accepted);
        }
        if let Schedule::Adaptive(costs) = &self.schedule {
            self.ledger.round((accepted + 1) as f64, costs.verify(width + 1) + self.drafted_time);
        }
    }

    fn pass_seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.drafter.pass_seconds()).sum()
    }

    fn fault(&self) -> Option<&InferError> {
        self.stages.iter().find_map(|stage| stage.drafter.fault())
    }
}
