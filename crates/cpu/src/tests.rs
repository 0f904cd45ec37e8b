//! The backend as a whole, at every level of this machine.

use super::*;

fn cpus() -> impl Iterator<Item = Cpu> {
    available().into_iter().map(|level| Cpu::new(2, Some(level)).unwrap())
}

fn numbers(seed: usize, len: usize) -> Vec<f32> {
    (0..len).map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1000.0 - 1.0).collect()
}

fn floats(b: &Cpu, values: &[f32]) -> Buf {
    let buf = b.alloc(Element::F32, values.len()).unwrap();
    b.write(buf, 0, values);
    buf
}

fn ids(b: &Cpu, values: &[u32]) -> Buf {
    let buf = b.alloc(Element::U32, values.len()).unwrap();
    b.write_ids(buf, 0, values);
    buf
}

fn contents(b: &Cpu, buf: Buf) -> Vec<f32> {
    let mut values = vec![0.0; b.len(buf)];
    b.read(buf, 0, &mut values);
    values
}

/// `Σ d_out ⊙ (x · wᵀ)` in f64.
fn weighted(x: &[f32], w: &[f32], d_out: &[f32], cols: usize, rows: usize) -> f64 {
    let outputs = w.len() / cols;
    let dot = |r: usize, o: usize| -> f64 {
        (0..cols).map(|k| f64::from(x[r * cols + k]) * f64::from(w[o * cols + k])).sum()
    };
    (0..rows * outputs).map(|i| f64::from(d_out[i]) * dot(i / outputs, i % outputs)).sum()
}

fn close(got: f32, want: f64, what: &str) {
    assert!((f64::from(got) - want).abs() < 1e-4 * want.abs().max(1.0), "{what}: {got} {want}");
}

/// Central difference of `f` at element `i` of `x`.
fn slope(x: &[f32], i: usize, step: f32, mut f: impl FnMut(&[f32]) -> f64) -> f64 {
    let mut moved = x.to_vec();
    let (up, down) = (x[i] + step, x[i] - step);
    moved[i] = up;
    let above = f(&moved);
    moved[i] = down;
    (above - f(&moved)) / (f64::from(up) - f64::from(down))
}

#[test]
fn gradients_of_linear_are_finite_differences() {
    let (rows, cols, outputs) = (5, 19, 70);
    let (x, w, d) = (numbers(1, rows * cols), numbers(2, outputs * cols), numbers(3, rows * outputs));
    for b in cpus() {
        let master = floats(&b, &w);
        let matrix = b.trainable_matrix(master, outputs, cols, Precision::F32).unwrap();
        let (x_buf, d_buf) = (floats(&b, &x), floats(&b, &d));
        let (d_x, g_w) = (floats(&b, &vec![9.0; rows * cols]), floats(&b, &vec![0.5; outputs * cols]));
        b.linear_backward(d_x, g_w, d_buf, x_buf, matrix, rows);
        let (d_x, g_w) = (contents(&b, d_x), contents(&b, g_w));
        for i in (0..x.len()).step_by(3) {
            close(d_x[i], slope(&x, i, 0.25, |x| weighted(x, &w, &d, cols, rows)), "d_x");
        }
        for i in (0..w.len()).step_by(41) {
            close(g_w[i] - 0.5, slope(&w, i, 0.25, |w| weighted(&x, w, &d, cols, rows)), "g_w");
        }
    }
}

/// `scale · Σ losses` in f64.
fn loss(x: &[f32], head: &[f32], targets: &[u32], width: usize, scale: f64) -> f64 {
    let rows = targets.iter().enumerate().filter(|&(_, &target)| target != backend::NO_TARGET);
    rows.map(|(r, &target)| {
        let logits: Vec<f64> = head
            .chunks_exact(width)
            .map(|w| w.iter().zip(&x[r * width..]).map(|(&w, &x)| f64::from(w) * f64::from(x)).sum())
            .collect();
        scale * (logits.iter().map(|z| z.exp()).sum::<f64>().ln() - logits[target as usize])
    })
    .sum()
}

#[test]
fn gradients_of_the_head_are_finite_differences() {
    let (rows, width, vocab) = (7, 12, 90);
    let (x, head) = (numbers(4, rows * width), numbers(5, vocab * width));
    let targets = [3, 89, backend::NO_TARGET, 0, 3, 64, 63];
    for b in cpus() {
        let master = floats(&b, &head);
        let matrix = b.trainable_matrix(master, vocab, width, Precision::F32).unwrap();
        let (x_buf, targets_buf) = (floats(&b, &x), ids(&b, &targets));
        let (losses, d_x) = (floats(&b, &vec![9.0; rows]), floats(&b, &vec![9.0; rows * width]));
        let g_head = floats(&b, &vec![0.5; vocab * width]);
        b.head_loss(losses, x_buf, matrix, targets_buf, rows);
        let alone = contents(&b, losses);
        b.head_loss_backward(losses, d_x, g_head, x_buf, matrix, targets_buf, 0.25, rows);
        assert_eq!(contents(&b, losses), alone);
        assert_eq!(alone[2], 0.0);
        close(alone.iter().sum(), loss(&x, &head, &targets, width, 1.0), "losses");
        let (d_x, g_head) = (contents(&b, d_x), contents(&b, g_head));
        for i in (0..x.len()).step_by(2) {
            close(d_x[i], slope(&x, i, 1e-2, |x| loss(x, &head, &targets, width, 0.25)), "d_x");
        }
        for i in (0..head.len()).step_by(7) {
            let want = slope(&head, i, 1e-2, |head| loss(&x, head, &targets, width, 0.25));
            close(g_head[i] - 0.5, want, "g_head");
        }
    }
}

