//! What holds of every architecture: caches and trees give the plain pass's numbers, rows are exact, GGUF keeps the model.

use crate::batch::{backends, read, scalar};
use crate::golden::{READ, Reference, golden};
use backend::{Backend, Family, KvType, Precision, Rows, Sequences};
use formats::Encoding;
use model::{Activations, Batch, Model, PrefixTree, Source, TreeBuffers, export, pass};

/// Logits of every row of some equally long sequences, by the plain pass.
fn plain(b: &dyn Backend, model: &Model, ids: &[u32], sequences: usize) -> Vec<f32> {
    let (rows, tokens) = (ids.len(), ids.len() / sequences);
    let acts = Activations::inference(b, &model.config, rows, rows, tokens).unwrap();
    let batch = Batch::new(b, Sequences { batch: sequences, tokens }, false).unwrap();
    b.write_ids(batch.ids, 0, ids);
    pass::forward(b, model, &acts, &batch);
    let logits = read(b, pass::logits(b, model, &acts, 0, Rows::prompt(rows)), rows * model.config.vocab);
    batch.free(b);
    acts.free(b);
    logits
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|value| value.to_bits()).collect()
}

/// The likeliest tokens after a prompt, decoded one by one over a cache.
fn greedy(b: &dyn Backend, model: &Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let (config, room) = (&model.config, prompt.len() + count);
    let acts = Activations::inference(b, config, prompt.len(), 1, room).unwrap();
    let cache = b.new_kv_cache(config.layers, room, config.heads, KvType::F32).unwrap();
    let (mut found, mut given, mut at, mut family) = (Vec::new(), prompt.to_vec(), 0, Family::Prompt);
    while found.len() < count {
        pass::forward_cached(b, model, &acts, cache, at, &given, family);
        let logits = pass::logits(b, model, &acts, given.len() - 1, Rows { count: 1, family });
        let logits = read(b, logits, config.vocab);
        let likeliest = (0..logits.len()).max_by(|&i, &j| logits[i].total_cmp(&logits[j])).unwrap() as u32;
        at += given.len();
        found.push(likeliest);
        (given, family) = (vec![likeliest], Family::Generated);
    }
    b.free_kv_cache(cache);
    found
}

#[test]
fn greedy_text_is_that_of_transformers() {
    for name in READ {
        let reference = Reference::read(&golden(name));
        for b in backends() {
            let model = Model::load(&b, &golden(name), Precision::F32).unwrap();
            let found = greedy(&b, &model, &reference.ids[..5], reference.greedy.len());
            assert_eq!(found, reference.greedy, "{name} at {:?}", b.describe());
        }
    }
}

#[test]
fn a_prompt_has_the_same_bits_over_a_cache_in_pieces_and_in_a_batch() {
    for name in READ {
        let reference = Reference::read(&golden(name));
        let ids = &reference.ids[..14];
        for b in backends() {
            let model = Model::load(&b, &golden(name), Precision::F32).unwrap();
            let config = &model.config;
            let want = plain(&b, &model, ids, 1);
            let all = plain(&b, &model, &reference.ids, reference.ids.len() / 14);
            assert_eq!(bits(&all[..want.len()]), bits(&want), "{name}: in a batch");

            let acts = Activations::inference(&b, config, 6, 6, 14).unwrap();
            let cache = b.new_kv_cache(config.layers, 14, config.heads, KvType::F32).unwrap();
            for (at, count) in [(0, 6), (6, 1), (7, 3), (10, 4)] {
                pass::forward_cached(&b, &model, &acts, cache, at, &ids[at..at + count], Family::Prompt);
                let logits = pass::logits(&b, &model, &acts, 0, Rows::prompt(count));
                let found = read(&b, logits, count * config.vocab);
                let want = &want[at * config.vocab..][..found.len()];
                assert_eq!(bits(&found), bits(want), "{name}: positions from {at} at {:?}", b.describe());
            }
            b.free_kv_cache(cache);
        }
    }
}

