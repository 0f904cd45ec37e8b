//! The formats that text and tokens come in, whole and damaged.

use super::{Scene, bytes_tokenizer};
use crate::*;
use parquet::data_type::{ByteArray, ByteArrayType, Int64Type};
use parquet::file::properties::WriterProperties;
use parquet::file::writer::SerializedFileWriter;
use recipe::{Data, DropRule, Format, Source};
use std::io::Write;
use std::sync::Arc;

/// All tokens of a part of the only source.
fn tokens(scene: &Scene, out: &str, manifest: &Manifest, part: Part) -> Vec<u32> {
    let mut ids = Vec::new();
    for entry in &manifest.sources[0].part(part).shards {
        let shard = Shard::open(&scene.path(out).join(&entry.file)).unwrap();
        shard.read(0, u64::MAX, &mut ids).unwrap();
    }
    ids
}

fn texts(scene: &Scene, out: &str, manifest: &Manifest) -> Vec<String> {
    let ids = tokens(scene, out, manifest, Part::Train);
    let mut documents: Vec<String> = ids.split(|&id| id == 256).map(|ids| bytes_tokenizer().decode(ids)).collect();
    assert_eq!(documents.pop().as_deref(), Some("")); // the end token is the last
    documents
}

fn lines(texts: &[&str]) -> Vec<u8> {
    texts.iter().flat_map(|text| format!("{}\n", serde_json::json!({ "text": text })).into_bytes()).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zst(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

#[test]
fn packed_lines_of_several_members_are_read() {
    let (first, second) = (lines(&["one", "two\nlines", "ünï 語 \u{1f600}"]), lines(&["three", "tab\t\"quote\""]));
    let all = ["one", "two\nlines", "ünï 語 \u{1f600}", "three", "tab\t\"quote\""];
    for (name, bytes) in [
        ("a.jsonl", [first.clone(), second.clone()].concat()),
        ("a.jsonl.gz", [gzip(&first), gzip(&second)].concat()),
        ("a.jsonl.zst", [zst(&first), zst(b""), zst(&second)].concat()),
    ] {
        let mut scene = Scene::new();
        scene.data.validation_fraction = 0.0;
        scene.file(name, &bytes);
        scene.source("s", name);
        let manifest = scene.prepare("out", 2).unwrap();
        assert_eq!(texts(&scene, "out", &manifest), all, "{name}");
    }
}

#[test]
fn files_cut_short_are_refused_and_leave_nothing_half_done_behind() {
    let noise: Vec<String> = (0u64..20_000).map(|i| i.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_string()).collect();
    let whole = lines(&noise.iter().map(|text| &**text).collect::<Vec<_>>());
    for (name, bytes) in
        [("a.jsonl.gz", gzip(&whole)), ("a.jsonl.zst", zst(&whole)), ("a.parquet", parquet(&["x"; 50]))]
    {
        let mut scene = Scene::new();
        scene.file(name, &bytes[..bytes.len() / 2]);
        scene.source("s", name).text = if name.ends_with("parquet") { "TEXT" } else { "text" }.into();
        let message = scene.prepare("out", 2).unwrap_err().to_string();
        assert!(message.contains(name) && message.contains("cut short or damaged"), "{message}");
        assert!(Manifest::load(&scene.path("out")).is_err());
        // The file is fetched again, and the same folder is good for it.
        scene.file(name, &bytes);
        scene.prepare("out", 2).unwrap();
    }
}

#[test]
fn bad_text_is_dropped_or_mended_as_the_recipe_says() {
    let mut bytes =
        b"{\"text\": \"caf\xe9\"}\n{\"text\": \"lone \\ud800 half\"}\n{\"text\": \"nul \\u0000!\"}\n".to_vec();
    bytes.extend(lines(&["good", "  \t\u{a0} "]));
    let mut scene = Scene::new();
    scene.data.validation_fraction = 0.0;
    scene.file("a.jsonl", &bytes);
    scene.source("s", "a.jsonl");
    let manifest = scene.prepare("drop", 1).unwrap();
    let account = &manifest.sources[0].account;
    assert_eq!(account.dropped[&Reason::InvalidUtf8].documents, 2);
    assert_eq!(account.dropped[&Reason::Nul].documents, 1);
    assert_eq!(account.dropped[&Reason::Empty].documents, 1);
    assert_eq!(texts(&scene, "drop", &manifest), ["good"]);

    scene.data.nul = recipe::Nul::Remove;
    scene.data.invalid_utf8 = recipe::InvalidUtf8::Replace;
    let manifest = scene.prepare("mend", 1).unwrap();
    let texts = texts(&scene, "mend", &manifest);
    assert_eq!((&*texts[0], &*texts[2], &*texts[3]), ("caf\u{fffd}", "nul !", "good"));
    let changed = manifest.sources[0].account.changed;
    assert_eq!((changed.nul_removed, changed.utf8_replaced), (1, 2));
    assert_eq!(manifest.sources[0].train.text_bytes, texts.iter().map(|text| text.len() as u64).sum::<u64>());
}

#[test]
fn a_document_of_sixteen_megabytes_is_no_problem_and_one_of_a_hundred_is_dropped() {
    let mut scene = Scene::new();
    scene.data.validation_fraction = 0.0;
    let line = |words: usize| format!("{{\"text\": \"{}\"}}\n", "word ".repeat(words));
    let all = [line(1), line(16 << 20 >> 2), line(8 << 20), line(22 << 20), line(2)].concat();
    scene.file("a.jsonl", all.as_bytes());
    scene.source("s", "a.jsonl");
    let manifest = scene.prepare("out", 2).unwrap();
    let account = &manifest.sources[0].account;
    assert_eq!(account.train.documents, 3);
    // One by its text, one by its line, which is never held.
    let oversized = account.dropped[&Reason::Oversized];
    assert_eq!((oversized.documents, oversized.bytes / 5), (2, (8 << 20) + (22 << 20) + 2)); // 12 bytes of JSON
}

/// A parquet file with the columns `TEXT` (null for ""), `METADATA` (JSON) and `stars`, in row groups of 16.
fn parquet(texts: &[&str]) -> Vec<u8> {
    let schema =
        "message schema { optional binary TEXT (UTF8); required binary METADATA (UTF8); optional int64 stars; }";
    let schema = Arc::new(parquet::schema::parser::parse_message_type(schema).unwrap());
    let compression = parquet::basic::Compression::ZSTD(parquet::basic::ZstdLevel::default());
    let properties = Arc::new(WriterProperties::builder().set_compression(compression).build());
    let mut bytes = Vec::new();
    let mut writer = SerializedFileWriter::new(&mut bytes, schema, properties).unwrap();
    for (number, texts) in texts.chunks(16).enumerate() {
        let mut group = writer.next_row_group().unwrap();
        let levels: Vec<i16> = texts.iter().map(|text| i16::from(!text.is_empty())).collect();
        let values: Vec<ByteArray> = texts.iter().filter(|text| !text.is_empty()).map(|text| (*text).into()).collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&levels), None).unwrap();
        column.close().unwrap();
        let languages: Vec<ByteArray> = (0..texts.len())
            .map(|row| format!("{{\"language\": \"{}\", \"row\": {row}}}", if row % 4 == 3 { "fr" } else { "en" }))
            .map(|json| json.as_str().into())
            .collect();
        let mut column = group.next_column().unwrap().unwrap();
        column.typed::<ByteArrayType>().write_batch(&languages, None, None).unwrap();
        column.close().unwrap();
        let mut column = group.next_column().unwrap().unwrap();
        let stars: Vec<i64> = vec![number as i64; texts.len()];
        column.typed::<Int64Type>().write_batch(&stars, Some(&vec![1; texts.len()]), None).unwrap();
        column.close().unwrap();
        group.close().unwrap();
    }
    writer.close().unwrap();
    bytes
}

