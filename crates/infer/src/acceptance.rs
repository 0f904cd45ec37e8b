//! Running estimates of how often proposals are accepted: by place in the proposal, and by how sure the drafter was.

use crate::MAX_DRAFT_LENGTH;

/// Weight that an observation loses with each later one of its kind: the last 25 or so count.
const DECAY: f64 = 0.96;

/// What is believed before anything was seen: acceptance by confidence, worth [`PRIOR_WEIGHT`] observations.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Prior {
    /// Acceptance of confidences below each edge (the last class: above all edges), edges ascending.
    pub(crate) classes: &'static [(f32, f64)],
    /// Acceptance whatever the confidence.
    pub(crate) overall: f64,
}

/// Share of what was seen of a class that each round takes away: after some hundred rounds a class that nothing was heard
/// of is believed to be what it was at first, and tried again.
const AGEING: f64 = 0.01;
/// Few, so that a draft that is always wrong is found out in a handful of rounds.
const PRIOR_WEIGHT: f64 = 2.0;

/// Confidence is the log-odds of the draft's token (ln q/(1−q)), or its lead over the second in logits.
pub(crate) const MODEL: Prior = Prior {
    classes: &[
        (0.25, 0.4),
        (0.5, 0.45),
        (1.0, 0.55),
        (1.5, 0.65),
        (2.0, 0.7),
        (3.0, 0.8),
        (4.0, 0.87),
        (6.0, 0.93),
        (f32::INFINITY, 0.97),
    ],
    overall: 0.75,
};

/// Confidence is the number of tokens that matched.
pub(crate) const MATCH: Prior = Prior {
    classes: &[(1.5, 0.3), (2.5, 0.4), (3.5, 0.5), (5.5, 0.6), (8.5, 0.75), (16.5, 0.85), (f32::INFINITY, 0.93)],
    overall: 0.5,
};

/// An acceptance that forgets slowly.
#[derive(Clone, Copy, Debug)]
struct Rate {
    accepted: f64,
    seen: f64,
}

impl Rate {
    /// Of a prior.
    fn new(acceptance: f64) -> Self {
        Self { accepted: acceptance * PRIOR_WEIGHT, seen: PRIOR_WEIGHT }
    }

    fn learn(&mut self, accepted: bool) {
        self.seen = self.seen * DECAY + 1.0;
        self.accepted = self.accepted * DECAY + f64::from(u8::from(accepted));
    }
}

/// The acceptance of one drafter's proposals.
#[derive(Clone, Debug)]
pub(crate) struct Acceptance {
    prior: Prior,
    /// One a class of confidence.
    classes: Vec<Rate>,
    /// One a place in the proposal.
    places: [Rate; MAX_DRAFT_LENGTH],
}

impl Acceptance {
    pub(crate) fn new(prior: Prior) -> Self {
        let classes = prior.classes.iter().map(|&(_, acceptance)| Rate::new(acceptance)).collect();
        Self { prior, classes, places: [Rate { accepted: 0.0, seen: 0.0 }; MAX_DRAFT_LENGTH] }
    }

    /// A round has passed.
    pub(crate) fn age(&mut self) {
        for (rate, &(_, acceptance)) in self.classes.iter_mut().zip(self.prior.classes) {
            let first = Rate::new(acceptance);
            rate.accepted += AGEING * (first.accepted - rate.accepted);
            rate.seen += AGEING * (first.seen - rate.seen);
        }
    }

    /// Back to the prior.
    pub(crate) fn forget(&mut self) {
        *self = Self::new(self.prior);
    }

    /// The probability that a token of this confidence is accepted if those before it are.
    pub(crate) fn of_confidence(&self, confidence: f32) -> f64 {
        let rate = self.classes[self.class(confidence)];
        rate.accepted / rate.seen
    }

    /// `Sᵢ` of a proposal by its confidences.
    pub(crate) fn survival(&self, confidences: &[f32]) -> Vec<f64> {
        running_product(confidences.iter().map(|&confidence| self.of_confidence(confidence)))
    }

