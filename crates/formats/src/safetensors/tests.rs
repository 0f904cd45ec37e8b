use super::*;
use crate::file;
use crate::{Encoding, StoredTensor};
use insta::assert_snapshot;
use std::path::Path;

fn tensor<'a>(name: &str, encoding: Encoding, shape: &[usize], bytes: &'a [u8]) -> StoredTensor<'a> {
    StoredTensor { name: name.into(), encoding, shape: shape.into(), bytes }
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(SINGLE_NAME);
    let tensors = [
        tensor("b", Encoding::Bf16, &[3, 1], &[1, 2, 3, 4, 5, 6]),
        tensor("a", Encoding::F32, &[2], &[0, 0, 128, 63, 0, 0, 0, 64]),
        tensor("empty", Encoding::F16, &[0, 7], &[]),
    ];
    let metadata = Metadata::from([("step".into(), "7".into())]);
    write(&path, &tensors, &metadata).unwrap();
    for at in [dir.path(), &path] {
        let weights = Weights::open(at).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b", "empty"]);
        for tensor in &tensors {
            assert_eq!(weights.get(&tensor.name).as_ref(), Some(tensor));
        }
        assert_eq!(weights.metadata()["step"], "7");
        assert_eq!(weights.metadata()["format"], "pt");
        assert_eq!(weights.tensor("a").unwrap().to_f32().unwrap(), [1.0, 2.0]);
    }
}

#[test]
fn the_same_tensors_give_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (tensor("x", Encoding::F32, &[1], &[0; 4]), tensor("y", Encoding::F16, &[1], &[0; 2]));
    let metadata: Metadata = (0..20).map(|i| (format!("key{i}"), "value".into())).collect();
    let paths = [dir.path().join("1"), dir.path().join("2")];
    write(&paths[0], &[one.clone(), two.clone()], &metadata).unwrap();
    write(&paths[1], &[two, one], &metadata).unwrap();
    assert_eq!(file::read(&paths[0], 10_000).unwrap(), file::read(&paths[1], 10_000).unwrap());
}

#[test]
fn a_writer_is_told_what_does_not_fit() {
    let path = Path::new("out.safetensors");
    let refuse = |tensors: &[StoredTensor<'_>]| write(path, tensors, &Metadata::new()).unwrap_err();
    let quantised = tensor("w", Encoding::Q8_0, &[32], &[0; 34]);
    assert_snapshot!(refuse(&[quantised]), @"out.safetensors: tensor `w` is q8_0, which safetensors cannot hold; write f32, f16 or bf16, or export to GGUF");
    let twice = tensor("w", Encoding::F32, &[1], &[0; 4]);
    assert_snapshot!(refuse(&[twice.clone(), twice]), @"out.safetensors: tensor `w` is there twice; this is a mistake of the program that writes, please report it");
    let short = tensor("w", Encoding::F32, &[2], &[0; 4]);
    assert_snapshot!(refuse(&[short]), @"out.safetensors: tensor `w` got more or fewer bytes than its shape takes; this is a mistake of the program that writes, please report it");
    assert!(!file::exists(path));
}

/// A folder with an index and two shards.
fn sharded(index: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for name in ["a", "b"] {
        let path = dir.path().join(format!("{name}.safetensors"));
        write(&path, &[tensor(name, Encoding::F32, &[1], &[0; 4])], &Metadata::new()).unwrap();
    }
    file::write_bytes(&dir.path().join(INDEX_NAME), index.as_bytes()).unwrap();
    dir
}

#[test]
fn shards_are_joined() {
    let dir = sharded(r#"{"metadata": {"total_size": 8}, "weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}"#);
    for at in [dir.path().to_owned(), dir.path().join(INDEX_NAME)] {
        let weights = Weights::open(&at).unwrap();
        assert_eq!(weights.names().collect::<Vec<_>>(), ["a", "b"]);
        assert!(weights.get("b").is_some());
    }
}

#[test]
fn an_index_that_lies_is_refused() {
    let refuse = |index| {
        let dir = sharded(index);
        Weights::open(dir.path()).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR")
    };
    assert_snapshot!(refuse(r#"{"weight_map": {"a": "../a.safetensors"}}"#), @"DIR/model.safetensors.index.json: tensor `a` is said to be in `../a.safetensors`, which is not the name of a file in the same folder; do not use this model");
    assert_snapshot!(refuse(r#"{"weight_map": {"a": "/etc/passwd"}}"#), @"DIR/model.safetensors.index.json: tensor `a` is said to be in `/etc/passwd`, which is not the name of a file in the same folder; do not use this model");
    assert_snapshot!(refuse(r#"{"weight_map": {"a": ".."}}"#), @"DIR/model.safetensors.index.json: tensor `a` is said to be in `..`, which is not the name of a file in the same folder; do not use this model");
    assert_snapshot!(refuse(r#"{"weight_map": {"a": "c.safetensors"}}"#), @"DIR/c.safetensors: could not open it: No such file or directory (os error 2); check the path");
    assert_snapshot!(refuse(r#"{"weight_map": {"a": "a.safetensors", "x": "b.safetensors"}}"#), @"DIR/b.safetensors: tensor `x` is not in it although the index says so; fetch the model's files again, all from one version");
    assert_snapshot!(refuse(r#"{"weight_map": ["a"]}"#), @"DIR/model.safetensors.index.json: not an index of shards (invalid type: sequence, expected a map at line 1 column 15); fetch it again");
}

#[test]
fn a_folder_without_weights_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let refuse =
        || Weights::open(dir.path()).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR");
    assert_snapshot!(refuse(), @"DIR: holds neither `model.safetensors` nor `model.safetensors.index.json`; pass the folder of a Hugging Face model, or a .gguf or llama2.c .bin file");
    file::write_bytes(&dir.path().join("pytorch_model.bin"), b"").unwrap();
    assert_snapshot!(refuse(), @"DIR: holds neither `model.safetensors` nor `model.safetensors.index.json`; its weights are in PyTorch's own format, convert them with transformers' `save_pretrained`");
}
