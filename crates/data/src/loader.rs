//! Token shards in, training samples out.
//!
//! A source's training shards are one stream of tokens, cut into windows of `sequence + 1` tokens that overlap by one:
//! window `i` is tokens `i·sequence ..= (i+1)·sequence`, so every token but the very first is predicted exactly once an
//! epoch. The tail that fills no window is left out and counted ([`Loader::tokens_left_out`]).

use crate::manifest::{Manifest, Part, SeparatorIds};
use crate::order::Order;
use crate::shard::Shard;
use crate::{DataError, Draw};
use std::path::Path;

/// A window of the token stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample {
    /// `sequence + 1` tokens (the last validation sample of a source may be shorter, at least 2): position `p` reads
    /// `tokens[p]` and predicts `tokens[p + 1]`.
    pub tokens: Vec<u32>,
    /// For each of the `tokens.len() - 1` positions, the first position of its document in this window: what it may
    /// attend to when documents shall not see each other.
    pub first_key: Vec<u32>,
}

impl Sample {
    /// What is read: all tokens but the last.
    pub fn inputs(&self) -> &[u32] {
        &self.tokens[..self.tokens.len() - 1]
    }

    /// What is predicted: all tokens but the first.
    pub fn targets(&self) -> &[u32] {
        &self.tokens[1..]
    }
}

/// The concatenation of a source's shards.
struct Stream {
    shards: Vec<Shard>,
    /// Number of the first token of each shard, and the number of all tokens.
    starts: Vec<u64>,
}

impl Stream {
    fn new(shards: Vec<Shard>) -> Self {
        let mut starts = vec![0u64];
        for shard in &shards {
            starts.push(starts[starts.len() - 1].saturating_add(shard.tokens()));
        }
        Self { shards, starts }
    }

    fn tokens(&self) -> u64 {
        self.starts[self.starts.len() - 1]
    }

    /// Tokens `from..to`, as many of them as there are.
    fn read(&self, from: u64, to: u64) -> Result<Vec<u32>, DataError> {
        let mut out = Vec::with_capacity((to.min(self.tokens()).saturating_sub(from)) as usize);
        let first = self.starts.partition_point(|&start| start <= from).saturating_sub(1);
        for (shard, &start) in self.shards.iter().zip(&self.starts).skip(first) {
            if start >= to {
                break;
            }
            shard.read(from.saturating_sub(start), to - start, &mut out)?;
        }
        Ok(out)
    }
}

/// Draws training samples by global index, and validation samples in their fixed order. Cheap, and usable from any
/// number of threads: a sample depends on its index only.
pub struct Loader {
    manifest: Manifest,
    sequence: usize,
    train: Vec<Stream>,
    validation: Vec<Stream>,
    order: Order,
}

impl std::fmt::Debug for Loader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Loader({} samples of {} tokens)", self.samples_per_epoch(), self.sequence)
    }
}

impl Loader {
    /// Opens the shards of `dir`. `weights` are the shares of sources by name, as a recipe gives them ([`weights`]);
    /// where all are 0, or none is given, each source counts by its tokens.
    ///
    /// # Errors
    /// Whatever [`Manifest::load`] says; [`DataError::TooFewTokens`] where no sample, or none of a weighted source, can
    /// be cut; [`DataError::UnknownSource`] for a weight without shards.
    pub fn open(dir: &Path, weights: &[(String, f64)], sequence: usize, seed: u64) -> Result<Self, DataError> {
        let sequence = sequence.max(1);
        let manifest = Manifest::load(dir)?;
        let streams = |part| {
            let open = |source| Ok(Stream::new(manifest.open_shards(dir, source, part)?));
            manifest.sources.iter().map(open).collect::<Result<Vec<_>, DataError>>()
        };
        let (train, validation) = (streams(Part::Train)?, streams(Part::Validation)?);
        let samples = |stream: &Stream| stream.tokens().saturating_sub(1) / sequence as u64;
        let counts: Vec<(String, u64)> = manifest
            .sources
            .iter()
            .zip(&train)
            .map(|(source, stream)| (source.name.clone(), samples(stream)))
            .collect();
        let order = order(&manifest, counts, weights, sequence, seed, dir)?;
        Ok(Self { manifest, sequence, train, validation, order })
    }

    /// The manifest of the shards.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Positions of a sample.
    pub fn sequence(&self) -> usize {
        self.sequence
    }

    /// Training samples of all sources.
    pub fn samples_per_epoch(&self) -> u64 {
        self.order.samples_per_epoch()
    }

    /// Training tokens of all sources.
    pub fn train_tokens(&self) -> u64 {
        self.manifest.tokens(Part::Train)
    }

    /// Training tokens that are predicted in no sample: the first of each source, and the tails that fill no window.
    pub fn tokens_left_out(&self) -> u64 {
        self.train_tokens() - self.samples_per_epoch() * self.sequence as u64
    }

