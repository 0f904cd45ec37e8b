//! Weight matrices in the packed form that [`crate::gemm`] multiplies with.
//!
//! A loaded matrix is packed once, from whatever encoding its file has. A trainable one follows its f32 master and is
//! packed twice: over its outputs for `x · wᵀ`, over its inputs for `d_out · w`.

use crate::gemm::{Left, Number, Onto, Panels, gemm};
use crate::memory::{Scratch, Slabs};
use crate::quant_gemm::{Blocks, quant_gemm};
use crate::{Level, Pool};
use backend::{BackendError, Buf, EncodedRows, Encoding, Precision, Rows};
use formats::quant;

/// A weight matrix, `rows` = output features, `cols` = input features.
pub(crate) struct Weights {
    pub(crate) rows: usize,
    pub(crate) cols: usize,
    /// For `x · wᵀ`.
    forward: Forward,
    pub(crate) training: Option<Training>,
}

/// The packed form of a matrix.
enum Forward {
    /// Panels of outputs.
    Floats(Panels),
    /// Panels of outputs in the blocks of the file.
    Blocks(Blocks),
}

/// What a trainable matrix has beside.
pub(crate) struct Training {
    /// `rows × cols` floats, the truth.
    pub(crate) master: Buf,
    /// Panels of inputs: `d_out · w`.
    pub(crate) backward: Panels,
}

fn panels(slabs: &Slabs, number: Number, n: usize, k: usize) -> Result<Panels, BackendError> {
    let bytes = n.saturating_mul(k).saturating_mul(number.bytes());
    Panels::zeroed(slabs, number, n, k).ok_or(BackendError::OutOfMemory { what: "a weight matrix", bytes })
}

