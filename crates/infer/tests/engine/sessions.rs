//! A session's rows have the same bits, however they come.

use crate::common::{bits, config, ids, machines, parameters};
use backend::{Backend, KvType, Precision};
use infer::{InferError, MAX_GENERATED_ROWS, Session};

const VOCAB: usize = 37;
const CONTEXT: usize = 80;
const PROMPT: usize = 11;

/// Logits of the rows of `text` behind the prompt, `chunk` at a time.
fn in_chunks(session: &mut Session<'_>, text: &[u32], chunk: usize) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    for part in text.chunks(chunk) {
        let logits = session.extend(part).unwrap();
        rows.extend((0..logits.rows()).map(|row| bits(logits.row(row))));
    }
    rows
}

/// Calls `check` with a session for each level, precision of the model and type of the cache.
fn for_each_session(check: impl Fn(&mut Session<'_>)) {
    for cpu in machines() {
        for precision in [Precision::F32, Precision::Bf16] {
            let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 1, precision);
            let model = parameters.model();
            for cache in KvType::ALL {
                check(&mut Session::with_cache(&cpu, &model, CONTEXT, cache).unwrap());
            }
            parameters.free(&cpu);
        }
    }
}

/// Later rows read what earlier ones stored, so equal logits of all rows mean equal keys and values too.
#[test]
fn rows_do_not_depend_on_how_many_come_at_once() {
    let text = ids(CONTEXT, VOCAB);
    let (prompt, rest) = text.split_at(PROMPT);
    for_each_session(|session| {
        check_rows(session, prompt, rest);
        assert_eq!(session.len(), CONTEXT);
    });
}

/// The rows of `rest` have the same bits in chunks of every size.
pub(crate) fn check_rows(session: &mut Session<'_>, prompt: &[u32], rest: &[u32]) {
    session.prefill(prompt).unwrap();
    let one_by_one = in_chunks(session, rest, 1);
    for chunk in 2..=MAX_GENERATED_ROWS {
        session.truncate(prompt.len());
        assert_eq!(in_chunks(session, rest, chunk), one_by_one, "{chunk} rows at a time");
    }
}

#[test]
fn a_truncated_session_has_forgotten_everything() {
    let text = ids(CONTEXT, VOCAB);
    let (prompt, rest) = text.split_at(PROMPT);
    for_each_session(|session| {
        session.prefill(prompt).unwrap();
        let expected = in_chunks(session, rest, 1);
        for keep in [0, 1, 7, 30] {
            session.truncate(PROMPT + keep);
            // Something else, longer than a pass of the text.
            in_chunks(session, &[3; 2 * MAX_GENERATED_ROWS], MAX_GENERATED_ROWS);
            session.truncate(PROMPT + keep);
            assert_eq!(in_chunks(session, &rest[keep..], 5), expected[keep..], "kept {keep}");
        }
    });
}

#[test]
fn a_prompt_may_come_in_parts() {
    let text = ids(40, VOCAB);
    for_each_session(|session| {
        let whole = bits(session.prefill(&text).unwrap());
        for first in [1, 15, 16, 17, 39] {
            session.truncate(0);
            session.prefill(&text[..first]).unwrap();
            assert_eq!(bits(session.prefill(&text[first..]).unwrap()), whole, "{first} tokens first");
        }
    });
}

#[test]
fn long_prompts_pass_in_chunks() {
    let Some(cpu) = machines().last() else { return };
    let parameters = parameters(&cpu, &config(VOCAB, 1200), 1, Precision::F32);
    let model = parameters.model();
    let text = ids(1200, VOCAB);
    let mut session = Session::new(&cpu, &model, 1200).unwrap();
    let whole = bits(session.prefill(&text).unwrap());
    session.truncate(0);
    session.prefill(&text[..700]).unwrap();
    assert_eq!(bits(session.prefill(&text[700..]).unwrap()), whole);
}

#[test]
fn what_does_not_fit_is_refused_and_changes_nothing() {
    let Some(cpu) = machines().next() else { return };
    let before = cpu.allocated_bytes();
    {
        let parameters = parameters(&cpu, &config(VOCAB, CONTEXT), 1, Precision::F32);
        let model = parameters.model();
        let message = |error: InferError| error.to_string();
        for capacity in [0, CONTEXT + 1] {
            let error = message(Session::new(&cpu, &model, capacity).err().unwrap());
            assert!(
                error.contains(&format!("a session of {capacity} tokens")) && error.contains("context is 80"),
                "{error}"
            );
        }
        let mut session = Session::new(&cpu, &model, 20).unwrap();
        session.prefill(&ids(18, VOCAB)).unwrap();
        let error = message(session.extend(&[1, 2, 3]).unwrap_err());
        assert!(error.contains("3 more tokens do not fit: the session holds 18 of at most 20"), "{error}");
        let error = message(session.prefill(&[1, VOCAB as u32]).unwrap_err());
        assert!(error.contains("token 1 of the input has id 37, but the model's vocabulary has 37"), "{error}");
        assert!(matches!(session.extend(&[]), Err(InferError::RowCount { rows: 0, .. })));
        assert!(matches!(session.extend(&[1; 18]), Err(InferError::RowCount { rows: 18, .. })));
        assert!(matches!(session.prefill(&[]), Err(InferError::EmptyPrompt)));
        assert_eq!((session.len(), session.capacity()), (18, 20));
        session.extend(&[1, 2]).unwrap();
        drop(session);
        parameters.free(&cpu);
    }
    // Scratch of the machine may stay, but it is small; the session's buffers are gone.
    assert!(cpu.allocated_bytes() < before + (1 << 20), "{} bytes", cpu.allocated_bytes());
}