#[test]
fn a_tree_has_the_bits_of_its_sequences() {
    let b = scalar();
    for name in READ {
        let model = Model::load(&b, &golden(name), Precision::F32).unwrap();
        let ids = Reference::read(&golden(name)).ids;
        let sequences =
            [ids[..9].to_vec(), [&ids[..5], &ids[20..23]].concat(), [&ids[..5], &ids[20..22], &[3]].concat()];
        let (vocab, mut tree) = (model.config.vocab, PrefixTree::default());
        let runs: Vec<_> = sequences.iter().map(|sequence| tree.push(sequence)).collect();
        let acts = Activations::inference(&b, &model.config, tree.rows(), tree.rows(), 9).unwrap();
        let buffers = TreeBuffers::new(&b, &model.config, tree.rows(), 20).unwrap();
        pass::forward_tree(&b, &model, &acts, &buffers, &tree);
        let logits = pass::logits(&b, &model, &acts, 0, Rows::prompt(tree.rows()));
        let logits = read(&b, logits, tree.rows() * vocab);
        for (sequence, runs) in sequences.iter().zip(runs) {
            let rows = runs.into_iter().flatten();
            let found: Vec<f32> = rows.flat_map(|row| logits[row * vocab..][..vocab].to_vec()).collect();
            assert_eq!(bits(&found), bits(&plain(&b, &model, sequence, 1)), "{name}");
        }
        buffers.free(&b);
    }
}

#[test]
fn generated_rows_do_not_depend_on_how_many_there_are() {
    for name in READ {
        let ids = &Reference::read(&golden(name)).ids[..12];
        for b in backends() {
            let model = Model::load(&b, &golden(name), Precision::F32).unwrap();
            let config = &model.config;
            let run = |pieces: &[usize]| {
                let acts = Activations::inference(&b, config, 6, 6, 12).unwrap();
                let cache = b.new_kv_cache(config.layers, 12, config.heads, KvType::F32).unwrap();
                pass::forward_cached(&b, &model, &acts, cache, 0, &ids[..6], Family::Prompt);
                let (mut at, mut all) = (6, Vec::new());
                for &count in pieces {
                    pass::forward_cached(&b, &model, &acts, cache, at, &ids[at..at + count], Family::Generated);
                    let logits = pass::logits(&b, &model, &acts, 0, Rows::generated(count));
                    all.extend(read(&b, logits, count * config.vocab));
                    at += count;
                }
                b.free_kv_cache(cache);
                bits(&all)
            };
            assert_eq!(run(&[6]), run(&[1, 2, 3]), "{name} at {:?}", b.describe());
        }
    }
}

#[test]
fn gguf_files_hold_the_same_model() {
    let (b, folder) = (scalar(), tempfile::tempdir().unwrap());
    for name in ["gpt2", "llama_biases", "qwen3", "smollm3", "llama_yarn"] {
        let out = folder.path().join(format!("{name}.gguf"));
        export::to_gguf(&b, &golden(name), Encoding::F32, &out, &[]).unwrap();
        let (from, to) = [golden(name), out].map(|path| Source::open(&path).unwrap()).into();
        assert_eq!(to.config().form, from.config().form, "{name}");
        let ids = &Reference::read(&golden(name)).ids[..14];
        let [one, other] = [from, to].map(|source| Model::from_source(&b, &source, Precision::F32).unwrap());
        assert_eq!(bits(&plain(&b, &one, ids, 1)), bits(&plain(&b, &other, ids, 1)), "{name}");
    }
    let refused = export::to_gguf(&b, &golden("opt"), Encoding::F32, &folder.path().join("opt.gguf"), &[]).unwrap_err();
    assert!(refused.to_string().contains("model_type is `opt`, which is not supported (GGUF files hold"), "{refused}");
}

#[test]
fn a_folder_of_the_model_without_its_head_is_read() {
    // As GPT-2's own: no `transformer.` before the names, and causal masks among the tensors.
    let (b, folder) = (scalar(), tempfile::tempdir().unwrap());
    let weights = formats::safetensors::Weights::open(&golden("gpt2")).unwrap();
    let mut tensors: Vec<formats::StoredTensor<'_>> = Vec::new();
    for name in weights.names() {
        let tensor = weights.tensor(name).unwrap();
        tensors.push(formats::StoredTensor { name: name.trim_start_matches("transformer.").into(), ..tensor });
    }
    let mask = vec![0; 4 * 32 * 32];
    let shape = vec![1, 1, 32, 32];
    tensors.push(formats::StoredTensor { name: "h.0.attn.bias".into(), encoding: Encoding::F32, shape, bytes: &mask });
    let metadata = formats::safetensors::Metadata::new();
    formats::safetensors::write(&folder.path().join("model.safetensors"), &tensors, &metadata).unwrap();
    let config = formats::file::read_to_string(&golden("gpt2").join("config.json")).unwrap();
    formats::file::write_bytes(&folder.path().join("config.json"), config.as_bytes()).unwrap();
    let ids = &Reference::read(&golden("gpt2")).ids[..14];
    let [one, other] =
        [golden("gpt2"), folder.path().into()].map(|path| Model::load(&b, &path, Precision::F32).unwrap());
    assert_eq!(bits(&plain(&b, &one, ids, 1)), bits(&plain(&b, &other, ids, 1)));
}
