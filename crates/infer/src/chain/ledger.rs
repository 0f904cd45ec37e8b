//! What speculation earns and what it may lose. Times are steps of the target.

/// Steps by which a drafter may be behind plain decoding before it must wait until it has credit again: a draft is found
/// out in a round or two.
const CREDIT: f64 = 1.5;
/// Share of the time that a drafter may lose beyond the credit, and that trying a draft again may take.
const TRIAL_SHARE: f64 = 0.01;
/// Weight that a round loses with each later one in the estimates.
const DECAY: f64 = 0.98;
/// What a draft is believed to earn before it was asked: tokens a round, as if in so many rounds.
const FIRST_GAIN: (f64, f64) = (0.3, 2.0);

/// Tokens and time of the rounds so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ledger {
    /// Decaying sums.
    recent_tokens: f64,
    recent_time: f64,
    /// Time that may be spent on trying again a draft which promises nothing.
    trial_time: f64,
}

impl Ledger {
    pub(super) fn round(&mut self, tokens: f64, time: f64) {
        self.recent_tokens = self.recent_tokens * DECAY + tokens;
        self.recent_time = self.recent_time * DECAY + time;
        self.trial_time = (self.trial_time + TRIAL_SHARE * time).min(CREDIT * 4.0);
    }

    /// λ: tokens per step, at least those of plain decoding.
    pub(super) fn rate(&self) -> f64 {
        // Ten steps of plain decoding to begin with, so that one lucky round is no standard.
        ((self.recent_tokens + 10.0) / (self.recent_time + 10.0)).max(1.0)
    }

    /// Whether there is `time` for a trial, which is then spent.
    pub(super) fn grants_trial(&mut self, time: f64) -> bool {
        let granted = self.trial_time >= time;
        if granted {
            self.trial_time -= time;
        }
        granted
    }
}

/// What one drafter has gained and lost.
#[derive(Clone, Copy, Debug)]
pub(super) struct Account {
    /// Time beyond that of plain decoding; negative where it gained.
    behind: f64,
    /// Decaying sums over the rounds in which it was asked, those included in which it then proposed nothing, which
    /// the estimates of its acceptance never see: tokens beyond what the time was worth, and rounds.
    gain: f64,
    asked: f64,
}

impl Default for Account {
    fn default() -> Self {
        Self { behind: 0.0, gain: FIRST_GAIN.0 * FIRST_GAIN.1, asked: FIRST_GAIN.1 }
    }
}

impl Account {
    /// A round that yielded `tokens` has passed, of which this drafter lost `time` (gained, if negative).
    pub(super) fn round(&mut self, tokens: f64, time: f64) {
        // What an earlier text gained is no licence to lose as much.
        self.behind = (self.behind + time - TRIAL_SHARE * tokens).max(-4.0 * CREDIT);
    }

    pub(super) fn has_credit(&self) -> bool {
        self.behind <= CREDIT
    }

    /// It was asked, and promised to gain so many tokens beyond what its time was worth.
    pub(super) fn asked(&mut self, gain: f64) {
        self.gain = self.gain * DECAY + gain;
        self.asked = self.asked * DECAY + 1.0;
    }

    /// Tokens gained a round in which it was asked.
    pub(super) fn mean_gain(&self) -> f64 {
        self.gain / self.asked
    }
}
