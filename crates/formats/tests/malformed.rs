//! Files that lie: one per way of lying, cut at every byte, and with random bytes changed. Each is refused in one
//! sentence that names the file, nothing panics, and whatever they claim, the whole process stays within 64 MiB.

use cap::Cap;
use formats::hf_config::{GenerationConfig, HfConfig};
use formats::{gguf, llama2c, safetensors};
use insta::assert_snapshot;
use proptest::prelude::*;
use std::alloc::System;
use std::error::Error;
use std::path::Path;

/// All files here are small; a reader that believes a length fails to allocate, and the process ends naming the size.
#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, 64 << 20);

/// The refusals of many files, a line each.
fn refusals(cases: &[(&str, Vec<u8>)], read: impl Fn(&Path, &[u8]) -> Result<(), Box<dyn Error>>) -> String {
    let refuse = |(name, bytes): &(&str, Vec<u8>)| {
        let file = name.replace(' ', "_");
        let message = read(Path::new(&file), bytes).expect_err(name).to_string();
        assert!(!message.contains('\n') && message.starts_with(&format!("{file}: ")), "{message}");
        message
    };
    cases.iter().map(refuse).collect::<Vec<_>>().join("\n")
}

/// Bytes being put together.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn u32(self, value: u32) -> Self {
        self.raw(&value.to_le_bytes())
    }

    fn u64(self, value: u64) -> Self {
        self.raw(&value.to_le_bytes())
    }

    /// A GGUF string.
    fn string(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    fn gguf(tensors: u64, keys: u64) -> Self {
        Self::default().raw(b"GGUF").u32(3).u64(tensors).u64(keys)
    }

    /// A key with a value of type `kind` that is still to come.
    fn key(self, key: &str, kind: u32) -> Self {
        self.string(key).u32(kind)
    }

    fn tensor(self, name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Self {
        let start = self.string(name).u32(dimensions.len() as u32);
        dimensions.iter().fold(start, |bytes, &dimension| bytes.u64(dimension)).u32(kind).u64(offset)
    }

    /// Padding to 32 and `count` bytes of data.
    fn data(mut self, count: usize) -> Vec<u8> {
        self.0.resize(self.0.len().next_multiple_of(32) + count, 0);
        self.0
    }
}

/// A small file with all that a reader walks over.
fn small_gguf() -> Vec<u8> {
    let keys = Bytes::gguf(2, 4)
        .key("a.u32", 4)
        .u32(7)
        .key("a.text", 8)
        .string("größe")
        .key("a.list", 9)
        .u32(8)
        .u64(2)
        .string("x")
        .string("yz")
        .key("a.yes", 7)
        .raw(&[1]);
    keys.tensor("one", &[32, 2], 8, 0).tensor("two", &[3], 0, 96).data(96 + 12)
}

fn read_gguf(file: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    Ok(gguf::Header::parse(file, bytes).map(|_| ())?)
}

fn one_tensor(name: &str, dimensions: &[u64], kind: u32, offset: u64) -> Vec<u8> {
    Bytes::gguf(1, 0).tensor(name, dimensions, kind, offset).data(64)
}

#[test]
fn gguf_counts_lengths_and_types_that_lie_are_refused() {
    let gguf = Bytes::gguf;
    let cases = [
        ("empty", vec![]),
        ("three bytes", b"GGU".to_vec()),
        ("another magic", b"PK\x03\x04 a zip".to_vec()),
        ("version 1", b"GGUF\x01\0\0\0".to_vec()),
        ("version 4", b"GGUF\x04\0\0\0".to_vec()),
        ("big endian", b"GGUF\0\0\0\x03".to_vec()),
        ("no counts", b"GGUF\x03\0\0\0".to_vec()),
        ("tensor count", gguf(u64::MAX, 0).0),
        ("key count", gguf(0, 1 << 40).0),
        ("missing keys", gguf(0, 5).0),
        ("key length", gguf(0, 1).u64(u64::MAX).raw(b"abc").0),
        ("key not UTF-8", gguf(0, 1).u64(3).raw(b"a\xffb").u32(0).0),
        ("value type", gguf(0, 1).key("k", 13).u32(0).0),
        ("value cut", gguf(0, 1).key("k", 12).u32(0).0),
        ("nested array", gguf(0, 1).key("k", 9).u32(9).u64(1).u32(4).u64(1).u32(0).0),
        ("array type", gguf(0, 1).key("k", 9).u32(77).u64(1).u32(0).0),
        ("array length", gguf(0, 1).key("k", 9).u32(10).u64(u64::MAX).u32(0).0),
        ("string count", gguf(0, 1).key("k", 9).u32(8).u64(1 << 61).u64(0).0),
        ("string count, few bytes", gguf(0, 1).key("k", 9).u32(8).u64(3).u64(0).u64(0).0),
        ("string in array", gguf(0, 1).key("k", 9).u32(8).u64(1).u64(1 << 40).0),
        ("boolean", gguf(0, 1).key("k", 7).raw(&[2]).0),
        ("booleans", gguf(0, 1).key("k", 9).u32(7).u64(3).raw(&[0, 1, 7]).0),
        ("key twice", gguf(0, 2).key("k", 0).raw(&[1]).key("k", 0).raw(&[1]).0),
        ("alignment 0", gguf(0, 1).key("general.alignment", 4).u32(0).0),
        ("alignment 48", gguf(0, 1).key("general.alignment", 4).u32(48).0),
        ("alignment huge", gguf(0, 1).key("general.alignment", 4).u32(1 << 21).0),
        ("alignment text", gguf(0, 1).key("general.alignment", 8).string("32").0),
    ];
    assert_snapshot!(refusals(&cases, read_gguf), @r###"
    empty: byte 0: the magic claims 4 bytes but 0 are left; the file is cut short or damaged, fetch it again
    three_bytes: byte 0: the magic claims 4 bytes but 3 are left; the file is cut short or damaged, fetch it again
    another_magic: not a GGUF file (it starts with `PK\x03\x04`, not `GGUF`); for a Hugging Face model pass its folder
    version_1: GGUF version 1 cannot be read, only 2 and 3; convert the model anew with llama.cpp
    version_4: GGUF version 4 cannot be read, only 2 and 3; convert the model anew with llama.cpp
    big_endian: GGUF version 50331648 cannot be read, only 2 and 3 (it was made for big-endian machines); convert the model anew with llama.cpp
    no_counts: byte 8: a count claims 8 bytes but 0 are left; the file is cut short or damaged, fetch it again
    tensor_count: byte 8: claims 18446744073709551615 tensors, at most 131072 are read; the file is damaged, fetch it again
    key_count: byte 16: claims 1099511627776 keys, at most 65536 are read; the file is damaged, fetch it again
    missing_keys: byte 24: a key claims 8 bytes but 0 are left; the file is cut short or damaged, fetch it again
    key_length: byte 32: a key claims 18446744073709551615 bytes but 3 are left; the file is cut short or damaged, fetch it again
    key_not_UTF-8: byte 33: a key is not valid UTF-8; the file is damaged, fetch it again
    value_type: byte 33: key `k` has values of type 13, which is not known; fetch the file again or convert the model anew
    value_cut: byte 37: a value claims 8 bytes but 4 are left; the file is cut short or damaged, fetch it again
    nested_array: byte 37: key `k` has values of type 9, which inside an array is not read; fetch the file again or convert the model anew
    array_type: byte 37: key `k` has values of type 77, which is not known; fetch the file again or convert the model anew
    array_length: byte 49: an array claims 18446744073709551615 bytes but 4 are left; the file is cut short or damaged, fetch it again
    string_count: byte 49: an array of strings claims 18446744073709551615 bytes but 8 are left; the file is cut short or damaged, fetch it again
    string_count,_few_bytes: byte 49: an array of strings claims 24 bytes but 16 are left; the file is cut short or damaged, fetch it again
    string_in_array: byte 57: a string of an array claims 1099511627776 bytes but 0 are left; the file is cut short or damaged, fetch it again
    boolean: byte 37: key `k` has the truth value 2, not 0 or 1; the file is damaged, fetch it again
    booleans: byte 51: key `k` has the truth value 7, not 0 or 1; the file is damaged, fetch it again
    key_twice: byte 38: key `k` is there twice; the file is damaged, fetch it again
    alignment_0: `general.alignment` is 0, not a power of two from 1 to 1048576; the file is damaged, fetch it again
    alignment_48: `general.alignment` is 48, not a power of two from 1 to 1048576; the file is damaged, fetch it again
    alignment_huge: `general.alignment` is 2097152, not a power of two from 1 to 1048576; the file is damaged, fetch it again
    alignment_text: `general.alignment` is "32", not a power of two from 1 to 1048576; the file is damaged, fetch it again
    "###);
}

#[test]
fn gguf_tensors_that_lie_are_refused() {
    let two = |second: &str, offset: u64| {
        Bytes::gguf(2, 0).tensor("w", &[16], 0, 0).tensor(second, &[16], 0, offset).data(128)
    };
    let mut cut = one_tensor("w", &[16], 0, 0);
    cut.pop();
    let cases = [
        ("missing tensors", Bytes::gguf(3, 0).0),
        ("name length", Bytes::gguf(1, 0).u64(1 << 33).raw(&[97; 40]).0),
        ("long name", one_tensor(&"n".repeat(200), &[1], 0, 0)),
        ("name twice", two("w", 64)),
        ("no dimension", one_tensor("w", &[], 0, 0)),
        ("five dimensions", one_tensor("w", &[1; 5], 0, 0)),
        ("dimension count", Bytes::gguf(1, 0).string("w").u32(u32::MAX).data(64)),
        ("dimension 0", one_tensor("w", &[0, 4], 0, 0)),
        ("product", one_tensor("w", &[1 << 32, 1 << 32], 0, 0)),
        ("product of bytes", one_tensor("w", &[1 << 62], 0, 0)),
        ("product around 0", one_tensor("w", &[1 << 31, 1 << 31, 1 << 31, 1 << 31], 8, 0)),
        ("unknown type", one_tensor("w", &[16], 99, 0)),
        ("unsupported type", one_tensor("w", &[256], 16, 0)),
        ("partial block", one_tensor("w", &[33], 8, 0)),
        ("misaligned", one_tensor("w", &[1], 0, 4)),
        ("offset beyond", one_tensor("w", &[16], 0, 32)),
        ("offset huge", one_tensor("w", &[16], 0, u64::MAX - 31)),
        ("overlap", two("v", 32)),
        ("same place", two("v", 0)),
        ("cut by one", cut),
    ];
    assert_snapshot!(refusals(&cases, read_gguf), @r###"
    missing_tensors: byte 24: a tensor's name claims 8 bytes but 0 are left; the file is cut short or damaged, fetch it again
    name_length: byte 32: a tensor's name claims 8589934592 bytes but 40 are left; the file is cut short or damaged, fetch it again
    long_name: tensor `nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…` has a name of 200 bytes, at most 127 are read; the file is damaged, fetch it again
    name_twice: tensor `w` is there twice; the file is damaged, fetch it again
    no_dimension: tensor `w` has 0 dimensions, not 1 to 4; the file is damaged, fetch it again
    five_dimensions: tensor `w` has 5 dimensions, not 1 to 4; the file is damaged, fetch it again
    dimension_count: tensor `w` has 4294967295 dimensions, not 1 to 4; the file is damaged, fetch it again
    dimension_0: tensor `w` has a dimension of 0; the file is damaged, fetch it again
    product: tensor `w` claims more elements than fit in memory; the file is damaged, fetch it again
    product_of_bytes: tensor `w` claims more elements than fit in memory; the file is damaged, fetch it again
    product_around_0: tensor `w` claims more elements than fit in memory; the file is damaged, fetch it again
    unknown_type: tensor `w` has element type number 99, which is not supported; use a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS
    unsupported_type: tensor `w` has element type IQ2_XXS, which is not supported; use a file with F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q2_K to Q6_K, IQ4_NL or IQ4_XS
    partial_block: tensor `w` has rows of 33 elements, not whole q8_0 blocks of 32; fetch the file again or, when writing, choose another type
    misaligned: tensor `w` begins at data offset 4, no multiple of the alignment 32; the file is damaged, fetch it again
    offset_beyond: tensor `w` takes 64 bytes from data offset 32 but the file has 64 bytes of data; it is cut short or damaged, fetch it again
    offset_huge: tensor `w` takes 64 bytes from data offset 18446744073709551584 but the file has 64 bytes of data; it is cut short or damaged, fetch it again
    overlap: tensor `v` overlaps tensor `w`; the file is damaged, fetch it again
    same_place: tensor `v` overlaps tensor `w`; the file is damaged, fetch it again
    cut_by_one: tensor `w` takes 64 bytes from data offset 0 but the file has 63 bytes of data; it is cut short or damaged, fetch it again
    "###);
}

/// A safetensors file with this header and `data` bytes.
fn tensors(header: &str, data: usize) -> Vec<u8> {
    let mut bytes = Bytes::default().u64(header.len() as u64).raw(header.as_bytes()).0;
    bytes.resize(bytes.len() + data, 0);
    bytes
}

fn small_safetensors() -> Vec<u8> {
    let header = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,1],"data_offsets":[0,8]},
        "b":{"dtype":"BF16","shape":[3],"data_offsets":[8,14]}}"#;
    tensors(header, 14)
}