#[test]
fn the_head_does_not_know_its_chunks() {
    // A vocabulary so large that a chunk holds fewer rows than there are.
    let (rows, width, vocab) = (11, 4, 3_000_000);
    // Tiles sum the head's gradient in steps of 32 rows; here a chunk holds five.
    let level = available().into_iter().rfind(|&level| level != Level::Amx);
    let b = Cpu::new(2, level).unwrap();
    let head = floats(&b, &numbers(6, vocab * width));
    let matrix = b.trainable_matrix(head, vocab, width, Precision::Bf16).unwrap();
    let x = numbers(7, rows * width);
    let targets: Vec<u32> = (0..rows as u32).map(|r| r * 200_000).collect();
    let run = |cuts: &[usize]| {
        let g_head = floats(&b, &vec![0.0; vocab * width]);
        let mut all = Vec::new();
        for cut in cuts.windows(2) {
            let n = cut[1] - cut[0];
            let (x, targets) = (floats(&b, &x[cut[0] * width..cut[1] * width]), ids(&b, &targets[cut[0]..cut[1]]));
            let (losses, d_x) = (floats(&b, &vec![0.0; n]), floats(&b, &vec![0.0; n * width]));
            b.head_loss_backward(losses, d_x, g_head, x, matrix, targets, 1.0, n);
            all.push((contents(&b, losses), contents(&b, d_x)));
            [x, targets, losses, d_x].into_iter().for_each(|buf| b.free(buf));
        }
        let g = contents(&b, g_head);
        b.free(g_head);
        (
            all.iter().flat_map(|(l, _)| l.clone()).collect::<Vec<_>>(),
            all.iter().flat_map(|(_, d)| d.clone()).collect::<Vec<_>>(),
            g,
        )
    };
    assert!(run(&[0, rows]) == run(&[0, 3, 4, rows]), "losses, d_x and g_head");
}

#[test]
fn an_embedding_gives_rows_back() {
    let (vocab, width) = (130, 10);
    let table = numbers(8, vocab * width);
    let rounded: Vec<f32> = table.iter().map(|&x| half::bf16::from_f32(x).to_f32()).collect();
    let wanted: Vec<u32> = (0..40).map(|i| i * 37 % 130).collect();
    for b in cpus() {
        let ids = ids(&b, &wanted);
        let out = floats(&b, &vec![9.0; 41 * width]);
        let master = floats(&b, &table);
        let bytes: &[u8] = bytemuck::cast_slice(&table);
        let parts = [EncodedRows { encoding: backend::Encoding::F32, rows: vocab, bytes }];
        for (matrix, values) in [
            (b.trainable_matrix(master, vocab, width, Precision::Bf16).unwrap(), &table),
            (b.load_matrix(&parts, width, Precision::F32).unwrap(), &table),
            (b.load_matrix(&parts, width, Precision::Bf16).unwrap(), &rounded),
        ] {
            b.embed(out, ids, matrix, 40);
            let out = contents(&b, out);
            for (r, &id) in wanted.iter().enumerate() {
                assert_eq!(out[r * width..][..width], values[id as usize * width..][..width]);
            }
            assert_eq!(out[40 * width..], [9.0; 10], "what is beyond the rows is left alone");
            b.free_matrix(matrix);
        }
    }
}

#[test]
fn memory_is_counted_and_given_back() {
    let b = Cpu::new(1, None).unwrap();
    let before = b.allocated_bytes();
    let master = b.alloc(Element::F32, 128 * 64).unwrap();
    let matrix = b.trainable_matrix(master, 128, 64, Precision::Bf16).unwrap();
    assert_eq!(b.allocated_bytes() - before, 128 * 64 * (4 + 2 + 2));
    assert_eq!(b.matrix_shape(matrix), (128, 64));
    assert_eq!(b.matrix_bytes(matrix), 128 * 64 * 2, "the forward product reads one of the two copies");
    b.free_matrix(matrix);
    b.free(master);
    assert_eq!(b.allocated_bytes(), before);
}

/// Also bf16 by `vdpbf16ps`, since no subnormal number takes part in these, and at the level `amx` all but the products of
/// bf16 matrices with rows of prompts.
#[test]
fn levels_return_the_same_bits() {
    let of = |level, threads| backend::conformance::fingerprints(&Cpu::new(threads, Some(level)).unwrap());
    let want = of(Level::Scalar, 1);
    for level in available() {
        for ((name, got), (_, want)) in of(level, 2).iter().zip(&want) {
            let tiles = level == Level::Amx && (name.starts_with("linear") || name.starts_with("head_"));
            let same = !tiles || name.ends_with("F32") || name.contains("generated");
            assert_eq!(got == want, same, "{level}: {name}");
        }
    }
}

/// The suite runs at every other level in `tests/conformance.rs`, where there are no software tiles.
#[test]
fn tiles_conform() {
    for level in available().into_iter().filter(|&level| level == Level::Amx) {
        let (cpu, alone) = (Cpu::new(2, Some(level)).unwrap(), Cpu::new(1, Some(level)).unwrap());
        backend::conformance::all().into_iter().for_each(|(_, check)| check(&cpu));
        assert_eq!(backend::conformance::fingerprints(&cpu), backend::conformance::fingerprints(&alone), "threads");
    }
}
