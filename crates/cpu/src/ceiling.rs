//! What the machine can do at most, measured in a few milliseconds: the denominators of "share of peak".
//!
//! Every thread of the pool runs the same loop, on registers alone or over memory of its own; the best of a few rounds
//! counts, since other programs can only slow a round down.

use crate::memory::Aligned;
use crate::{Level, Pool};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Rounds of a measurement at least, the best of which counts.
const ROUNDS: usize = 5;
/// A measurement goes on at least that long: a neighbour that has a core for a moment must not make a wrong ceiling
/// (five rounds of 0.2 ms once gave 236 instead of 470 GFLOP/s).
const SPREAD: Duration = Duration::from_millis(100);
/// Passes over the accumulators in a round: about 0.2 ms.
const PASSES: usize = 20_000;

/// f32 operations a second (a multiply-add is two) of all threads, in registers.
pub fn fma_flops(pool: &Pool, level: Level) -> f64 {
    rate(pool, || singles(level))
}

/// bf16 operations a second (a multiply-add is two) of all threads, in registers: by tiles or `vdpbf16ps` where the level
/// has them, else those of f32, which then do its work.
pub fn bf16_flops(pool: &Pool, level: Level) -> f64 {
    rate(pool, || dots(level))
}

/// Operations a second (a multiply-add is two) on integers of 8 bits, of all threads, in registers: summed in 32 bits by
/// `vpdpbusd` where the level's registers have it (AVX512-VNNI, AVX-VNNI), in 16 by `vpmaddubsw` with AVX2, else the bf16
/// rate, which must do.
pub fn int8_ops(pool: &Pool, level: Level) -> f64 {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        if level >= Level::Avx512 && has!("avx512vnni") {
            // SAFETY: both were just seen.
            return rate(pool, || unsafe { x86::integers_of_avx512() });
        }
        if level == Level::Avx2 && has!("avxvnni") {
            // SAFETY: as above.
            return rate(pool, || unsafe { x86::integers_of_avx2() });
        }
        if level >= Level::Avx2 {
            // SAFETY: a `Level` is made only where its instructions were seen.
            return rate(pool, || unsafe { x86::short_sums_of_avx2() });
        }
    }
    bf16_flops(pool, level)
}

/// Bytes a second that all threads together read from a buffer of `bytes` bytes, written before and read in order. From
/// memory where `bytes` are several times the last cache; the size of a model's weights tells what its decoding can do.
pub fn read_bandwidth(pool: &Pool, bytes: usize) -> f64 {
    let mut buffer = Aligned::<u64>::empty();
    // Where there is less memory, less is read.
    let halves = std::iter::successors(Some(bytes / 8), |len| Some(len / 2)).take_while(|&len| len > 0);
    if let Some(had) = halves.filter_map(Aligned::<u64>::zeroed).next() {
        buffer = had;
    }
    let chunk = buffer.len().div_ceil(8 * pool.threads()).max(8);
    pool.for_each_chunk(&mut buffer, chunk, |index, words| words.fill(index as u64));
    best(|| {
        let start = Instant::now();
        pool.run(buffer.len().div_ceil(chunk), &|part| {
            let words = &buffer[part * chunk..buffer.len().min((part + 1) * chunk)];
            black_box(mixed(words));
        });
        buffer.bytes() as f64 / start.elapsed().as_secs_f64()
    })
}

/// Nanoseconds until a cache line that one core has written is read by another and written back, halved: 20 to 30 where
/// the two share a last cache, 180 and more where they do not. The best of many exchanges; `None` where two threads did
/// not run at the same time.
pub fn handover_nanoseconds() -> Option<f64> {
    /// Exchanges in a row that are timed together.
    const EXCHANGES: u32 = 500;
    const LONGEST: Duration = Duration::from_millis(10);
    /// A line of its own, and its neighbour, which is fetched with it.
    #[repr(align(128))]
    struct Line(AtomicU32);
    let Line(line) = &Line(AtomicU32::new(0));
    let start = Instant::now();
    // The caller writes odd numbers, the other thread the even ones that follow.
    let answer = |from: u32| {
        let mut spins = 0u32;
        while line.load(Ordering::Acquire) != from {
            spins = spins.wrapping_add(1);
            if spins.is_multiple_of(1024) && start.elapsed() > 2 * LONGEST {
                return false;
            }
            spin_loop();
        }
        line.store(from.wrapping_add(1), Ordering::Release);
        true
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..).step_by(2).all(|turn: u32| answer(turn + 1)));
        let (mut best, mut turn) = (None::<f64>, 0);
        while start.elapsed() < LONGEST {
            let began = Instant::now();
            if !(0..EXCHANGES).all(|i| answer(turn + 2 * i)) {
                break;
            }
            turn += 2 * EXCHANGES;
            let nanoseconds = began.elapsed().as_nanos() as f64 / f64::from(2 * EXCHANGES);
            best = Some(best.map_or(nanoseconds, |best| best.min(nanoseconds)));
        }
        best
    })
}

