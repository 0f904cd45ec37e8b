//! Models on the disk: what is written is read back, what is wrong is refused, and real files compute what they should.

use crate::batch::{config, read, scalar};
use backend::{Backend, Family, Heads, KvType, Precision, Rows};
use formats::gguf::Value;
use formats::safetensors::Metadata;
use formats::{Encoding, StoredTensor, file, safetensors};
use model::{Activations, Config, Model, ModelError, Parameters, Scheme, Source, export, pass};
use std::path::{Path, PathBuf};

/// A folder `DIR/model` of a config whose rows are whole blocks of every type, drawn by AMD's scheme.
fn saved(b: &dyn Backend, dir: &Path, tied: bool) -> (PathBuf, Parameters) {
    let config = Config {
        vocab: 64,
        width: 64,
        heads: Heads { heads: 4, kv_heads: 2, head_dim: 16 },
        ffn_width: 96,
        ..config(2, tied)
    };
    let parameters = Parameters::initialize(b, &config, Scheme::Amd, 3, Precision::F32).unwrap();
    let folder = dir.join("model");
    file::create_dir_all(&folder).unwrap();
    parameters.save(b, &folder, &Metadata::new()).unwrap();
    (folder, parameters)
}

fn bits(b: &dyn Backend, parameters: &Parameters) -> Vec<u32> {
    parameters.to_stored(b).iter().flat_map(|(_, values)| values.iter().map(|value| value.to_bits())).collect()
}

#[test]
fn parameters_survive_a_folder() {
    let (b, dir) = (scalar(), tempfile::tempdir().unwrap());
    for tied in [true, false] {
        let (folder, parameters) = saved(&b, &dir.path().join(format!("{tied}")), tied);
        let loaded = Parameters::load(&b, &folder, Precision::F32).unwrap();
        assert_eq!(loaded.config, parameters.config);
        assert_eq!(bits(&b, &loaded), bits(&b, &parameters));
        assert_eq!(loaded.count(), parameters.count());
    }
}

#[test]
fn parts_cover_every_parameter_once() {
    let b = scalar();
    let parameters = crate::batch::parameters(&b, &config(2, true));
    let mut covered: Vec<usize> = parameters.list.iter().map(|_| 0).collect();
    for part in parameters.parts() {
        assert_eq!(part.at, covered[part.parameter]);
        covered[part.parameter] += part.tensor.len();
    }
    for (covered, parameter) in covered.into_iter().zip(&parameters.list) {
        assert_eq!(covered, parameter.len());
        let rows: usize = parameter.hf_parts().map(|(_, rows)| rows.len()).sum();
        assert_eq!(rows, parameter.rows);
    }
    assert_eq!(parameters.list[2].name, "model.layers.0.self_attn.qkv_proj.weight");
    let names: Vec<_> = parameters.list[2].hf_parts().collect();
    assert_eq!(names[1], ("model.layers.0.self_attn.k_proj.weight".into(), 24..36));
}

#[test]
fn every_export_is_read_back_and_agrees() {
    let (b, dir) = (scalar(), tempfile::tempdir().unwrap());
    for tied in [true, false] {
        let dir = dir.path().join(format!("{tied}"));
        let (folder, parameters) = saved(&b, &dir, tied);
        for encoding in [Encoding::F32, Encoding::F16, Encoding::Bf16] {
            let out = dir.join(format!("hf-{encoding}"));
            let report = export::to_hf_folder(&b, &folder, encoding, &out, &mut |_| Ok(())).unwrap();
            let loaded = Parameters::load(&b, &out, Precision::F32).unwrap();
            assert_eq!(loaded.config, parameters.config);
            assert_eq!(bits(&b, &loaded) == bits(&b, &parameters), encoding == Encoding::F32, "{report:?}");
            assert_eq!(report.max_logit_difference == 0.0, encoding == Encoding::F32);
        }
        for encoding in Encoding::ALL {
            let name = encoding.to_string();
            let out = dir.join(format!("{name}.gguf"));
            let entries = [("general.name".to_string(), Value::String("small".into()))];
            let report = export::to_gguf(&b, &folder, encoding, &out, &entries).unwrap();
            println!("tied {tied} {name}: {report:?}");
            assert!(report.kl_divergence < 0.05, "{report:?}");
            let loaded = Parameters::load(&b, &out, Precision::F32).unwrap();
            assert_eq!(bits(&b, &loaded) == bits(&b, &parameters), encoding == Encoding::F32);
            // And back: a folder from the file.
            let back = dir.join(format!("back-{name}"));
            export::to_hf_folder(&b, &out, Encoding::F32, &back, &mut |_| Ok(())).unwrap();
            let back = Parameters::load(&b, &back, Precision::F32).unwrap();
            assert_eq!(bits(&b, &back), bits(&b, &loaded));
            assert_eq!(back.config, parameters.config);
        }
        let left: Vec<_> = file::list(&dir).unwrap();
        assert!(left.iter().all(|path| !path.to_string_lossy().contains("partial")), "{left:?}");
    }
}