impl Weights {
    /// A matrix for inference: the parts stacked, each `cols` wide. Never holds more of it in f32 than a panel a thread.
    /// [`Precision::Int8`] keeps blocks as they are, and a matrix with a part of floats as [`Precision::Bf16`] does.
    pub(crate) fn load(
        pool: &Pool,
        scratch: &Scratch,
        slabs: &Slabs,
        parts: &[EncodedRows<'_>],
        cols: usize,
        precision: Precision,
    ) -> Result<Self, BackendError> {
        let rows = parts.iter().map(|part| part.rows).sum();
        for part in parts {
            let row_bytes = quant::row_bytes(stored(part.encoding), cols);
            let want = row_bytes.and_then(|bytes| bytes.checked_mul(part.rows));
            assert_eq!(Some(part.bytes.len()), want, "bytes of {} rows × {cols} of {:?}", part.rows, part.encoding);
        }
        if precision == Precision::Int8 && parts.iter().all(|part| Blocks::can_hold(part.encoding)) {
            let bytes = parts.iter().map(|part| part.bytes.len()).sum();
            let blocks = Blocks::pack(pool, slabs, parts, cols);
            let blocks = blocks.ok_or(BackendError::OutOfMemory { what: "a weight matrix", bytes })?;
            return Ok(Self { rows, cols, forward: Forward::Blocks(blocks), training: None });
        }
        let number = if precision == Precision::F32 { Number::F32 } else { Number::Bf16 };
        let mut forward = panels(slabs, number, rows, cols)?;
        forward.fill_by_rows(pool, scratch, |range, out| {
            for (row, out) in range.zip(out.chunks_exact_mut(cols)) {
                decode_row(parts, row, out);
            }
        });
        Ok(Self { rows, cols, forward: Forward::Floats(forward), training: None })
    }

    /// A matrix for training, of zeroes until [`Weights::refresh`].
    pub(crate) fn trainable(
        slabs: &Slabs,
        master: Buf,
        rows: usize,
        cols: usize,
        number: Number,
    ) -> Result<Self, BackendError> {
        let forward = Forward::Floats(panels(slabs, number, rows, cols)?);
        let training = Some(Training { master, backward: panels(slabs, number, cols, rows)? });
        Ok(Self { rows, cols, forward, training })
    }

    /// Packs the master's values.
    pub(crate) fn refresh(&mut self, pool: &Pool, level: Level, master: &[f32]) {
        if let Forward::Floats(panels) = &mut self.forward {
            panels.pack_rows(pool, level, master);
        }
        if let Some(training) = &mut self.training {
            training.backward.pack_columns(pool, level, master);
        }
    }

    /// `out = onto + x · wᵀ` for dense `rows`.
    pub(crate) fn multiply(
        &self,
        pool: &Pool,
        level: Level,
        scratch: &Scratch,
        out: &mut [f32],
        onto: Onto<'_>,
        x: &[f32],
        rows: Rows,
    ) {
        match &self.forward {
            Forward::Floats(panels) => {
                gemm(pool, level, scratch, out, onto, Left::Rows { x, ld: self.cols }, panels.right(), rows);
            }
            Forward::Blocks(blocks) => quant_gemm(pool, level, scratch, out, onto, x, blocks, rows.count),
        }
    }

    /// What a trainable matrix has beside.
    ///
    /// # Panics
    /// Where the matrix was loaded for inference.
    pub(crate) fn training(&self) -> &Training {
        self.training.as_ref().expect("gradients need a matrix made by `trainable_matrix`")
    }

    /// `out[r] = row ids[r]`: of the master where there is one, else unpacked.
    pub(crate) fn embed(&self, pool: &Pool, out: &mut [f32], ids: &[u32], master: Option<&[f32]>) {
        /// Rows that a thread looks up at a time.
        const ROWS: usize = 16;
        let width = self.cols;
        if width == 0 {
            return;
        }
        pool.for_each_chunk(&mut out[..ids.len() * width], ROWS * width, |index, chunk| {
            for (out, &id) in chunk.chunks_exact_mut(width).zip(&ids[index * ROWS..]) {
                let id = id as usize;
                assert!(id < self.rows, "token {id} of a vocabulary of {}", self.rows);
                match master {
                    Some(master) => out.copy_from_slice(&master[id * width..][..width]),
                    None => self.row(id, out),
                }
            }
        });
    }

    /// Row `row`, as it is multiplied.
    fn row(&self, row: usize, out: &mut [f32]) {
        match &self.forward {
            Forward::Floats(panels) => panels.row(row, out),
            Forward::Blocks(blocks) => blocks.row(row, out),
        }
    }

    /// Bytes that a product `x · wᵀ` reads.
    pub(crate) fn forward_bytes(&self) -> usize {
        match &self.forward {
            Forward::Floats(panels) => panels.bytes(),
            Forward::Blocks(blocks) => blocks.bytes(),
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.forward_bytes() + self.training.as_ref().map_or(0, |training| training.backward.bytes())
    }
}

/// Decodes row `row` of the stacked parts.
fn decode_row(parts: &[EncodedRows<'_>], row: usize, out: &mut [f32]) {
    let mut first = 0;
    for part in parts {
        if row < first + part.rows {
            let bytes = part.bytes.len() / part.rows;
            let row = &part.bytes[(row - first) * bytes..][..bytes];
            let decoded = quant::decode(stored(part.encoding), row, out);
            return decoded.expect("the lengths were asserted when loading began");
        }
        first += part.rows;
    }
    unreachable!("row {row} of {first}");
}

/// The same encoding by its name in `formats`.
pub(crate) fn stored(encoding: Encoding) -> formats::Encoding {
    match encoding {
        Encoding::F32 => formats::Encoding::F32,
        Encoding::F16 => formats::Encoding::F16,
        Encoding::Bf16 => formats::Encoding::Bf16,
        Encoding::Q8_0 => formats::Encoding::Q8_0,
        Encoding::Q4_0 => formats::Encoding::Q4_0,
        Encoding::Q4_1 => formats::Encoding::Q4_1,
        Encoding::Q5_0 => formats::Encoding::Q5_0,
        Encoding::Q5_1 => formats::Encoding::Q5_1,
        Encoding::Q4K => formats::Encoding::Q4K,
        Encoding::Q5K => formats::Encoding::Q5K,
        Encoding::Q6K => formats::Encoding::Q6K,
        Encoding::Q2K => formats::Encoding::Q2K,
        Encoding::Q3K => formats::Encoding::Q3K,
        Encoding::Iq4Nl => formats::Encoding::Iq4Nl,
        Encoding::Iq4Xs => formats::Encoding::Iq4Xs,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_in_their_own_encodings_stack() {
        let (cols, pool, scratch) = (64, Pool::new(2), Scratch::default());
        let values: Vec<f32> = (0..200 * cols).map(|i| ((i * 37 % 255) as f32 - 127.0) / 64.0).collect();
        let encodings = [Encoding::F32, Encoding::Q8_0, Encoding::Bf16, Encoding::Q4_0, Encoding::F16];
        let bytes = encodings.map(|e| quant::encode(stored(e), &values[..40 * cols]).unwrap());
        let parts: Vec<_> =
            encodings.iter().zip(&bytes).map(|(&encoding, bytes)| EncodedRows { encoding, rows: 40, bytes }).collect();
        for precision in [Precision::F32, Precision::Bf16] {
            let weights = Weights::load(&pool, &scratch, &Slabs::default(), &parts, cols, precision).unwrap();
            assert_eq!((weights.rows, weights.cols), (200, cols));
            let (mut row, mut want) = (vec![0.0; cols], vec![0.0; cols]);
            for i in 0..200 {
                weights.row(i, &mut row);
                decode_row(&parts, i, &mut want);
                if precision == Precision::Bf16 {
                    want.iter_mut().for_each(|x| *x = half::bf16::from_f32(*x).to_f32());
                }
                assert_eq!(row, want, "row {i}");
            }
        }
    }

    #[test]
    #[should_panic(expected = "bytes of 3 rows × 2 of F32")]
    fn a_part_of_another_length_is_refused() {
        let parts = [EncodedRows { encoding: Encoding::F32, rows: 3, bytes: &[0; 20] }];
        let _ = Weights::load(&Pool::new(1), &Scratch::default(), &Slabs::default(), &parts, 2, Precision::F32);
    }
}