/// Nanoseconds of a job of the pool that has one empty part for each thread and is not done before all threads have
/// taken theirs: what an operation pays for its threads. The best of many; `None` where there is but one thread.
pub fn job_nanoseconds(pool: &Pool) -> Option<f64> {
    /// Jobs in a row that are timed together.
    const JOBS: usize = 50;
    /// A part waits no longer for the others.
    const PATIENCE: u32 = 1 << 16;
    let threads = pool.threads();
    if threads == 1 {
        return None;
    }
    let start = Instant::now();
    let mut best = None::<f64>;
    while start.elapsed() < SPREAD {
        let met = AtomicU32::new(0);
        let began = Instant::now();
        for job in 1..=JOBS {
            pool.run(threads, &|_| {
                met.fetch_add(1, Ordering::AcqRel);
                let mut spins = 0;
                while (met.load(Ordering::Acquire) as usize) < job * threads && spins < PATIENCE {
                    spin_loop();
                    spins += 1;
                }
            });
        }
        let nanoseconds = began.elapsed().as_nanos() as f64 / JOBS as f64;
        best = Some(best.map_or(nanoseconds, |best| best.min(nanoseconds)));
    }
    best
}

/// How many times the products a second of f32 multiply-adds on widened numbers `vdpbf16ps` does. The processor must
/// have it.
pub(crate) fn bf16_dots_gain() -> f64 {
    gain(|| dots(Level::Avx512Bf16), || singles(Level::Avx512))
}

/// How many times the products a second of the faster of both tiles do; 0 where there are none.
pub(crate) fn tiles_gain() -> f64 {
    #[cfg(target_arch = "x86_64")]
    if crate::level::has_tiles() {
        let tiles = || dots(Level::Amx);
        return gain(tiles, || dots(Level::Avx512Bf16)).min(gain(tiles, || singles(Level::Avx512)));
    }
    0.0
}

/// How many times the operations a second of `other` `one` does, on this thread.
fn gain(one: impl Fn() -> f64, other: impl Fn() -> f64) -> f64 {
    let seconds = |work: &dyn Fn() -> f64| {
        let start = Instant::now();
        work() / start.elapsed().as_secs_f64()
    };
    let (mut first, mut second) = (0.0f64, 0.0f64);
    // By turns, so that what disturbs one disturbs the other.
    for _ in 0..ROUNDS {
        first = first.max(seconds(&one));
        second = second.max(seconds(&other));
    }
    first / second
}

fn best(mut round: impl FnMut() -> f64) -> f64 {
    let start = Instant::now();
    let (mut best, mut rounds) = (0.0, 0);
    while rounds < ROUNDS || start.elapsed() < SPREAD {
        best = round().max(best);
        rounds += 1;
    }
    best
}

/// Operations a second of `work`, which returns how many it did, on every thread at once.
fn rate(pool: &Pool, work: impl Fn() -> f64 + Sync) -> f64 {
    let threads = pool.threads();
    best(|| {
        let mut done = vec![0.0; threads];
        let start = Instant::now();
        pool.for_each_chunk(&mut done, 1, |_, done| done[0] = work());
        done.iter().sum::<f64>() / start.elapsed().as_secs_f64()
    })
}

/// Reads all words; what it returns depends on each of them.
fn mixed(words: &[u64]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if crate::available().contains(&Level::Avx512) {
        // SAFETY: the level was just seen.
        return unsafe { x86::mixed(words) };
    }
    let mut chains = [0u64; 32];
    let (blocks, rest) = words.as_chunks::<32>();
    for block in blocks {
        chains.iter_mut().zip(block).for_each(|(chain, word)| *chain ^= word);
    }
    chains.iter().chain(rest).fold(0, |all, word| all ^ word)
}

/// Multiply-adds of f32; returns the operations done.
fn singles(level: Level) -> f64 {
    match level {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: a `Level` is made only where its instructions were seen.
        Level::Avx2 => unsafe { x86::avx2() },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Level::Avx512 | Level::Avx512Bf16 | Level::Amx => unsafe { x86::avx512() },
        _ => {
            let passes = PASSES / 10;
            let mut chains = black_box([[0.0f32; 16]; 4]);
            for _ in 0..passes {
                chains.as_flattened_mut().iter_mut().for_each(|chain| *chain = chain.mul_add(0.5, 1.0));
            }
            black_box(chains);
            (passes * 4 * 16 * 2) as f64
        }
    }
}

