use super::*;
use proptest::prelude::*;

fn sampler(options: SamplingOptions) -> Sampler {
    Sampler::new(options).unwrap()
}

fn warm() -> SamplingOptions {
    SamplingOptions { temperature: 1.0, ..SamplingOptions::default() }
}

fn ids(options: SamplingOptions, logits: &[f32]) -> Vec<u32> {
    sampler(options).distribution(logits, &[0]).unwrap().probabilities().map(|(id, _)| id).collect()
}

#[test]
fn greedy_takes_the_lowest_id_among_equals() {
    let mut greedy = sampler(SamplingOptions::default());
    assert_eq!(greedy.sample(&[0.0, 2.0, -1.0, 2.0], &[0]).unwrap(), 1);
    let mut logits = vec![-3.0; 100];
    (logits[40], logits[99]) = (-1.0, -1.0);
    assert_eq!(greedy.sample(&logits, &[0]).unwrap(), 40);
    assert_eq!(greedy.distribution(&logits, &[0]).unwrap(), Distribution::certain(40));
}

#[test]
fn each_step_keeps_what_it_says() {
    let logits = [0.5f32, 0.25, 0.125, 0.125].map(f32::ln);
    assert_eq!(ids(warm(), &logits), [0, 1, 2, 3]);
    assert_eq!(ids(SamplingOptions { top_k: 3, ..warm() }, &logits), [0, 1, 2]);
    assert_eq!(ids(SamplingOptions { top_p: 0.7, ..warm() }, &logits), [0, 1]);
    assert_eq!(ids(SamplingOptions { top_p: 1e-6, ..warm() }, &logits), [0]);
    assert_eq!(ids(SamplingOptions { min_p: 0.4, ..warm() }, &logits), [0, 1]);
    assert_eq!(ids(SamplingOptions { min_p: 1.0, ..warm() }, &logits), [0]);
    assert_eq!(ids(SamplingOptions { temperature: 1e-30, ..warm() }, &logits), [0]);
    // Top-p counts within what top-k left: 0.5 of 0.75 reaches 0.6.
    assert_eq!(ids(SamplingOptions { top_k: 2, top_p: 0.6, ..warm() }, &logits), [0]);
}

#[test]
fn the_penalty_counts_a_token_once_and_lowers_negative_logits_too() {
    let options = SamplingOptions { repetition_penalty: 2.0, ..warm() };
    let (logits, history) = ([2.0, -1.0, 0.5], [0, 0, 1, 77]);
    let penalized = sampler(options).distribution(&logits, &history).unwrap();
    let plain = sampler(warm()).distribution(&[1.0, -2.0, 0.5], &history).unwrap();
    assert_eq!(penalized, plain);
}

#[test]
fn logits_that_are_not_numbers_are_an_error() {
    for bad in [f32::NAN, f32::INFINITY] {
        for options in [SamplingOptions::default(), warm()] {
            let error = sampler(options).sample(&[0.0, bad, 1.0], &[4, 5, 6]).unwrap_err().to_string();
            assert!(error.contains("position 2"), "{error}");
        }
    }
    assert!(sampler(warm()).sample(&[f32::NEG_INFINITY; 3], &[1]).is_err());
    assert_eq!(sampler(warm()).sample(&[f32::NEG_INFINITY, 0.0], &[1]).unwrap(), 1);
}

#[test]
fn ranges_are_checked_and_the_flag_is_named() {
    let cases = [
        (SamplingOptions { temperature: -1.0, ..warm() }, "--temperature is -1, but it must be 0 or more"),
        (SamplingOptions { temperature: f32::NAN, ..warm() }, "--temperature is NaN, but it must be 0 or more"),
        (SamplingOptions { top_p: 0.0, ..warm() }, "--top-p is 0, but it must be above 0 and at most 1"),
        (SamplingOptions { min_p: 1.5, ..warm() }, "--min-p is 1.5, but it must be from 0 to 1"),
        (SamplingOptions { repetition_penalty: 0.0, ..warm() }, "--repetition-penalty is 0, but it must be above 0"),
    ];
    for (options, message) in cases {
        assert_eq!(Sampler::new(options).unwrap_err().to_string(), message);
    }
}

#[test]
fn the_same_seed_and_position_give_the_same_token() {
    let logits: Vec<f32> = (0..50).map(|id| (id % 7) as f32 * 0.1).collect();
    let draw =
        |seed, position| sampler(SamplingOptions { seed, ..warm() }).sample(&logits, &vec![0; position]).unwrap();
    let text = |seed| (1..40).map(|position| draw(seed, position)).collect::<Vec<_>>();
    assert_eq!(text(3), text(3));
    assert_ne!(text(3), text(4));
}

/// The definition, in f64 and by sorting everything.
fn naive(options: SamplingOptions, logits: &[f32]) -> Vec<(u32, f64)> {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |logit: f32| f64::from((logit - highest) / options.temperature).exp();
    let mut kept: Vec<(u32, f64)> = (0..).zip(logits.iter().map(|&logit| weight(logit))).collect();
    kept.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    if options.top_k > 0 {
        kept.truncate(options.top_k);
    }
    let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
    let mut before = 0.0;
    kept.retain(|&(_, weight)| {
        let keep = before < f64::from(options.top_p) * total || options.top_p == 1.0;
        before += weight;
        keep
    });
    kept.retain(|&(_, weight)| weight >= f64::from(options.min_p));
    let total: f64 = kept.iter().map(|&(_, weight)| weight).sum();
    kept.sort_by_key(|&(id, _)| id);
    kept.into_iter().map(|(id, weight)| (id, weight / total)).collect()
}

proptest! {
    #[test]
    fn warping_follows_its_definition(
        logits in proptest::collection::vec(-6f32..6.0, 1..700),
        temperature in 0.5f32..2.0,
        top_k in prop_oneof![Just(0), 1usize..400],
        top_p in prop_oneof![Just(1.0), 0.05f32..0.99],
        min_p in prop_oneof![Just(0.0), 0.01f32..0.9],
    ) {
        let options = SamplingOptions { temperature, top_k, top_p, min_p, ..warm() };
        let found: Vec<_> = sampler(options).distribution(&logits, &[0]).unwrap().probabilities().collect();
        let expected = naive(options, &logits);
        // A token at a border may fall on either side of it by rounding: at most one at each of the two.
        prop_assert!(found.len().abs_diff(expected.len()) <= 2, "{} and {}", found.len(), expected.len());
        for (id, p) in &found {
            if let Some((_, q)) = expected.iter().find(|(other, _)| other == id) {
                prop_assert!((p - q).abs() < 1e-4 * q.max(1e-3) || found.len() != expected.len(), "{id}: {p} and {q}");
            } else {
                prop_assert!(found.len() != expected.len(), "{id} is not expected");
            }
        }
    }
}
