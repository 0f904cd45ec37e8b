//! Products with weights in blocks: `C = A · Bᵀ`, B as its file holds it, A rounded to 8 bits.
//!
//! # The sum
//! An activation block is `x ≈ d_x·q_x` (see [`activations`]), a weight block `w = d_w·(q_w − offset) [+ minimum]`. Every
//! element of C is one chain over the blocks of 32 in ascending order, from 0:
//! ```text
//! c ← fma(Σ (q_w − offset)·q_x, d_w·d_x, c)        the sum an exact integer, the product of scales rounded once
//! c ← fma(minimum, d_x·Σ q_x, c)                   where the encoding has minima
//! ```
//! Types with a scale for every 16 values (Q2_K, Q3_K, Q6_K) take each step twice a block, its first half first. A residual is
//! added last. Integers are exact whatever computes them, so the bits depend neither on the level nor on rows or threads,
//! and both [`backend::Family`]s are one.
//!
//! # The form
//! Panels of sixteen outputs ([`form`]), each one stream of memory: a product of few rows reads every byte once, straight
//! ahead. A tile is up to [`MR`] rows of a panel ([`vnni`]). With few rows that is bound by memory. With many it is bound
//! by arithmetic: of ten operations of the multiplying ports eight are `vpdpbusd`, one scales and one sums, so that 80 %
//! of the peak of `vpdpbusd` is what can be had.

mod activations;
#[cfg(target_arch = "x86_64")]
mod avx2;
mod form;
mod pack;
mod scalar;
#[cfg(target_arch = "x86_64")]
mod vnni;

use crate::gemm::Onto;
use crate::memory::{Aligned, Scratch, Slabs};
use crate::pool::Disjoint;
use crate::split::share;
use crate::{Level, Pool};
use activations::{MR, Rounded, tile_rows};
use backend::{EncodedRows, Encoding};
use form::{BLOCK, Form, LANES};
use std::ops::Range;

/// Bytes of rounded activations that a task works on, beside the panel of weights in an L2 of 1 MiB.
const LEFT_BYTES: usize = 384 << 10;
/// Rows up to which a task is a run of panels, read once from memory, and rows are not split.
const FEW_ROWS: usize = 17;

/// A right operand in blocks: parts of outputs one after the other, each in its own encoding, all `k` long.
pub(crate) struct Blocks {
    /// Outputs.
    n: usize,
    /// Blocks of a row.
    blocks: usize,
    parts: Vec<Part>,
    /// The panels of all parts.
    words: Aligned<u32>,
}

/// Outputs of one encoding.
struct Part {
    form: Form,
    outputs: Range<usize>,
    /// Panels of the parts before.
    first_panel: usize,
    /// Where its panels begin, in bytes.
    start: usize,
}

impl Part {
    fn panels(&self) -> usize {
        self.outputs.len().div_ceil(LANES)
    }
}

/// Sixteen outputs of a part, or those that are left at its end.
struct Panel<'a> {
    form: Form,
    bytes: &'a [u8],
    outputs: Range<usize>,
}

impl Blocks {
    /// Whether rows in this encoding can be kept in blocks.
    pub(crate) const fn can_hold(encoding: Encoding) -> bool {
        Form::of(encoding).is_some()
    }

