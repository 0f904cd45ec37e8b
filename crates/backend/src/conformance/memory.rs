//! Buffers: zeroed, written, read, copied, given back.

use super::{Check, Lab, random};
use crate::{Backend, Element};

pub(super) const CHECKS: &[(&str, Check)] = &[
    ("a new buffer is zero and as long as asked", a_new_buffer_is_zero),
    ("what is written is read", what_is_written_is_read),
    ("fill and copy", fill_and_copy),
    ("memory is counted and given back", memory_is_given_back),
];

fn a_new_buffer_is_zero(b: &dyn Backend) {
    for len in [0, 1, 1000] {
        // Twice: the second may get the memory that the first gave back.
        for _ in 0..2 {
            let lab = Lab::new(b);
            let buf = lab.alloc(Element::F32, len);
            assert_eq!(b.len(buf), len);
            assert_eq!(lab.read(buf, len), vec![0.0; len]);
            b.fill(buf, 3.0);
        }
    }
    let lab = Lab::new(b);
    assert_eq!(b.len(lab.alloc(Element::U32, 17)), 17);
}

fn what_is_written_is_read(b: &dyn Backend) {
    let lab = Lab::new(b);
    let values = random(1, 100);
    let buf = lab.alloc(Element::F32, 120);
    b.write(buf, 7, &values);
    let mut read = vec![0.0; 100];
    b.read(buf, 7, &mut read);
    assert_eq!(read, values);
    b.write(buf, 9, &[5.0]);
    b.sync();
    assert_eq!(lab.read(buf, 10)[5..], [0.0, 0.0, values[0], values[1], 5.0]);
}

fn fill_and_copy(b: &dyn Backend) {
    let lab = Lab::new(b);
    let values = random(2, 50);
    let (from, to) = (lab.floats(&values), lab.alloc(Element::F32, 40));
    b.fill(to, 2.5);
    b.copy(to, 3, from, 11, 30);
    let read = lab.read(to, 40);
    assert_eq!(read[..3], [2.5; 3]);
    assert_eq!(read[3..33], values[11..41]);
    assert_eq!(read[33..], [2.5; 7]);
}

fn memory_is_given_back(b: &dyn Backend) {
    let before = b.allocated_bytes();
    let buf = b.alloc(Element::F32, 10_000).expect("a small buffer");
    assert!(b.allocated_bytes() >= before + 40_000, "{} after {before}", b.allocated_bytes());
    b.free(buf);
    assert_eq!(b.allocated_bytes(), before);
}