#[test]
fn parquet_rows_are_read_and_rules_enter_json_columns() {
    let texts_in: Vec<String> =
        (0..40).map(|row| if row == 5 { String::new() } else { format!("row {row}") }).collect();
    let mut scene = Scene::new();
    scene.data.validation_fraction = 0.0;
    scene.file("a.parquet", &parquet(&texts_in.iter().map(|text| &**text).collect::<Vec<_>>()));
    let source = scene.source("s", "a.parquet");
    source.text = "TEXT".into();
    source.drop_where = vec![
        DropRule { field: "METADATA.language".into(), equals: "fr".into() },
        DropRule { field: "stars".into(), equals: "1".into() },
    ];
    let manifest = scene.prepare("out", 2).unwrap();
    let account = &manifest.sources[0].account;
    assert_eq!(account.read.documents, 40);
    assert_eq!(account.dropped[&Reason::MissingText].documents, 1);
    assert_eq!(account.dropped[&Reason::DropRule].documents, 16 + 4 + 2);
    let kept = texts(&scene, "out", &manifest);
    assert_eq!((kept.len(), &*kept[0], &*kept[16]), (17, "row 0", "row 38"));

    scene.data.sources[0].text = "content".into();
    let message = scene.prepare("other", 2).unwrap_err().to_string();
    assert!(message.contains("no column `content`") && message.contains("`TEXT`, `METADATA`, `stars`"), "{message}");
}

fn litpkds(ids: &[u16]) -> Vec<u8> {
    let mut bytes = b"LITPKDS".to_vec();
    bytes.extend(1u64.to_le_bytes());
    bytes.push(8);
    bytes.extend((ids.len() as u64).to_le_bytes());
    bytes.extend(ids.iter().flat_map(|id| id.to_le_bytes()));
    bytes
}

fn llm_c(ids: &[u16]) -> Vec<u8> {
    let mut header = [0u32; 256];
    header[..3].copy_from_slice(&[20_240_520, 1, ids.len() as u32]);
    let header = header.iter().flat_map(|word| word.to_le_bytes());
    header.chain(ids.iter().flat_map(|id| id.to_le_bytes())).collect()
}