#[test]
fn an_export_never_replaces_what_is_there() {
    let (b, dir) = (scalar(), tempfile::tempdir().unwrap());
    let (folder, _) = saved(&b, dir.path(), true);
    let out = dir.path().join("there.gguf");
    file::write_atomic(&out, |writer| writer.write_all(b"mine")).unwrap();
    let error = export::to_gguf(&b, &folder, Encoding::F32, &out, &[]).unwrap_err();
    assert!(error.to_string().contains("already there"), "{error}");
    assert_eq!(file::read_to_string(&out).unwrap(), "mine");
    assert!(export::to_hf_folder(&b, &folder, Encoding::F32, &folder, &mut |_| Ok(())).is_err());
    let error = export::to_hf_folder(&b, &folder, Encoding::Q8_0, &dir.path().join("q8"), &mut |_| Ok(())).unwrap_err();
    assert!(error.to_string().contains("f32, f16 or bf16, not q8_0"), "{error}");
}

#[test]
fn golden_models_survive_gguf() {
    let (b, dir) = (scalar(), tempfile::tempdir().unwrap());
    for name in ["gqa_tied", "mha_untied", "qwen2"] {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden").join(name);
        let out = dir.path().join(format!("{name}.gguf"));
        // Llama-3 scaling becomes a list of divisors; angles and so logits stay.
        let report = export::to_gguf(&b, &folder, Encoding::F32, &out, &[]).unwrap();
        assert!(report.max_logit_difference < 1e-5, "{report:?}");
        let architecture = |path| Source::open(path).unwrap().config().architecture;
        assert_eq!(architecture(&out), architecture(&folder));
        // Rows of 16 and 24 are no whole blocks: they are stored in f16, and the file still loads.
        export::to_gguf(&b, &folder, Encoding::Q4_0, &dir.path().join(format!("{name}-q4.gguf")), &[]).unwrap();
    }
}

/// Rewrites the weights of a folder after `change`.
fn rewrite(folder: &Path, change: impl Fn(&mut Vec<StoredTensor<'_>>)) {
    let path = folder.join("model.safetensors");
    let weights = safetensors::Weights::open(&path).unwrap();
    let mut tensors: Vec<StoredTensor<'_>> = weights.names().map(|name| weights.get(name).unwrap()).collect();
    change(&mut tensors);
    safetensors::write(&path, &tensors, &Metadata::new()).unwrap();
}

fn refusal(folder: &Path) -> String {
    let error = Model::load(&scalar(), folder, Precision::F32).unwrap_err().to_string();
    error.replace(&folder.display().to_string(), "FOLDER")
}

#[test]
fn weights_that_do_not_fit_are_refused_by_name() {
    let (b, dir) = (scalar(), tempfile::tempdir().unwrap());
    let folder = |name: &str| saved(&b, &dir.path().join(name), true).0;

    let missing = folder("missing");
    rewrite(&missing, |tensors| tensors.retain(|tensor| !tensor.name.contains("1.mlp.up")));
    assert!(refusal(&missing).contains("model.layers.1.mlp.up_proj.weight"), "{}", refusal(&missing));

    let surplus = folder("surplus");
    rewrite(&surplus, |tensors| {
        let name = "model.layers.0.self_attn.q_proj.bias".into();
        tensors.push(StoredTensor { name, encoding: Encoding::F32, shape: vec![4], bytes: &[0; 16] });
    });
    assert_eq!(
        refusal(&surplus),
        "FOLDER: tensor `model.layers.0.self_attn.q_proj.bias` is no part of a `llama` model of this config; the config \
         does not belong to these weights, or they are of another architecture"
    );

    let misshaped = folder("misshaped");
    rewrite(&misshaped, |tensors| {
        let down = tensors.iter_mut().find(|tensor| tensor.name.contains("1.mlp.down")).unwrap();
        down.shape = vec![96, 64];
    });
    assert_eq!(
        refusal(&misshaped),
        "FOLDER: tensor `model.layers.1.mlp.down_proj.weight` has shape [96, 64], but the config makes it [64, 96]; one \
         of them is wrong"
    );

    let head = folder("head");
    rewrite(&head, |tensors| {
        let name = "lm_head.weight".into();
        tensors.push(StoredTensor { name, encoding: Encoding::F32, shape: vec![64, 64], bytes: &[1; 64 * 64 * 4] });
    });
    assert!(refusal(&head).contains("tie_word_embeddings"), "{}", refusal(&head));

    let text = dir.path().join("book.txt");
    assert!(matches!(Model::load(&b, &text, Precision::F32), Err(ModelError::UnknownFormat { .. })));
}

/// A file of the folder `shared` beside the repository, or of `SLM_SHARED`.
fn shared(path: &str) -> Option<PathBuf> {
    let roots = std::env::var_os("SLM_SHARED").map(PathBuf::from).into_iter();
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("shared"));
    roots.chain(beside).map(|root| root.join(path)).find(|path| path.exists())
}

