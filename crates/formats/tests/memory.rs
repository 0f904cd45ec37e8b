//! No reader allocates more than the file is long plus 64 MiB, whatever the file claims. One test in a process of its
//! own, since the allocator that counts is the whole process's.

use cap::Cap;
use formats::gguf::Header;
use std::alloc::System;
use std::path::Path;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

const ALLOWANCE_BYTES: usize = 64 << 20;

fn gguf(tensors: u64, keys: u64) -> Vec<u8> {
    let mut bytes = b"GGUF\x03\0\0\0".to_vec();
    bytes.extend(tensors.to_le_bytes());
    bytes.extend(keys.to_le_bytes());
    bytes
}

fn string(bytes: &mut Vec<u8>, text: &[u8]) {
    bytes.extend((text.len() as u64).to_le_bytes());
    bytes.extend(text);
}

/// One key whose value is an array of `kind`, of `count` as claimed.
fn array(kind: u32, count: u64) -> Vec<u8> {
    let mut bytes = gguf(0, 1);
    string(&mut bytes, b"k");
    bytes.extend([9u32, kind].map(u32::to_le_bytes).concat());
    bytes.extend(count.to_le_bytes());
    bytes
}

/// As many short keys as are read: most bookkeeping per byte.
fn many_keys() -> Vec<u8> {
    let count = 1 << 16;
    let mut bytes = gguf(0, count);
    for index in 0..count {
        string(&mut bytes, format!("{index:x}").as_bytes());
        bytes.extend([0, 0, 0, 0, 7]);
    }
    bytes
}

/// As many tensors as are read, the last of them beyond the end of the file.
fn many_tensors() -> Vec<u8> {
    let count = 1 << 17;
    let mut bytes = gguf(count, 0);
    for index in 0..count {
        string(&mut bytes, format!("{index:0127x}").as_bytes());
        bytes.extend(4u32.to_le_bytes());
        bytes.extend([1u64; 4].map(u64::to_le_bytes).concat());
        bytes.extend(0u32.to_le_bytes());
        bytes.extend((32 * index).to_le_bytes());
    }
    bytes.resize(bytes.len() + 32 * (count as usize - 1), 0);
    bytes
}

#[test]
fn a_gguf_file_costs_its_length_and_64_mib() {
    let mut empty_strings = array(8, 4 << 20);
    empty_strings.resize(empty_strings.len() + (32 << 20), 0);
    let mut bytes = array(0, 64 << 20);
    bytes.resize(bytes.len() + (64 << 20), 0);
    let cases = [
        ("empty strings", empty_strings),
        ("bytes", bytes),
        ("claims of strings", array(8, u64::MAX / 8)),
        ("claims of floats", array(6, 1 << 40)),
        ("keys", many_keys()),
        ("tensors", many_tensors()),
    ];
    for (name, bytes) in cases {
        // Beyond the limit the allocator refuses, and the process ends naming the allocation.
        let limit = ALLOCATOR.allocated() + bytes.len() + ALLOWANCE_BYTES;
        ALLOCATOR.set_limit(limit).expect("not above it now");
        let read = Header::parse(Path::new(name), &bytes).map(drop);
        ALLOCATOR.set_limit(usize::MAX).expect("no limit");
        println!("{name}: {read:?}");
    }
}