#[test]
fn token_files_of_others_are_read_and_checked() {
    let documents: Vec<u16> =
        b"one".iter().map(|b| u16::from(*b)).chain([256]).chain(b"two".iter().map(|b| u16::from(*b))).collect();
    for (format, make) in [(Format::Litpkds, litpkds as fn(&[u16]) -> Vec<u8>), (Format::LlmC, llm_c)] {
        let mut scene = Scene::new();
        scene.data.validation_fraction = 0.0;
        let mut told = |bytes: &[u8]| {
            scene.file("a.bin", bytes);
            scene.data.sources.clear();
            scene.source("s", "a.bin").format = format;
            scene.prepare("refused", 1).unwrap_err().to_string()
        };
        let good = make(&documents);
        assert!(told(&good[..good.len() - 1]).contains("cut short or damaged"));
        assert!(told(&good[..10]).contains("a whole header"));
        assert!(told(&[b'?'; 2000]).contains("byte 0: the magic is"));
        let message = told(&make(&[1, 2, 300]));
        assert!(message.contains("token 2 has id 300, but the tokenizer has 257 tokens"), "{message}");
        scene.file("a.bin", &good);
        let manifest = scene.prepare("out", 1).unwrap();
        assert_eq!(texts(&scene, "out", &manifest), ["one", "two"]);
    }
}

#[test]
fn many_documents_in_a_token_file_come_back_whole() {
    let mut ids = Vec::new();
    for index in 0..200_000u32 {
        ids.extend(format!("document {index}").bytes().map(u16::from));
        ids.push(256);
    }
    let mut scene = Scene::new();
    scene.data.validation_fraction = 0.0;
    scene.file("a.bin", &litpkds(&ids));
    scene.source("s", "a.bin").format = Format::Litpkds;
    let manifest = scene.prepare("out", 3).unwrap();
    let back = tokens(&scene, "out", &manifest, Part::Train);
    assert!(back.iter().map(|&id| id as u16).eq(ids));
}

#[test]
fn sources_without_documents_are_refused() {
    let mut scene = Scene::new();
    scene.file("empty.jsonl", b"").file("dirty.jsonl", b"not json\n{\"a\": 1}\n");
    scene.source("s", "empty.jsonl");
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("source `s`: no document was kept of 0 read"), "{message}");
    scene.data.sources.clear();
    scene.source("s", "dirty.jsonl");
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("of 2 read, 1 bad_json (first ") && message.contains("dirty.jsonl:1"), "{message}");
    scene.data.sources.clear();
    scene.source("s", "absent/*.jsonl");
    let message = scene.prepare("out", 1).unwrap_err().to_string();
    assert!(message.contains("no file matches"), "{message}");
}

/// Whatever a byte of it is changed to, a parquet file is read or refused. Some of these pages hold less than they say,
/// at which the parquet crate panics.
#[test]
fn parquet_with_a_damaged_byte_is_read_or_refused() {
    let whole = &include_bytes!("../../../../fuzz/corpus/documents/parquet")[1..]; // behind the target's own byte
    let scene = Scene::new();
    let path = scene.path("damaged.parquet");
    let source = Source {
        name: "s".into(),
        files: vec![path.display().to_string()],
        format: Format::Parquet,
        ..Source::default()
    };
    let data = Data { sources: vec![source], ..Data::default() };
    let mut lies = 0;
    for at in 0..whole.len() {
        for value in [0, 0x36, 0xff, whole[at] ^ 1, whole[at].wrapping_add(2)] {
            let mut bytes = whole.to_vec();
            bytes[at] = value;
            std::fs::write(&path, &bytes).unwrap();
            let Err(error) = sample_texts(&data, 1 << 20, None).and_then(|mut texts| {
                texts.by_ref().for_each(drop);
                texts.finish()
            }) else {
                continue;
            };
            assert!(error.to_string().contains("damaged.parquet"), "{error}");
            lies += usize::from(error.to_string().contains("a page holds less than it says"));
        }
    }
    assert!(lies > 0, "no byte was found at which the parquet crate panics");
}

/// A page's header whose list of billions ends with the file is refused at once; the parquet crate by itself would count to
/// their end.
#[test]
fn parquet_with_a_header_beyond_the_file_is_refused() {
    let scene = Scene::new();
    scene.file("damaged.parquet", &include_bytes!("../../../../fuzz/corpus/documents/parquet_endless_header")[1..]);
    let files = vec![scene.path("damaged.parquet").display().to_string()];
    let source = Source { name: "s".into(), files, format: Format::Parquet, ..Source::default() };
    let data = Data { sources: vec![source], ..Data::default() };
    let mut texts = sample_texts(&data, 1 << 20, None).unwrap();
    texts.by_ref().for_each(drop);
    let error = texts.finish().unwrap_err().to_string();
    assert!(error.contains("damaged.parquet: not a readable parquet file"), "{error}");
}