/// The `count` most likely continuations of `prompt`, one token at a time.
fn greedy(b: &dyn Backend, model: &Model, prompt: &[u32], count: usize) -> Vec<u32> {
    let (config, positions) = (&model.config, prompt.len() + count);
    let acts = Activations::inference(b, config, prompt.len(), 1, positions).unwrap();
    let cache = b.new_kv_cache(config.layers, positions, config.heads, KvType::F32).unwrap();
    let mut ids = prompt.to_vec();
    let mut at = 0;
    while ids.len() < positions {
        let family = if at == 0 { Family::Prompt } else { Family::Generated };
        let count = ids.len() - at;
        pass::forward_cached(b, model, &acts, cache, at, &ids[at..], family);
        let logits = read(b, pass::logits(b, model, &acts, count - 1, Rows { count: 1, family }), config.vocab);
        let most_likely = (0..config.vocab).max_by(|&i, &j| logits[i].total_cmp(&logits[j])).unwrap();
        at = ids.len();
        ids.push(most_likely as u32);
    }
    b.free_kv_cache(cache);
    acts.free(b);
    ids[prompt.len()..].to_vec()
}

#[test]
fn stories260k_tells_its_story() {
    let Some(folder) = shared("models/stories260k") else {
        println!("skipped: no `shared/models/stories260k` beside the repository");
        return;
    };
    #[derive(serde::Deserialize)]
    struct Greedy {
        prompt_ids: Vec<u32>,
        greedy_ids: Vec<u32>,
    }
    let expected: Greedy = serde_json::from_str(&file::read_to_string(&folder.join("greedy.json")).unwrap()).unwrap();
    let (bin, dir) = (folder.join("stories260K.bin"), tempfile::tempdir().unwrap());
    for b in crate::batch::backends() {
        let model = Model::load(&b, &bin, Precision::F32).unwrap();
        assert_eq!(greedy(&b, &model, &expected.prompt_ids, expected.greedy_ids.len()), expected.greedy_ids);
        model.free(&b);
    }
    // The same story from what is exported: the order of rows goes over and back.
    let b = scalar();
    let gguf = dir.path().join("stories.gguf");
    export::to_gguf(&b, &bin, Encoding::F32, &gguf, &[]).unwrap();
    let hf = dir.path().join("stories");
    export::to_hf_folder(&b, &gguf, Encoding::F32, &hf, &mut |_| Ok(())).unwrap();
    for path in [gguf, hf] {
        let model = Model::load(&b, &path, Precision::F32).unwrap();
        assert_eq!(greedy(&b, &model, &expected.prompt_ids, 64), expected.greedy_ids[..64]);
    }
    let q8 = dir.path().join("stories-q8.gguf");
    println!("q8_0: {:?}", export::to_gguf(&b, &bin, Encoding::Q8_0, &q8, &[]).unwrap());
}

#[test]
fn smollm2_knows_the_capital_of_france() {
    let Some(path) = std::env::var_os("SLM_SMOLLM2_GGUF").map(PathBuf::from) else {
        println!("skipped: SLM_SMOLLM2_GGUF does not name a SmolLM2-135M-Instruct GGUF file");
        return;
    };
    let gguf = formats::gguf::Gguf::open(&path).unwrap();
    let tokens: &formats::gguf::Strings = gguf.require("tokenizer.ggml.tokens").unwrap();
    let id = |token: &str| tokens.iter().position(|other| other == token).unwrap() as u32;
    let prompt = ["The", "Ġcapital", "Ġof", "ĠFrance", "Ġis"].map(id);
    let levels = cpu::available();
    let b = cpu::Cpu::new(2, levels.last().copied()).unwrap();
    for precision in [Precision::F32, Precision::Int8] {
        let model = Model::load(&b, &path, precision).unwrap();
        let continuation = greedy(&b, &model, &prompt, 8);
        let text: String = continuation.iter().map(|&id| tokens.get(id as usize).unwrap()).collect();
        println!("{precision:?}: {text}");
        // As llama.cpp continues.
        assert_eq!(continuation[..2], [id("ĠParis"), id(".")], "{precision:?}: {text}");
        model.free(&b);
    }
}
