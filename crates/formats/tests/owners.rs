//! Our reading, decoding and encoding against the owners of the formats: files that their own programs have made
//! (`golden/make_quant.py` says how), and files for their programs to read (`golden/read_ours.py` does).

use formats::gguf::{self, Array, Gguf, Strings, Value};
use formats::hf_config::{GenerationConfig, HfConfig};
use formats::{Encoding, StoredTensor, file, quant, safetensors};
use std::path::Path;

fn golden() -> Gguf {
    Gguf::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/quant.gguf"))
        .expect("the golden file is beside the test")
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_block_type_decodes_to_the_bits_of_the_reference() {
    let golden = golden();
    let mut compared = 0;
    for encoding in Encoding::ALL {
        let Ok(blocks) = golden.tensor(&format!("{encoding}.blocks")) else { continue };
        assert_eq!(blocks.encoding, encoding);
        let expected = golden.tensor(&format!("{encoding}.values")).unwrap().to_f32().unwrap();
        assert_eq!(bits(&blocks.to_f32().unwrap()), bits(&expected), "{encoding}");
        compared += 1;
    }
    assert_eq!(compared, 13);
}

#[test]
fn every_block_type_that_is_written_encodes_to_the_bytes_of_the_reference() {
    let golden = golden();
    let inputs = golden.tensor("inputs").unwrap().to_f32().unwrap();
    let mut compared = 0;
    for encoding in Encoding::ALL {
        let Ok(expected) = golden.tensor(&format!("{encoding}.encoded")) else { continue };
        let ours = quant::encode(encoding, &inputs).unwrap();
        let size = quant::block_bytes(encoding);
        for (index, (ours, expected)) in ours.chunks(size).zip(expected.bytes.chunks(size)).enumerate() {
            assert_eq!(ours, expected, "{encoding}, block {index}");
        }
        assert_eq!(ours.len(), expected.bytes.len());
        compared += 1;
    }
    assert_eq!(compared, 6);
}

#[test]
fn every_type_of_value_is_read_as_it_was_written() {
    let golden = golden();
    let expect = |key: &str, value: Value| assert_eq!(golden.get(&format!("test.{key}")), Some(&value));
    expect("u8", Value::U8(u8::MAX));
    expect("i8", Value::I8(i8::MIN));
    expect("u16", Value::U16(u16::MAX));
    expect("i16", Value::I16(i16::MIN));
    expect("u32", Value::U32(u32::MAX));
    expect("i32", Value::I32(i32::MIN));
    expect("u64", Value::U64(u64::MAX));
    expect("i64", Value::I64(i64::MIN));
    expect("f32", Value::F32(0.1));
    expect("f64", Value::F64(0.1));
    expect("bool", Value::Bool(true));
    expect("string", "größer ▁".into());
    expect("strings", ["", "a", "▁b"].iter().collect::<Strings>().into());
    expect("integers", Value::Array(Array::I32(vec![1, -2, 3])));
    expect("floats", vec![0.5f32, -1.5].into());
}

/// Writes the files that `golden/read_ours.py` reads; here we read them ourselves.
#[test]
fn files_for_the_owners_are_written() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("formats-for-owners");
    file::create_dir_all(&folder).unwrap();
    let values: Vec<f32> = (0..64).map(|i| i as f32 / 8.0 - 3.0).collect();
    let encode = |encoding| (encoding, quant::encode(encoding, &values).unwrap());
    let encoded = [Encoding::F32, Encoding::F16, Encoding::Bf16, Encoding::Q8_0, Encoding::Q4_0, Encoding::Q5_1];
    let encoded = encoded.map(encode);
    let tensors: Vec<StoredTensor<'_>> = encoded
        .iter()
        .map(|(encoding, bytes)| StoredTensor {
            name: format!("values.{encoding}"),
            encoding: *encoding,
            shape: vec![2, 32],
            bytes,
        })
        .collect();

    let entries: [(String, Value); 5] = [
        ("general.architecture".into(), "test".into()),
        ("test.count".into(), 7u32.into()),
        ("test.yes".into(), true.into()),
        ("test.strings".into(), vec!["a".to_owned(), "größer".into()].into()),
        ("test.floats".into(), vec![0.5f32, -1.5].into()),
    ];
    let path = folder.join("ours.gguf");
    gguf::write(&path, &entries, &tensors).unwrap();
    assert_eq!(Gguf::open(&path).unwrap().tensors().collect::<Vec<_>>(), tensors);

    let path = folder.join("ours.safetensors");
    safetensors::write(&path, &tensors[..3], &safetensors::Metadata::new()).unwrap();
    assert_eq!(safetensors::Weights::open(&path).unwrap().names().count(), 3);
}

/// Configs for `golden/read_ours.py`: one plain, one with scaled rotary angles.
#[test]
fn configs_for_the_owners_are_written() {
    let common = r#""model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 32000, "hidden_size": 768,
        "intermediate_size": 2048, "num_hidden_layers": 12, "num_attention_heads": 12, "num_key_value_heads": 4,
        "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "tie_word_embeddings": false, "dtype": "bfloat16",
        "bos_token_id": 1, "eos_token_id": [2, 3], "initializer_range": 0.02"#;
    let plain = r#""rope_theta": 20000.0"#;
    let scaled = r#""rope_parameters": {"rope_type": "llama3", "rope_theta": 20000.0, "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 1024}"#;
    for (name, rope) in [("plain", plain), ("scaled", scaled)] {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("formats-for-owners").join(name);
        file::create_dir_all(&folder).unwrap();
        let text = format!("{{{common}, {rope}}}");
        let config = HfConfig::parse(Path::new("config.json"), text.as_bytes()).unwrap();
        config.write(&folder.join("config.json")).unwrap();
        assert_eq!(HfConfig::read(&folder).unwrap(), config);
        let generation = GenerationConfig { eos_token_id: vec![2, 3], temperature: Some(0.7), ..Default::default() };
        generation.write(&folder.join("generation_config.json")).unwrap();
    }
}
