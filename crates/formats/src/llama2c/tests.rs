use super::*;
use insta::assert_snapshot;

/// A model file of this header with tensors of zeros, `extra` bytes too long or too short.
fn model(header: [i32; 7], floats: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = header.iter().flat_map(|v| v.to_le_bytes()).collect();
    bytes.resize(HEADER_BYTES + 4 * floats, 0);
    bytes
}

// dim 4, hidden 3, 2 layers, 2 heads, 1 kv head, 5 tokens, context 6
const HEADER: [i32; 7] = [4, 3, 2, 2, 1, 5, 6];
const LAYER: usize = 4 + 16 + 8 + 8 + 16 + 4 + 12 + 12 + 12;
const FLOATS: usize = 5 * 4 + 2 * LAYER + 4 + 6 * 2;

fn message(bytes: &[u8]) -> String {
    check(Path::new("m.bin"), bytes).unwrap_err().to_string()
}

#[test]
fn tensors_follow_each_other_without_gaps() {
    let (shape, places) = parse(Path::new("m.bin"), &model(HEADER, FLOATS)).unwrap();
    assert!(shape.tied);
    assert_eq!((shape.vocab, shape.kv_heads), (5, 1));
    assert_eq!(places.len(), 2 * 9 + 2);
    assert!(places.windows(2).all(|pair| pair[0].bytes.end == pair[1].bytes.start));
    assert_eq!(places[0].bytes.start, HEADER_BYTES);
    let find = |name: &str| places.iter().find(|place| place.name == name).unwrap();
    assert_eq!(find("layers.1.wk").shape, [2, 4]);
    assert_eq!(find("layers.0.w2").shape, [4, 3]);

    let untied = [4, 3, 2, 2, 1, -5, 6];
    let bytes = model(untied, FLOATS + 20);
    let (shape, places) = parse(Path::new("m.bin"), &bytes).unwrap();
    assert_eq!((shape.tied, shape.vocab), (false, 5));
    assert_eq!(places.last().unwrap().bytes.end, bytes.len());
}

#[test]
fn a_header_that_cannot_be_is_refused() {
    let refuse = |index: usize, value: i32| {
        let mut header = HEADER;
        header[index] = value;
        message(&model(header, FLOATS))
    };
    assert_snapshot!(refuse(0, 0), @"m.bin: byte 0: dim is 0, not a number above 0; it is no llama2.c model of version 0");
    assert_snapshot!(refuse(2, 1 << 30), @"m.bin: byte 8: n_layers is 1073741824, not a number from 1 to 1024; it is no llama2.c model of version 0");
    assert_snapshot!(refuse(3, 4), @"m.bin: byte 12: n_heads is 4, not a number that cuts dim into heads of an even width; it is no llama2.c model of version 0");
    assert_snapshot!(refuse(4, 3), @"m.bin: byte 16: n_kv_heads is 3, not a divisor of n_heads; it is no llama2.c model of version 0");
    assert_snapshot!(refuse(5, i32::MIN), @"m.bin: byte 20: vocab_size is -2147483648, not a number other than 0; it is no llama2.c model of version 0");
    assert_snapshot!(refuse(5, -5), @"m.bin: 908 bytes long, but a model of the shape in its header takes 988; it is no llama2.c model of version 0 or is damaged, fetch it again");
    assert_snapshot!(refuse(6, i32::MAX), @"m.bin: 908 bytes long, but a model of the shape in its header takes 17179870036; it is no llama2.c model of version 0 or is damaged, fetch it again");
    let huge = [i32::MAX - 1, i32::MAX, 1024, 1, 1, i32::MAX, i32::MAX];
    assert_snapshot!(message(&model(huge, 0)), @"m.bin: 28 bytes long, but a model of the shape in its header takes 18446744073709551615; it is no llama2.c model of version 0 or is damaged, fetch it again");
    assert_snapshot!(message(b"GGUF"), @"m.bin: byte 4: hidden_dim claims 4 bytes but 0 are left; it is no llama2.c file or is cut short, fetch it again");
}

#[test]
fn a_tokenizer_is_read_and_a_bad_one_refused() {
    let piece = |score: f32, text: &str| {
        [&score.to_le_bytes()[..], &(text.len() as u32).to_le_bytes(), text.as_bytes()].concat()
    };
    let good = [&4u32.to_le_bytes()[..], &piece(0.0, "<s>"), &piece(-1.5, " und")].concat();
    let path = Path::new("tok.bin");
    let tokenizer = TokBin::parse(path, &good).unwrap();
    assert_eq!(tokenizer.pieces[1], Piece { bytes: b" und".into(), score: -1.5 });

    let refuse = |bytes: &[u8]| TokBin::parse(path, bytes).unwrap_err().to_string();
    assert_snapshot!(refuse(&good[..good.len() - 1]), @"tok.bin: byte 23: a piece claims 4 bytes but 3 are left; it is no llama2.c file or is cut short, fetch it again");
    assert_snapshot!(refuse(&[&1u32.to_le_bytes()[..], &piece(0.0, "ab")].concat()), @"tok.bin: byte 4: piece 0 has more than the longest piece's length: 2; it is no llama2.c tokenizer or is damaged, fetch it again");
    assert_snapshot!(refuse(&[&9u32.to_le_bytes()[..], &piece(f32::NAN, "ab")].concat()), @"tok.bin: byte 4: piece 0 has the score NaN; it is no llama2.c tokenizer or is damaged, fetch it again");
}

/// Test data beside the repository, see its README; absent on other machines.
fn shared(name: &str) -> Option<PathBuf> {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared");
    let path = std::env::var_os("SLM_SHARED").map_or_else(beside, PathBuf::from).join("models/stories260k").join(name);
    if path.exists() { Some(path) } else { None }
}

#[test]
fn stories260k_is_read() {
    let (Some(model), Some(tokenizer)) = (shared("stories260K.bin"), shared("tok512.bin")) else {
        println!("skipped: shared/models/stories260k is not there");
        return;
    };
    let model = Llama2c::open(&model).unwrap();
    let expected =
        Shape { dim: 64, hidden_dim: 172, layers: 5, heads: 8, kv_heads: 4, vocab: 512, tied: true, seq_len: 512 };
    assert_eq!(model.shape(), expected);
    let norm = model.tensor("rms_final_weight").unwrap().to_f32().unwrap();
    assert!(norm.iter().all(|v| (0.1..100.0).contains(v)), "{norm:?}");
    let tokenizer = TokBin::open(&tokenizer).unwrap();
    assert_eq!(tokenizer.pieces.len(), 512);
    assert_eq!(tokenizer.pieces[259].bytes, b" t", "the first piece behind the 256 bytes");
}
