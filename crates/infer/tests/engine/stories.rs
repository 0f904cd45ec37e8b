//! A real model's greedy text is the committed one, with and without speculation.

use crate::common::{listen, machines};
use backend::Precision;
use infer::{GenerateOptions, ModelDrafter, NgramDrafter, Session, generate};
use model::Model;
use std::path::{Path, PathBuf};

/// The folder of small real models beside the repository, if it is there.
fn stories() -> Option<PathBuf> {
    let given = std::env::var_os("SLM_SHARED").map(PathBuf::from);
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("shared"));
    given.into_iter().chain(beside).map(|shared| shared.join("models/stories260k")).find(|folder| folder.is_dir())
}

/// The numbers of one list of a flat JSON object.
fn list(json: &str, key: &str) -> Vec<u32> {
    let after = json.split_once(&format!("\"{key}\"")).unwrap().1;
    let inside = after.split_once('[').unwrap().1.split_once(']').unwrap().0;
    inside.split(',').map(|number| number.trim().parse().unwrap()).collect()
}

#[test]
fn stories260k_gives_the_committed_text() {
    let Some(folder) = stories() else {
        println!("skipped: no folder `shared` with models/stories260k beside the repository; set SLM_SHARED");
        return;
    };
    let json = std::fs::read_to_string(folder.join("greedy.json")).unwrap();
    let (prompt, expected) = (list(&json, "prompt_ids"), list(&json, "greedy_ids"));
    for cpu in machines() {
        let model = Model::load(&cpu, &folder.join("stories260K.bin"), Precision::F32).unwrap();
        let mut session = Session::new(&cpu, &model, model.config.context).unwrap();
        let options = GenerateOptions { max_tokens: expected.len(), draft_length: 7, ..Default::default() };
        let plain = generate(&mut session, None, &prompt, &options, &mut listen).unwrap();
        assert_eq!(plain.ids, expected);
        let ngram = &mut NgramDrafter::default();
        let from_text = generate(&mut session, Some(ngram), &prompt, &options, &mut listen).unwrap();
        assert_eq!(from_text.ids, expected);
        let mut draft = ModelDrafter::new(&cpu, &model, model.config.vocab, model.config.context).unwrap();
        let from_model = generate(&mut session, Some(&mut draft), &prompt, &options, &mut listen).unwrap();
        assert_eq!((from_model.ids, from_model.acceptance), (expected.clone(), 1.0));
        drop((session, draft));
        model.free(&cpu);
    }
}