    /// Packs the rows of all parts, `k` numbers each; `None` where the memory cannot be had.
    pub(crate) fn pack(pool: &Pool, slabs: &Slabs, parts: &[EncodedRows<'_>], k: usize) -> Option<Self> {
        assert!(k.is_multiple_of(BLOCK), "rows of {k} are not whole blocks");
        let blocks = k / BLOCK;
        let (mut own, mut n, mut panels, mut bytes) = (Vec::with_capacity(parts.len()), 0, 0, 0usize);
        for part in parts {
            let Some(form) = Form::of(part.encoding) else { unreachable!("{:?} has no blocks", part.encoding) };
            let made = Part { form, outputs: n..n + part.rows, first_panel: panels, start: bytes };
            (n, panels) = (made.outputs.end, panels + made.panels());
            bytes = bytes.checked_add(made.panels().checked_mul(form.panel_bytes(blocks))?)?;
            own.push(made);
        }
        let mut words = slabs.take(bytes / 4)?;
        for (own, part) in own.iter().zip(parts) {
            let panel_bytes = own.form.panel_bytes(blocks);
            let packed = &mut bytemuck::cast_slice_mut(&mut words)[own.start..][..own.panels() * panel_bytes];
            if packed.is_empty() {
                continue;
            }
            let row_bytes = part.bytes.len() / part.rows;
            pool.for_each_chunk(packed, panel_bytes, |panel, packed| {
                let rows = part.bytes.chunks_exact(row_bytes).skip(panel * LANES).take(LANES);
                rows.enumerate().for_each(|(lane, row)| pack::pack_row(part.encoding, row, packed, lane));
            });
        }
        Some(Self { n, blocks, parts: own, words })
    }

    /// Bytes of all panels.
    pub(crate) fn bytes(&self) -> usize {
        self.words.bytes()
    }

    fn panels(&self) -> usize {
        self.parts.last().map_or(0, |part| part.first_panel + part.panels())
    }

    fn panel(&self, index: usize) -> Panel<'_> {
        let part = &self.parts[self.parts.partition_point(|part| part.first_panel <= index) - 1];
        let within = index - part.first_panel;
        let bytes = part.form.panel_bytes(self.blocks);
        let first = part.outputs.start + within * LANES;
        Panel {
            form: part.form,
            bytes: &bytemuck::cast_slice(&self.words)[part.start + within * bytes..][..bytes],
            outputs: first..part.outputs.end.min(first + LANES),
        }
    }

    /// Row `row` of the `n`, decoded: the bits that [`formats::quant::decode`] gives.
    pub(crate) fn row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.n, "row {row} of {}", self.n);
        let part = &self.parts[self.parts.partition_point(|part| part.outputs.end <= row)];
        let within = row - part.outputs.start;
        let panel = self.panel(part.first_panel + within / LANES);
        pack::unpack_row(panel.form, panel.bytes, within % LANES, out);
    }
}

/// Which instructions multiply. They give the same bits; so the choice is none of the [`Level`]'s.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    Scalar,
    /// `vpmaddubsw`. AVX-512 without VNNI takes it too: such processors are bound by memory for few rows in either way,
    /// and for many the bf16 or f32 products of the same level are as fast.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// `vpdpbusd`.
    #[cfg(target_arch = "x86_64")]
    Vnni,
}

impl Kernel {
    fn of(level: Level) -> Self {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 | Level::Avx512Bf16 | Level::Amx if std::arch::is_x86_feature_detected!("avx512vnni") => {
                Self::Vnni
            }
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 | Level::Avx512 | Level::Avx512Bf16 | Level::Amx => Self::Avx2,
            _ => Self::Scalar,
        }
    }
}

/// `out = onto + x · wᵀ`, [`Onto::Itself`] excepted: `out` is `rows × w.n`, `x` is `rows × k`, both dense.
pub(crate) fn quant_gemm(
    pool: &Pool,
    level: Level,
    scratch: &Scratch,
    out: &mut [f32],
    onto: Onto<'_>,
    x: &[f32],
    w: &Blocks,
    rows: usize,
) {
    let out = &mut out[..rows * w.n];
    match onto {
        Onto::Residual(residual) => {
            assert!(residual.len() >= out.len(), "residual of {} for {} outputs", residual.len(), out.len());
        }
        Onto::Itself => panic!("a sum over blocks starts from 0"),
        Onto::Nothing | Onto::ItselfAsResidual => {}
    }
    let mut lease = scratch.take(rows * w.blocks * size_of::<Rounded>() / 4);
    let rounded: &mut [Rounded] = bytemuck::cast_slice_mut(lease.words());
    activations::round(pool, level, rounded, x, rows, w.blocks);
    let job = Job { kernel: Kernel::of(level), out: Disjoint::new(out), onto, rounded, w, rows };
    let (row_blocks, panel_blocks) = grid(pool.threads(), rows, w);
    pool.run(row_blocks * panel_blocks, &|task| {
        // Neighbours in time share the rows of A of a task and so the panels of B in the shared cache.
        let tiles = share(task / panel_blocks, row_blocks, rows.div_ceil(tile_rows(rows)));
        let panels = share(task % panel_blocks, panel_blocks, w.panels());
        job.task(tiles, panels);
    });
}

