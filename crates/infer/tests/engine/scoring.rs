//! Scores are the log-probabilities that sessions give, and windows are lm-evaluation-harness's.

use crate::common::{config, ids, machines, parameters};
use backend::Precision;
use infer::{Session, rolling_windows, score, score_rolling, score_windows, strided_windows};
use proptest::prelude::*;

const VOCAB: usize = 37;
const CONTEXT: usize = 24;

fn log_softmax(logits: &[f32], id: u32) -> f32 {
    let highest = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&logit| f64::from(logit - highest).exp()).sum();
    (f64::from(logits[id as usize] - highest) - sum.ln()) as f32
}

#[test]
fn scores_agree_with_a_session() {
    for cpu in machines() {
        let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, Precision::F32);
        let model = parameters.model();
        let text = ids(CONTEXT, VOCAB);
        let scores = score(&cpu, &model, &text).unwrap();
        assert_eq!((scores.len(), scores[0]), (CONTEXT, None));
        let mut session = Session::new(&cpu, &model, CONTEXT).unwrap();
        for at in 1..CONTEXT {
            let logits = session.prefill(&text[at - 1..at]).unwrap();
            let (expected, found) = (log_softmax(logits, text[at]), scores[at].unwrap());
            // Both in f32; sums in another order, of some forty terms around 1.
            assert!((expected - found).abs() < 1e-4, "token {at}: {found}, but a session says {expected}");
        }
    }
}

#[test]
fn short_texts_and_long_ones() {
    let Some(cpu) = machines().last() else { return };
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, Precision::F32);
    let model = parameters.model();
    assert_eq!(score(&cpu, &model, &[]).unwrap(), []);
    assert_eq!(score(&cpu, &model, &[4]).unwrap(), [None]);
    let error = score(&cpu, &model, &ids(CONTEXT + 1, VOCAB)).unwrap_err().to_string();
    assert!(
        error.contains("25 tokens long") && error.contains("context is 24") && error.contains("--rolling"),
        "{error}"
    );
    let error = score(&cpu, &model, &[1, 99]).unwrap_err().to_string();
    assert!(error.contains("token 1 of the input has id 99"), "{error}");
    assert!(score_rolling(&cpu, &model, &[1, 2], None, CONTEXT + 1).is_err());
}

/// Each window scored by itself, by the harness's own description of them.
#[test]
fn rolling_scores_are_those_of_the_windows() {
    let Some(cpu) = machines().last() else { return };
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, Precision::F32);
    let model = parameters.model();
    for (length, window) in [(1, 5), (5, 5), (6, 5), (23, 5), (60, CONTEXT)] {
        let text = ids(length, VOCAB);
        let found = score_rolling(&cpu, &model, &text, Some(1), window).unwrap();
        let mut expected = Vec::new();
        for (inputs, targets) in harness_windows(&text, 1, window) {
            // The harness drops the left of a window's predictions: all but the targets.
            let whole = [&inputs[..], &targets[targets.len() - 1..]].concat();
            let scores = score_rolling(&cpu, &model, &whole[1..], Some(whole[0]), CONTEXT).unwrap();
            expected.extend_from_slice(&scores[scores.len() - targets.len()..]);
        }
        assert_eq!(found, expected, "{length} tokens in windows of {window}");
        assert!(found.iter().all(Option::is_some) && found.len() == length);
    }
}

/// `(inputs, targets)` as `get_rolling_token_windows(tokens, prefix, max_seq_len = window, context_len = 1)` yields
/// them: the first predicts from the prefix, later ones are as long as possible and predict what is left.
fn harness_windows(tokens: &[u32], prefix: u32, window: usize) -> Vec<(Vec<u32>, Vec<u32>)> {
    let first = window.min(tokens.len());
    let mut windows = vec![([&[prefix], &tokens[..first - 1]].concat(), tokens[..first].to_vec())];
    let mut predicted = first;
    while predicted < tokens.len() {
        let count = window.min(tokens.len() - predicted);
        let end = predicted + count;
        let begin = end as isize - window as isize - 1;
        let inputs =
            if begin < 0 { [&[prefix], &tokens[..end - 1]].concat() } else { tokens[begin as usize..end - 1].to_vec() };
        windows.push((inputs, tokens[end - count..end].to_vec()));
        predicted = end;
    }
    windows
}

/// Every token behind the first window has the context that the stride leaves it: its score is that of a text that
/// begins there.
#[test]
fn strided_scores_are_those_of_the_windows() {
    let Some(cpu) = machines().last() else { return };
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 3, Precision::F32);
    let model = parameters.model();
    let text = ids(50, VOCAB);
    let mut told = Vec::new();
    let found = score_windows(&cpu, &model, &text, None, 12, 5, &mut |done| told.push(done)).unwrap();
    assert_eq!(told, [12, 17, 22, 27, 32, 37, 42, 47, 49]);
    assert_eq!((found.len(), found[0]), (50, None));
    assert_eq!(found[..13], score(&cpu, &model, &text[..13]).unwrap());
    for (begin, end, scored) in [(5, 18, 5), (35, 48, 5), (37, 50, 2)] {
        let alone = score(&cpu, &model, &text[begin..end]).unwrap();
        assert_eq!(found[end - scored..end], alone[alone.len() - scored..], "the window up to {end}");
    }
    for (window, stride, flag) in [(0, 1, "window"), (CONTEXT + 1, 1, "window"), (12, 0, "stride"), (12, 13, "stride")]
    {
        let error = score_windows(&cpu, &model, &text, None, window, stride, &mut |_| ()).unwrap_err().to_string();
        assert!(error.contains(flag), "{error}");
    }
}

proptest! {
    #[test]
    fn strides_leave_context(predicted in 0usize..200, window in 1usize..40, stride in 1usize..40) {
        let stride = stride.min(window);
        let mut next = 0;
        for w in strided_windows(predicted, window, stride) {
            prop_assert_eq!(w.inputs.end - w.scored, next);
            prop_assert!(w.inputs.len() == window.min(w.inputs.end), "as full as the text allows");
            prop_assert!(next == 0 || w.scored <= stride, "at least window - stride inputs come before what is scored");
            next = w.inputs.end;
        }
        prop_assert_eq!(next, predicted);
    }

    #[test]
    fn windows_predict_every_token_once(predicted in 0usize..200, window in 1usize..40) {
        let mut next = 0;
        for w in rolling_windows(predicted, window) {
            prop_assert!((1..=window).contains(&w.inputs.len()) && w.scored <= w.inputs.len());
            // Input i predicts token i + 1.
            prop_assert_eq!(w.inputs.end - w.scored, next);
            next = w.inputs.end;
        }
        prop_assert_eq!(next, predicted);
    }
}
