//! Several drafters, the cheapest first, and how many tokens they propose.
//!
//! With [`Schedule::Adaptive`] every decision follows from [`Costs`] and from what was accepted before; no clock is read
//! while text is written. So the same costs, seed and prompt give the same text, sampled text too.

mod ledger;

use self::ledger::{Account, Ledger};
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

/// Most tokens that a draft reads in order to be tried again.
const TRIAL_CATCH_UP: usize = 64;

/// A drafter and what is known about it.
struct Stage<'b> {
    drafter: Box<dyn Drafter + 'b>,
    acceptance: Acceptance,
    /// Whether its tokens cost passes of a model.
    is_model: bool,
    account: Account,
    /// Steps that its passes of this round took.
    spent: f64,
}

/// Drafters in the order in which they are asked.
pub struct Chain<'b> {
    stages: Vec<Stage<'b>>,
    schedule: Schedule,
    heuristic: usize,
    ledger: Ledger,
    /// Which stage made the last proposal.
    author: usize,
}

/// A draft by a model.
struct Drafted {
    proposal: Proposal,
    /// What it promises now that the time is spent, in tokens over no proposal.
    gain: f64,
}

impl<'b> Chain<'b> {
    /// No drafters yet.
    pub fn new(schedule: Schedule) -> Self {
        let ledger = Ledger::default();
        Self { stages: Vec::new(), schedule, heuristic: HEURISTIC_START, ledger, author: 0 }
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
        let acceptance = Acceptance::new(prior);
        self.stages.push(Stage { drafter, acceptance, is_model, account: Account::default(), spent: 0.0 });
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
        self.stages.iter_mut().for_each(|stage| stage.spent = 0.0);
        let price = self.ledger.rate();
        let mut best = (Choice { width: 0, gain: 0.0 }, Proposal::default());
        for (index, stage) in self.stages.iter_mut().enumerate().filter(|(_, stage)| stage.account.has_credit()) {
            if stage.is_model {
                let made = draft(stage, costs, &mut request, price, best.0.gain, &mut self.ledger)?;
                if let Some(drafted) = made {
                    // Tokens that were drawn must be judged: see `Pace`.
                    let drawn = !request.sampler.is_greedy() && !drafted.proposal.ids.is_empty();
                    if drawn || best.0.gain == 0.0 || drafted.gain >= best.0.gain {
                        self.author = index;
                        return Ok(drafted.proposal);
                    }
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

/// A proposal by a model; `None` if it is not worth trying. `to_beat` is what a match gains.
fn draft(
    stage: &mut Stage<'_>,
    costs: &Costs,
    request: &mut Request<'_>,
    price: f64,
    to_beat: f64,
    ledger: &mut Ledger,
) -> Result<Option<Drafted>, InferError> {
    if stage.drafter.fault().is_some() {
        return Ok(None);
    }
    let unread = stage.drafter.unread(request.history);
    // The first pass reads what the text has grown by since the last one.
    let beginning = |unread: usize| costs.draft_once + unread.saturating_sub(1) as f64 * costs.draft_row;
    let expected = stage.acceptance.expected(0);
    let most = request.most.min(MAX_DRAFT_LENGTH);
    let planned = costs.best_width(&expected[..most], price, costs.draft, beginning(unread));
    let is_trial = planned.gain.min(stage.account.mean_gain()) <= to_beat;
    let mut catch_up = request.catch_up;
    if is_trial {
        let unread = unread.min(TRIAL_CATCH_UP);
        let time = costs.draft + beginning(unread) + costs.verify(2) - 1.0;
        if to_beat > 0.0 || !ledger.grants_trial(time) {
            return Ok(None);
        }
        catch_up = TRIAL_CATCH_UP;
    }
    let unread = unread.min(catch_up);
    let greedy = request.sampler.is_greedy();
    let mut pace = Earning {
        costs,
        acceptance: &stage.acceptance,
        price,
        is_trial,
        most,
        taken: 0,
        survival: 1.0,
        passes: 0,
        worthy: true,
    };
    let request = Request { most, pace: &mut pace, catch_up, ..reborrow(request) };
    let mut proposal = stage.drafter.propose(request)?;
    if pace.passes == 0 {
        return Ok(None); // no room
    }
    let time = pace.passes as f64 * costs.draft + beginning(unread);
    let worthy = pace.worthy;
    let survival = stage.acceptance.survival(&proposal.confidences);
    if greedy && !is_trial {
        // Only certain tokens may be taken back: see `Pace`.
        shorten(&mut proposal, costs.best_width(&survival, price, 0.0, 0.0).width);
    }
    let width = proposal.ids.len();
    let gain = survival[..width].iter().sum::<f64>() - price * (costs.verify(width + 1) - 1.0);
    // What a trial forced upon the draft is not what it would earn, nor is reading up what each round would cost.
    let lasting = time - if is_trial { beginning(unread) - beginning(1) } else { 0.0 };
    stage.account.asked(if worthy { gain } else { 0.0 } - price * lasting);
    stage.spent = time;
    Ok(Some(Drafted { gain, proposal }))
}

/// Goes on while what may follow is worth its time.
struct Earning<'a> {
    costs: &'a Costs,
    acceptance: &'a Acceptance,
    price: f64,
    /// The first token is taken whatever it promises.
    is_trial: bool,
    most: usize,
    taken: usize,
    /// The probability that all that was taken is accepted.
    survival: f64,
    passes: usize,
    /// Whether the first token would have been taken without that.
    worthy: bool,
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
        let worth = self.worth_more(Some(next));
        let forced = self.is_trial && self.taken == 0;
        self.worthy &= worth || !forced;
        let wanted = worth || forced;
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
            for stage in &mut self.stages {
                stage.acceptance.forget();
                stage.account = Account::default();
            }
        }
        let price = self.ledger.rate();
        for stage in &mut self.stages {
            if let (Schedule::Adaptive(costs), true) = (&self.schedule, stage.is_model) {
                let expected = stage.acceptance.expected(0);
                let planned = costs.best_width(&expected, price, costs.draft, costs.draft_once);
                if planned.gain.min(stage.account.mean_gain()) <= 0.0 {
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
            let (tokens, time) = ((accepted + 1) as f64, costs.verify(width + 1));
            self.ledger.round(tokens, time + self.stages.iter().map(|stage| stage.spent).sum::<f64>());
            for (index, stage) in self.stages.iter_mut().enumerate() {
                let judged = if index == self.author { time - tokens } else { 0.0 };
                stage.account.round(tokens, judged + stage.spent);
                stage.acceptance.age();
            }
        }
    }

    fn pass_seconds(&self) -> f64 {
        self.stages.iter().map(|stage| stage.drafter.pass_seconds()).sum()
    }

    fn fault(&self) -> Option<&InferError> {
        self.stages.iter().find_map(|stage| stage.drafter.fault())
    }
}

#[cfg(test)]
mod tests;