fn read_safetensors(file: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    Ok(safetensors::check(file, bytes).map(|_| ())?)
}

#[test]
fn safetensors_that_lie_are_refused() {
    let one = |dtype: &str, shape: &str, offsets: &str| {
        tensors(&format!(r#"{{"w":{{"dtype":"{dtype}","shape":{shape},"data_offsets":{offsets}}}}}"#), 8)
    };
    let two = |first: &str, second: &str| {
        let tensor = |name, offsets| format!(r#""{name}":{{"dtype":"F32","shape":[1],"data_offsets":{offsets}}}"#);
        tensors(&format!("{{{},{}}}", tensor("v", first), tensor("w", second)), 8)
    };
    // Ends that add up to almost 2⁶⁴: the length of the header must not be added to them unchecked.
    let part = u64::MAX / 8;
    let huge: Vec<String> = (0..8)
        .map(|i| {
            let (start, end) = (i * part, (i + 1) * part);
            format!(r#""{i}":{{"dtype":"U8","shape":[{part}],"data_offsets":[{start},{end}]}}"#)
        })
        .collect();
    let cases = [
        ("empty", vec![]),
        ("seven bytes", vec![0; 7]),
        ("header length", Bytes::default().u64(u64::MAX).raw(&[32; 64]).0),
        ("header beyond the end", Bytes::default().u64(65).raw(&[32; 64]).0),
        ("no header", Bytes::default().u64(0).0),
        ("not UTF-8", Bytes::default().u64(2).raw(b"{\xff").0),
        ("not JSON", tensors("GGUF", 0)),
        ("an array", tensors("[1]", 0)),
        ("deep", tensors(&format!("{{\"w\":{}", "[".repeat(9999)), 0)),
        ("unknown type", one("F7", "[2]", "[0,8]")),
        ("negative shape", one("F32", "[-2]", "[0,8]")),
        ("shape overflow", one("F32", "[4294967296,4294967296,4294967296]", "[0,8]")),
        ("shape and bytes", one("F32", "[3]", "[0,8]")),
        ("offsets turned", one("F32", "[2]", "[8,0]")),
        ("one offset", one("F32", "[2]", "[8]")),
        ("beyond the end", one("F32", "[3]", "[0,12]")),
        ("bytes left over", one("F32", "[1]", "[0,4]")),
        ("gap", one("F32", "[1]", "[4,8]")),
        ("overlap", two("[0,4]", "[2,6]")),
        ("hole", two("[0,4]", "[8,12]")),
        ("ends near 2^64", tensors(&format!("{{{}}}", huge.join(",")), 8)),
        ("metadata", tensors(r#"{"__metadata__":{"a":1}}"#, 0)),
        ("name twice", two("[0,4]", "[4,8]").iter().map(|&b| if b == b'v' { b'w' } else { b }).collect()),
    ];
    assert_snapshot!(refusals(&cases, read_safetensors), @r###"
    empty: 0 bytes long, too short for a safetensors file; it is cut short or damaged, fetch it again
    seven_bytes: 7 bytes long, too short for a safetensors file; it is cut short or damaged, fetch it again
    header_length: the header claims 18446744073709551615 bytes but 64 follow (at most 100000000 are allowed); it is no safetensors file or is cut short, fetch it again
    header_beyond_the_end: the header claims 65 bytes but 64 follow (at most 100000000 are allowed); it is no safetensors file or is cut short, fetch it again
    no_header: the header is not valid (EOF while parsing a value at line 1 column 0); the file is damaged, fetch it again
    not_UTF-8: the header is not valid (key must be a string at line 1 column 2); the file is damaged, fetch it again
    not_JSON: the header is not valid (expected value at line 1 column 1); the file is damaged, fetch it again
    an_array: the header is not valid (invalid type: sequence, expected struct HashMetadata at line 1 column 0); the file is damaged, fetch it again
    deep: the header is not valid (recursion limit exceeded at line 1 column 132); the file is damaged, fetch it again
    unknown_type: the header is not valid (unknown variant `F7`, expected one of `BOOL`, `F4`, `F6_E2M3`, `F6_E3M2`, `U8`, `I8`, `F8_E5M2`, `F8_E4M3`, `F8_E8M0`, `F8_E4M3FNUZ`, `F8_E5M2FNUZ`, `I16`, `U16`, `F16`, `BF16`, `I32`, `U32`, `F32`, `C64`, `F64`, `I64`, `U64` at line 1 column 53); the file is damaged, fetch it again
    negative_shape: the header is not valid (invalid value: integer `-2`, expected usize at line 1 column 55); the file is damaged, fetch it again
    shape_overflow: the header is not valid (overflow computing buffer size from shape and/or element type); the file is damaged, fetch it again
    shape_and_bytes: the header is not valid (invalid shape, data type, or offset for tensor); the file is damaged, fetch it again
    offsets_turned: the header is not valid (invalid offset for tensor `w`); the file is damaged, fetch it again
    one_offset: the header is not valid (invalid length 1, expected a tuple of size 2 at line 1 column 52); the file is damaged, fetch it again
    beyond_the_end: the tensors take 12 bytes but 8 follow the header; the file is cut short or damaged, fetch it again
    bytes_left_over: the tensors take 4 bytes but 8 follow the header; the file is cut short or damaged, fetch it again
    gap: the header is not valid (invalid offset for tensor `w`); the file is damaged, fetch it again
    overlap: the header is not valid (invalid offset for tensor `w`); the file is damaged, fetch it again
    hole: the header is not valid (invalid offset for tensor `w`); the file is damaged, fetch it again
    ends_near_2^64: the tensors take 18446744073709551608 bytes but 8 follow the header; the file is cut short or damaged, fetch it again
    metadata: the header is not valid (invalid type: integer `1`, expected a string at line 1 column 22); the file is damaged, fetch it again
    name_twice: the header is not valid (invalid offset for tensor `w`); the file is damaged, fetch it again
    "###);
}

#[test]
fn a_tensor_of_another_type_is_refused_when_it_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("model.safetensors");
    let header = r#"{"ids":{"dtype":"I64","shape":[1],"data_offsets":[0,8]}}"#;
    formats::file::write_bytes(&path, &tensors(header, 8)).unwrap();
    let weights = safetensors::Weights::open(&path).unwrap();
    assert!(weights.contains("ids") && weights.get("ids").is_none());
    let message = |name| weights.tensor(name).unwrap_err().to_string().replace(&path.display().to_string(), "FILE");
    assert_snapshot!(message("ids"), @"FILE: tensor `ids` has type I64; F32, F16 and BF16 can be read, convert the model to one of them");
    assert_snapshot!(message("no"), @"FILE: no tensor `no`; the model is incomplete or of another architecture than its config says");
}

const SMALL_CONFIG: &str = r#"{"model_type":"llama","vocab_size":512,"hidden_size":64,"intermediate_size":172,
    "num_hidden_layers":5,"num_attention_heads":8,"rope_scaling":{"type":"linear","factor":2.0},"eos_token_id":[2]}"#;

fn read_config(file: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    Ok(HfConfig::parse(file, bytes).map(|_| ())?)
}

#[test]
fn configs_that_are_none_are_refused() {
    let with = |from: &str, to: &str| SMALL_CONFIG.replace(from, to).into_bytes();
    let cases = [
        ("empty", vec![]),
        ("not UTF-8", b"{\"model_type\": \"\xff\"}".to_vec()),
        ("not a number", with("512", "NaN")),
        ("number beyond f64", with("512", "1e999")),
        ("fraction", with("512", "512.5")),
        ("list for a size", with("512", "[512]")),
        ("long text for a size", with("512", &format!("\"{}\"", "é".repeat(500)))),
        ("deep object", format!("{}1{}", "{\"a\":".repeat(500), "}".repeat(500)).into_bytes()),
        ("deep inside", with("\"linear\"", &"[".repeat(1000))),
        ("factor of text", with("2.0", "\"2\"")),
        ("negative token", with("[2]", "[-2]")),
        ("text after the end", format!("{SMALL_CONFIG} x").into_bytes()),
    ];
    assert_snapshot!(refusals(&cases, read_config), @r###"
    empty: not valid JSON (EOF while parsing a value at line 1 column 0); fetch the file again
    not_UTF-8: not valid JSON (invalid unicode code point at line 1 column 17); fetch the file again
    not_a_number: not valid JSON (expected value at line 1 column 36); fetch the file again
    number_beyond_f64: not valid JSON (number out of range at line 1 column 40); fetch the file again
    fraction: `vocab_size` is 512.5, not a whole number from 1 to 2147483647; correct the file or fetch it again
    list_for_a_size: `vocab_size` is [512], not a whole number from 1 to 2147483647; correct the file or fetch it again
    long_text_for_a_size: `vocab_size` is "ééééééééééééééééééééééééééééééééééééééé…, not a whole number from 1 to 2147483647; correct the file or fetch it again
    deep_object: not valid JSON (recursion limit exceeded at line 1 column 636); fetch the file again
    deep_inside: not valid JSON (recursion limit exceeded at line 2 column 199); fetch the file again
    factor_of_text: `rope_scaling.factor` is "2", not a number of at least 1; correct the file or fetch it again
    negative_token: `eos_token_id` is [-2], not a token id or a list of token ids; correct the file or fetch it again
    text_after_the_end: not valid JSON (trailing characters at line 2 column 117); fetch the file again
    "###);
}

fn small_llama2c() -> Vec<u8> {
    let header = [4i32, 3, 1, 2, 1, 5, 6].map(i32::to_le_bytes).concat();
    let mut bytes = header;
    bytes.resize(28 + 4 * (5 * 4 + 92 + 4 + 6 * 2), 0);
    bytes
}

fn read_llama2c(file: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    Ok(llama2c::check(file, bytes).map(|_| ())?)
}

fn small_tokenizer() -> Vec<u8> {
    Bytes::default().u32(3).u32(0).u32(2).raw(b"ab").u32(1).u32(3).raw(b"abc").0
}

fn read_tokenizer(file: &Path, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    Ok(llama2c::TokBin::parse(file, bytes).map(|_| ())?)
}

type Read = fn(&Path, &[u8]) -> Result<(), Box<dyn Error>>;

fn formats() -> [(&'static str, Vec<u8>, Read); 5] {
    [
        ("gguf", small_gguf(), read_gguf),
        ("safetensors", small_safetensors(), read_safetensors),
        ("config", SMALL_CONFIG.into(), read_config),
        ("llama2c", small_llama2c(), read_llama2c),
        ("tokenizer", small_tokenizer(), read_tokenizer),
    ]
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    for (name, whole, read) in formats() {
        read(Path::new(name), &whole).unwrap();
        for length in 0..whole.len() {
            let cut = read(Path::new(name), &whole[..length]);
            // A tokenizer has no count: cut between two pieces it is a shorter one.
            let shorter = name == "tokenizer" && [4, 14].contains(&length);
            assert_eq!(cut.is_ok(), shorter, "{name} cut to {length} bytes");
        }
    }
}

proptest! {
    #[test]
    fn changed_bytes_never_panic(
        format in 0..5usize,
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let (name, mut bytes, read) = formats()[format].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Err(error) = read(Path::new(name), &bytes) {
            prop_assert!(!error.to_string().contains('\n'), "{}", error);
        }
    }

    #[test]
    fn random_bytes_never_panic(format in 0..5usize, bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        let (name, _, read) = formats()[format].clone();
        let _ = read(Path::new(name), &bytes);
        let _ = GenerationConfig::parse(Path::new(name), &bytes);
        let _ = safetensors::check_index(Path::new(name), &bytes);
    }
}
