//! Several texts at once are each what they are alone.

use crate::common::{bits, config, ids, machines, parameters};
use backend::{KvType, Precision};
use infer::{InferError, Session, Texts};

const VOCAB: usize = 37;
const CONTEXT: usize = 40;

/// Texts of other lengths and beginnings, one of which ends early and begins anew.
#[test]
fn a_text_among_others_has_the_bits_that_it_has_alone() {
    for cpu in machines() {
        for (precision, kv_type) in [(Precision::F32, KvType::F32), (Precision::Bf16, KvType::Bf16)] {
            let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 1, precision);
            let model = parameters.model();
            let mut alone = Session::with_cache(&cpu, &model, CONTEXT, kv_type).unwrap();
            let mut texts = Texts::new(&cpu, &model, 3, CONTEXT, kv_type).unwrap();
            let all = ids(CONTEXT + 3, VOCAB);
            let prompts = [&all[..5], &all[1..12], &all[2..5]];
            let mut want = |prompt: &[u32], rest: &[u32]| -> Vec<Vec<u32>> {
                alone.truncate(0);
                let mut rows = vec![bits(alone.prefill(prompt).unwrap())];
                rows.extend(rest.iter().map(|&id| bits(alone.advance(&[id]).unwrap())));
                rows
            };
            let rest = &all[20..26];
            let wanted = prompts.map(|prompt| want(prompt, rest));
            for (text, prompt) in prompts.iter().enumerate() {
                assert_eq!(bits(texts.begin(text, prompt).unwrap()), wanted[text][0]);
            }
            for (step, &id) in rest.iter().enumerate() {
                // The first text rests for two steps, and the order is another each time.
                let mut tokens: Vec<(usize, u32)> = (if step < 2 { 1 } else { 0 }..3).map(|text| (text, id)).collect();
                tokens.rotate_left(step % 2);
                if step >= 2 {
                    tokens.iter_mut().filter(|token| token.0 == 0).for_each(|token| token.1 = rest[step - 2]);
                }
                let logits = texts.advance(&tokens).unwrap();
                for (row, &(text, _)) in tokens.iter().enumerate() {
                    let place = if text == 0 { step - 1 } else { step + 1 };
                    assert_eq!(bits(logits.row(row)), wanted[text][place], "text {text}, step {step}");
                }
            }
            assert_eq!(bits(texts.begin(1, prompts[2]).unwrap()), wanted[2][0]);
            assert_eq!((texts.tokens(0), texts.tokens(1), texts.tokens(2)), (9, 3, 9));
            drop((alone, texts));
            parameters.free(&cpu);
        }
    }
}

#[test]
fn texts_are_refused_before_anything_is_read() {
    let cpu = machines().next().unwrap();
    let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 1, Precision::F32);
    let model = parameters.model();
    {
        let mut texts = Texts::new(&cpu, &model, 2, 4, KvType::F32).unwrap();
        assert!(matches!(texts.begin(0, &[]), Err(InferError::EmptyPrompt)));
        assert!(matches!(texts.begin(0, &[1; 5]), Err(InferError::Full { .. })));
        assert!(matches!(texts.begin(0, &[99]), Err(InferError::UnknownToken { .. })));
        texts.begin(0, &[1; 4]).unwrap();
        texts.begin(1, &[1]).unwrap();
        assert!(matches!(texts.advance(&[(1, 2), (0, 2)]), Err(InferError::Full { .. })));
        assert!(matches!(texts.advance(&[]), Err(InferError::RowCount { .. })));
        assert_eq!((texts.tokens(0), texts.tokens(1)), (4, 1));
        assert!(Texts::new(&cpu, &model, 0, 4, KvType::F32).is_err());
    }
    parameters.free(&cpu);
}