/// How C is cut into tasks, over rows and over panels. It decides nothing but speed.
fn grid(threads: usize, rows: usize, w: &Blocks) -> (usize, usize) {
    let row_bytes = w.blocks * size_of::<Rounded>();
    let row_blocks =
        if rows <= FEW_ROWS { 1 } else { (rows * row_bytes).div_ceil(LEFT_BYTES).min(rows.div_ceil(MR)).max(1) };
    // Four tasks a thread: the threads of a busy machine do not finish at the same time.
    let wanted = if threads == 1 { 1 } else { threads * 4 };
    (row_blocks, wanted.div_ceil(row_blocks).min(w.panels()).max(1))
}

/// A product under way.
struct Job<'a> {
    kernel: Kernel,
    out: Disjoint<'a, f32>,
    onto: Onto<'a>,
    /// `[tile][block][row]`.
    rounded: &'a [Rounded],
    w: &'a Blocks,
    rows: usize,
}

/// Some rows of a panel.
struct Tile<'a> {
    form: Form,
    /// Weights ([`form`]).
    panel: &'a [u8],
    /// Whether the weights come from memory: then they are fetched ahead.
    stream: bool,
    /// `[block][height]`.
    left: &'a [Rounded],
    blocks: usize,
    /// 1..=[`MR`].
    height: usize,
    /// 1..=[`LANES`].
    width: usize,
    /// What is added to the sums in the end: the first float and the distance of rows.
    residual: Option<(*const f32, usize)>,
}

impl Job<'_> {
    /// Computes the outputs `tiles × panels`.
    fn task(&self, tiles: Range<usize>, panels: Range<usize>) {
        let (n, blocks, tile_rows) = (self.w.n, self.w.blocks, tile_rows(self.rows));
        for panel in panels {
            let Panel { form, bytes: panel, outputs } = self.w.panel(panel);
            for tile in tiles.clone() {
                let row = tile * tile_rows;
                let (height, width) = (tile_rows.min(self.rows - row), outputs.len());
                let left = &self.rounded[row * blocks..][..height * blocks];
                let at = row * n + outputs.start;
                assert!(self.out.len >= at + (height - 1) * n + width);
                let own = (self.out.at(at), n);
                let residual = match self.onto {
                    Onto::Residual(residual) => Some((residual[at..].as_ptr(), n)),
                    Onto::ItselfAsResidual => Some((own.0.cast_const(), n)),
                    Onto::Nothing | Onto::Itself => None,
                };
                // The first rows bring the panel into the cache, where the others find it.
                let stream = self.rows <= FEW_ROWS && tile == tiles.start;
                let tile = Tile { form, panel, stream, left, blocks, height, width, residual };
                // SAFETY: tiles of different tasks are different outputs; `out` holds `height` rows of `width` floats at
                // the distance of `n`, as just asserted, and so does `residual`, which is as long.
                unsafe { tile.compute(self.kernel, own) };
            }
        }
    }
}

impl Tile<'_> {
    /// # Safety
    /// [`Tile::residual`] and `out` reach `height` rows of `width` floats, which no other thread writes; the processor has
    /// the kernel's instructions.
    unsafe fn compute(&self, kernel: Kernel, out: (*mut f32, usize)) {
        assert!(self.left.len() == self.blocks * self.height && (1..=MR).contains(&self.height));
        assert!((1..=LANES).contains(&self.width) && self.panel.len() == self.form.panel_bytes(self.blocks));
        // SAFETY: as the caller promises.
        unsafe {
            match kernel {
                #[cfg(target_arch = "x86_64")]
                Kernel::Vnni => vnni::tile(self, out),
                #[cfg(target_arch = "x86_64")]
                Kernel::Avx2 => avx2::tile(self, out),
                Kernel::Scalar => scalar::tile(self, out),
            }
        }
    }
}

#[cfg(test)]
mod tests;