    /// `Sᵢ` by place alone, of the tokens behind the first `from`, which are taken as accepted. A place that was seen
    /// little is believed to be like the one before it.
    pub(crate) fn expected(&self, from: usize) -> Vec<f64> {
        let mut before = self.prior.overall;
        let places = self.places.iter().map(|rate| {
            before = (rate.accepted + PRIOR_WEIGHT * before) / (rate.seen + PRIOR_WEIGHT);
            before
        });
        running_product(places.skip(from))
    }

    /// Takes in that of a proposal with these confidences the first `accepted` tokens were accepted. Behind the first
    /// rejected one nothing is known.
    pub(crate) fn learn(&mut self, confidences: &[f32], accepted: usize) {
        for (place, &confidence) in confidences.iter().take(accepted + 1).enumerate() {
            let class = self.class(confidence);
            self.classes[class].learn(place < accepted);
            if let Some(rate) = self.places.get_mut(place) {
                rate.learn(place < accepted);
            }
        }
    }

    fn class(&self, confidence: f32) -> usize {
        let last = self.prior.classes.len() - 1;
        self.prior.classes.iter().position(|&(edge, _)| confidence < edge).unwrap_or(last)
    }
}

fn running_product(factors: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut product = 1.0;
    factors
        .map(|factor| {
            product *= factor;
            product
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn estimates_follow_what_is_seen_and_forget() {
        let mut acceptance = Acceptance::new(MODEL);
        let first = acceptance.expected(0);
        assert!((first[0] - 0.75).abs() < 1e-12 && (first[1] - 0.5625).abs() < 1e-12);
        for _ in 0..200 {
            acceptance.learn(&[5.0, 0.1, 5.0], 1);
        }
        assert!(acceptance.of_confidence(5.0) > 0.95 && acceptance.of_confidence(0.1) < 0.05);
        let expected = acceptance.expected(0);
        assert!(expected[0] > 0.95 && expected[1] < 0.1, "{expected:?}");
        let survival = acceptance.survival(&[5.0, 5.0, 0.1]);
        assert!(survival[1] > 0.9 && survival[2] < 0.05, "{survival:?}");
        for _ in 0..60 {
            acceptance.learn(&[5.0], 0);
        }
        assert!(acceptance.of_confidence(5.0) < 0.15);
    }

    /// Nothing is learnt about what stood behind a rejection.
    #[test]
    fn a_rejection_hides_the_rest() {
        let (mut one, mut many) = (Acceptance::new(MATCH), Acceptance::new(MATCH));
        one.learn(&[2.0], 0);
        many.learn(&[2.0, 3.0, 4.0], 0);
        assert_eq!(one.expected(0), many.expected(0));
        assert_eq!(one.of_confidence(3.0), many.of_confidence(3.0));
    }

    #[test]
    fn a_draft_that_is_always_wrong_is_found_out_soon() {
        let mut acceptance = Acceptance::new(MODEL);
        for _ in 0..6 {
            acceptance.learn(&[5.0], 0);
        }
        assert!(acceptance.expected(0)[0] < 0.25, "{:?}", acceptance.expected(0));
    }

    /// A class that is no longer proposed would otherwise stay condemned.
    #[test]
    fn bad_luck_is_forgotten() {
        let mut acceptance = Acceptance::new(MATCH);
        for _ in 0..10 {
            acceptance.learn(&[6.0], 0);
        }
        assert!(acceptance.of_confidence(6.0) < 0.15);
        for _ in 0..400 {
            acceptance.age();
        }
        assert!(acceptance.of_confidence(6.0) > 0.6, "{}", acceptance.of_confidence(6.0));
    }

    #[test]
    fn any_confidence_has_a_class() {
        let acceptance = Acceptance::new(MATCH);
        for confidence in [-1.0, 0.0, 1e30, f32::INFINITY, f32::NAN] {
            assert!((0.0..=1.0).contains(&acceptance.of_confidence(confidence)));
        }
    }
}
