use super::*;
use crate::{Encoding, StoredTensor, file};
use insta::assert_snapshot;
use std::path::Path;

fn tensor<'a>(name: &str, encoding: Encoding, shape: &[usize], bytes: &'a [u8]) -> StoredTensor<'a> {
    StoredTensor { name: name.into(), encoding, shape: shape.into(), bytes }
}

fn all_values() -> Vec<(String, Value)> {
    let strings: Strings = ["", "a", "größer"].iter().collect();
    let values = [
        Value::U8(255),
        Value::I8(-1),
        Value::U16(65535),
        Value::I16(-2),
        Value::U32(4_000_000_000),
        Value::I32(-3),
        Value::U64(u64::MAX),
        Value::I64(-4),
        Value::F32(0.1),
        Value::F64(0.2),
        Value::Bool(true),
        Value::String("▁text".into()),
        Value::Array(Array::U8(vec![1, 2])),
        Value::Array(Array::I8(vec![-1])),
        Value::Array(Array::U16(vec![7])),
        Value::Array(Array::I16(vec![-7])),
        Value::Array(Array::U32(vec![1, 2, 3])),
        Value::Array(Array::I32(vec![])),
        Value::Array(Array::U64(vec![9])),
        Value::Array(Array::I64(vec![-9])),
        Value::Array(Array::F32(vec![1.5, -2.5])),
        Value::Array(Array::F64(vec![1.25])),
        Value::Array(Array::Bool(vec![true, false])),
        Value::Array(Array::Strings(strings)),
    ];
    values.into_iter().enumerate().map(|(i, value)| (format!("key.{i:02}"), value)).collect()
}

#[test]
fn what_is_written_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let (q8, f32s) = ([7; 2 * 34], [1; 3 * 2 * 4]);
    let tensors = [
        tensor("odd", Encoding::F16, &[3], &[1, 2, 3, 4, 5, 6]),
        tensor("blocks", Encoding::Q8_0, &[2, 32], &q8),
        tensor("cube", Encoding::F32, &[3, 2, 1], &f32s),
    ];
    let foreign = ("general.alignment".into(), Value::U32(64));
    write(&path, &[all_values(), vec![foreign]].concat(), &tensors).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.tensors().collect::<Vec<_>>(), tensors);
    let entries: Vec<_> = gguf.entries().map(|(key, value)| (key.to_owned(), value.clone())).collect();
    assert_eq!(entries, all_values());
    assert_eq!(gguf.tensor("blocks").unwrap(), tensors[1]);
    assert!(gguf.contains("odd") && !gguf.contains("even"));
    assert_snapshot!(gguf.tensor("even").unwrap_err().to_string().rsplit_once("m.gguf").unwrap().1, @": tensor `even` is missing; the file is incomplete or of another architecture than it says");
    assert_eq!(file::size_bytes(&path).unwrap() % 32, 0);
}

#[test]
fn values_are_asked_for_by_type() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.gguf");
    let entries: [(String, Value); 5] = [
        ("layers".into(), Value::U64(12)),
        ("theta".into(), 1e4f32.into()),
        ("name".into(), "x".into()),
        ("tokens".into(), vec!["a".to_owned(), "b".into()].into()),
        ("types".into(), vec![1i32, 6].into()),
    ];
    write(&path, &entries, &[]).unwrap();
    let gguf = Gguf::open(&path).unwrap();
    assert_eq!(gguf.require::<u32>("layers").unwrap(), 12);
    assert_eq!(gguf.find::<f32>("theta").unwrap(), Some(1e4));
    assert_eq!(gguf.find::<f32>("absent").unwrap(), None);
    assert_eq!(gguf.require::<&Strings>("tokens").unwrap().iter().collect::<Vec<_>>(), ["a", "b"]);
    assert_eq!(gguf.require::<Vec<u32>>("types").unwrap(), [1, 6]);
    let message = |error: GgufError| error.to_string().replace(&dir.path().display().to_string(), "DIR");
    assert_snapshot!(message(gguf.require::<u32>("absent").unwrap_err()), @"DIR/m.gguf: key `absent` is missing; the file is incomplete or of another kind of model, convert the model anew");
    assert_snapshot!(message(gguf.find::<u32>("name").unwrap_err()), @r#"DIR/m.gguf: key `name` is "x", not a whole number of 32 bits; convert the model anew"#);
    assert_snapshot!(message(gguf.find::<&str>("tokens").unwrap_err()), @"DIR/m.gguf: key `tokens` is an array of 2 strings, not a string; convert the model anew");
}

#[test]
fn a_writer_is_told_what_does_not_fit() {
    let path = Path::new("out.gguf");
    let refuse = |entries: &[(String, Value)], tensors: &[StoredTensor<'_>]| {
        write(path, entries, tensors).unwrap_err().to_string()
    };
    assert_snapshot!(refuse(&[], &[tensor("w", Encoding::Q8_0, &[2, 31], &[])]), @"out.gguf: tensor `w` has rows of 31 elements, not whole q8_0 blocks of 32; fetch the file again or, when writing, choose another type");
    assert_snapshot!(refuse(&[], &[tensor("w", Encoding::F32, &[], &[0; 4])]), @"out.gguf: tensor `w` has 0 dimensions, not 1 to 4; the file is damaged, fetch it again");
    assert_snapshot!(refuse(&[], &[tensor("w", Encoding::F32, &[3, 0], &[])]), @"out.gguf: tensor `w` has a dimension of 0; the file is damaged, fetch it again");
    assert_snapshot!(refuse(&[], &[tensor("w", Encoding::F32, &[1], &[0; 5])]), @"out.gguf: tensor `w` got more or fewer bytes than its shape takes; this is a mistake of the program that writes, please report it");
    assert_snapshot!(refuse(&[], &[tensor("w", Encoding::F32, &[usize::MAX, 2], &[])]), @"out.gguf: tensor `w` claims more elements than fit in memory; the file is damaged, fetch it again");
    let twice = tensor("w", Encoding::F32, &[1], &[0; 4]);
    assert_snapshot!(refuse(&[], &[twice.clone(), twice]), @"out.gguf: tensor `w` is there twice; the file is damaged, fetch it again");
    let key = ("a".to_owned(), Value::U8(1));
    assert_snapshot!(refuse(&[key.clone(), key], &[]), @"out.gguf: byte 38: key `a` is there twice; the file is damaged, fetch it again");
    assert!(!file::exists(path));
}

#[test]
fn a_part_of_a_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m-00001-of-00003.gguf");
    write(&path, &[("split.count".into(), Value::U16(3))], &[]).unwrap();
    let message = Gguf::open(&path).unwrap_err().to_string().replace(&dir.path().display().to_string(), "DIR");
    assert_snapshot!(message, @"DIR/m-00001-of-00003.gguf: part of a model in 3 files; join them with llama.cpp's `llama-gguf-split --merge` first");
}