/// Products of bf16 pairs; returns the operations done.
fn dots(level: Level) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if level == Level::Avx512Bf16 {
        // SAFETY: a `Level` is made only where its instructions were seen.
        return unsafe { x86::dots() };
    }
    #[cfg(target_arch = "x86_64")]
    if level == Level::Amx && crate::level::has_tiles() {
        // SAFETY: tiles were seen and permitted.
        return unsafe { crate::gemm::amx::products_in_registers(PASSES) };
    }
    singles(level)
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::PASSES;
    use std::arch::x86_64::*;
    use std::hint::black_box;

    /// Accumulators: more than latency times throughput of any processor, all in registers.
    const CHAINS: usize = 24;
    /// The same of sixteen registers.
    const CHAINS_OF_AVX2: usize = 12;

    /// A digest of all words, read four lines at a time, 4 KiB fetched ahead.
    #[target_feature(enable = "avx512f")]
    pub(super) fn mixed(words: &[u64]) -> u64 {
        let mut chains = [_mm512_setzero_si512(); 4];
        let (blocks, rest) = words.as_chunks::<32>();
        for block in blocks {
            for (i, chain) in chains.iter_mut().enumerate() {
                let line = block.as_ptr().wrapping_add(8 * i);
                _mm_prefetch::<_MM_HINT_T0>(line.wrapping_add(512).cast());
                // SAFETY: a quarter of a block is a line.
                *chain = _mm512_xor_si512(*chain, unsafe { _mm512_loadu_si512(line.cast()) });
            }
        }
        let all = _mm512_xor_si512(_mm512_xor_si512(chains[0], chains[1]), _mm512_xor_si512(chains[2], chains[3]));
        rest.iter().fold(_mm512_reduce_or_epi64(all) as u64, |all, word| all ^ word)
    }

    #[target_feature(enable = "avx2,fma")]
    pub(super) fn avx2() -> f64 {
        let x = black_box(_mm256_set1_ps(0.5));
        let mut chains = [_mm256_setzero_ps(); CHAINS_OF_AVX2];
        for _ in 0..PASSES {
            for chain in &mut chains {
                *chain = _mm256_fmadd_ps(x, x, *chain);
            }
        }
        black_box(chains);
        (PASSES * CHAINS_OF_AVX2 * 8 * 2) as f64
    }

    #[target_feature(enable = "avx512f")]
    pub(super) fn avx512() -> f64 {
        let x = black_box(_mm512_set1_ps(0.5));
        let mut chains = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..PASSES {
            for chain in &mut chains {
                *chain = _mm512_fmadd_ps(x, x, *chain);
            }
        }
        black_box(chains);
        (PASSES * CHAINS * 16 * 2) as f64
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    pub(super) fn integers_of_avx512() -> f64 {
        let x = black_box(_mm512_set1_epi8(1));
        let mut chains = [_mm512_setzero_si512(); CHAINS];
        for _ in 0..PASSES {
            for chain in &mut chains {
                *chain = _mm512_dpbusd_epi32(*chain, x, x);
            }
        }
        black_box(chains);
        (PASSES * CHAINS * 64 * 2) as f64
    }

    #[target_feature(enable = "avx2,avxvnni")]
    pub(super) fn integers_of_avx2() -> f64 {
        let x = black_box(_mm256_set1_epi8(1));
        let mut chains = [_mm256_setzero_si256(); CHAINS_OF_AVX2];
        for _ in 0..PASSES {
            for chain in &mut chains {
                *chain = _mm256_dpbusd_avx_epi32(*chain, x, x);
            }
        }
        black_box(chains);
        (PASSES * CHAINS_OF_AVX2 * 32 * 2) as f64
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn short_sums_of_avx2() -> f64 {
        let x = black_box(_mm256_set1_epi8(1));
        let mut chains = [_mm256_setzero_si256(); CHAINS_OF_AVX2];
        for _ in 0..PASSES {
            for chain in &mut chains {
                // The product depends on the chain, or it would be taken out of the loop.
                *chain = _mm256_add_epi16(_mm256_maddubs_epi16(x, *chain), x);
            }
        }
        black_box(chains);
        (PASSES * CHAINS_OF_AVX2 * 32 * 2) as f64
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub(super) fn dots() -> f64 {
        // SAFETY: both types are 64 plain bytes.
        let x = unsafe { std::mem::transmute::<__m512i, __m512bh>(black_box(_mm512_set1_epi32(0x3f00_3f00))) };
        let mut chains = [_mm512_setzero_ps(); CHAINS];
        for _ in 0..PASSES {
            for chain in &mut chains {
                *chain = _mm512_dpbf16_ps(*chain, x, x);
            }
        }
        black_box(chains);
        (PASSES * CHAINS * 32 * 2) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_has_a_ceiling() {
        let pool = Pool::new(2);
        for level in crate::available() {
            let (singles, halves) = (fma_flops(&pool, level), bf16_flops(&pool, level));
            let integers = int8_ops(&pool, level);
            println!("{level}: f32 {:.1}, bf16 {:.1}, int8 {:.1} Gop/s", singles / 1e9, halves / 1e9, integers / 1e9);
            assert!(singles > 1e6 && halves > 1e6 && integers > 1e6);
        }
        let bytes = read_bandwidth(&pool, 64 << 20);
        println!("read {:.1} GB/s", bytes / 1e9);
        assert!(bytes > 1e6);
    }

    #[test]
    fn a_job_takes_time_where_there_are_threads_to_wait_for() {
        assert_eq!(job_nanoseconds(&Pool::new(1)), None);
        assert!(job_nanoseconds(&Pool::new(2)).is_some_and(|nanoseconds| nanoseconds > 1.0));
    }

    #[test]
    fn a_line_takes_time_to_change_hands() {
        match handover_nanoseconds() {
            Some(nanoseconds) => assert!(nanoseconds > 1.0, "{nanoseconds}"),
            None => println!("skipped: two threads did not run at the same time"),
        }
    }
}