    /// How often everything has been seen before sample `index`, as a fraction: 2.5 is in the middle of the third time.
    pub fn epochs_at(&self, index: u64) -> f64 {
        index as f64 / self.samples_per_epoch() as f64
    }

    /// Which sample of which source is drawn at `index`.
    pub fn draw(&self, index: u64) -> Draw {
        self.order.at(index)
    }

    /// The training sample at a global index; there is no last one.
    ///
    /// # Errors
    /// [`DataError::Shard`] where the file holds an id that the vocabulary lacks.
    pub fn sample(&self, index: u64) -> Result<Sample, DataError> {
        let draw = self.order.at(index);
        self.window(&self.train[draw.source], draw.sample)
    }

    /// Validation samples, in a fixed order: every token of the validation shards but each source's first is predicted
    /// once. With `limit_tokens`, only about so many positions, in windows spread evenly over all; 0 is no limit.
    pub fn validation_samples(&self, limit_tokens: u64) -> impl Iterator<Item = Result<Sample, DataError>> + '_ {
        let windows: Vec<u64> = self.validation.iter().map(|stream| self.windows(stream)).collect();
        let total: u64 = windows.iter().sum();
        let wanted = if limit_tokens == 0 { total } else { limit_tokens.div_ceil(self.sequence as u64).min(total) };
        (0..wanted).map(move |nth| {
            let mut window = (u128::from(nth) * u128::from(total) / u128::from(wanted)) as u64;
            let mut source = 0;
            while window >= windows[source] {
                window -= windows[source];
                source += 1;
            }
            self.window(&self.validation[source], window)
        })
    }

    /// Number of samples that [`Loader::validation_samples`] gives.
    pub fn validation_len(&self, limit_tokens: u64) -> u64 {
        let total: u64 = self.validation.iter().map(|stream| self.windows(stream)).sum();
        if limit_tokens == 0 { total } else { limit_tokens.div_ceil(self.sequence as u64).min(total) }
    }

    /// Windows of a stream, with a last shorter one.
    fn windows(&self, stream: &Stream) -> u64 {
        stream.tokens().saturating_sub(1).div_ceil(self.sequence as u64)
    }

    fn window(&self, stream: &Stream, window: u64) -> Result<Sample, DataError> {
        let from = window * self.sequence as u64;
        let tokens = stream.read(from, from + self.sequence as u64 + 1)?;
        let first_key = first_keys(&tokens, &self.manifest.separator);
        Ok(Sample { tokens, first_key })
    }
}

fn order(
    manifest: &Manifest,
    counts: Vec<(String, u64)>,
    weights: &[(String, f64)],
    sequence: usize,
    seed: u64,
    dir: &Path,
) -> Result<Order, DataError> {
    let too_few = |source: &str, tokens| DataError::TooFewTokens {
        dir: dir.into(),
        source_name: source.into(),
        tokens,
        sequence,
    };
    if counts.iter().all(|count| count.1 == 0) {
        return Err(too_few("all sources together", manifest.tokens(Part::Train)));
    }
    let content = manifest.content_hash();
    if weights.iter().all(|(_, weight)| *weight == 0.0) {
        return Ok(Order::new(seed, &content, counts, None));
    }
    for (name, weight) in weights {
        let Some(count) = counts.iter().find(|count| &count.0 == name) else {
            return Err(DataError::UnknownSource { dir: dir.into(), source_name: name.clone() });
        };
        if *weight > 0.0 && count.1 == 0 {
            let entry = manifest.sources.iter().find(|source| &source.name == name);
            return Err(too_few(name, entry.map_or(0, |source| source.train.tokens())));
        }
    }
    let weight = |name: &str| weights.iter().find(|(other, _)| other == name).map_or(0.0, |(_, weight)| *weight);
    // A source that weighs nothing stays in the list, so that indices fit, but is never drawn.
    let all: Vec<f64> = counts.iter().map(|(name, _)| weight(name)).collect();
    Ok(Order::new(seed, &content, counts, Some(&all)))
}

/// For each position but the last token's, where its document begins in the window.
fn first_keys(tokens: &[u32], separator: &SeparatorIds) -> Vec<u32> {
    let mut first = 0;
    let positions = tokens.len().saturating_sub(1);
    let begins = |position: usize| match (separator.bos, separator.eos) {
        (Some(bos), _) if tokens[position] == bos => true,
        // After an end, unless what follows is a beginning, which says so itself at the same place.
        (_, Some(eos)) => position > 0 && tokens[position - 1] == eos,
        _ => false,
    };
    (0..positions)
        .map(|position| {
            if begins(position) {
                first = position as u32;
            }
            first
        })
        .collect()
}

/// The weights of a recipe's training sources, as [`Loader::open`] takes them.
pub fn weights(data: &recipe::Data) -> Vec<(String, f64)> {
    let trained = data.sources.iter().filter(|source| source.split != recipe::Split::Validation);
    trained.map(|source| (source.name.clone(), source.weight)).collect()
}
