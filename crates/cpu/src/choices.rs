//! What was chosen by measurement or by a probe, in words: what `slm --version` prints below the level.

use crate::level::{Level, detect, race};
use crate::memory::HUGE_PAGE_BYTES;
use crate::{cross_entropy, gemm, pool, split};

/// `(what, how)` of every choice that decides speed and nothing else, by the constants themselves.
pub fn choices() -> Vec<(&'static str, String)> {
    let bf16 = match race() {
        _ if detect() == Level::Amx => "tiles in prompts and in training, f32 multiply-adds elsewhere".into(),
        Some(gain) if gain > 1.0 => format!("vdpbf16ps, {gain:.1} times the rate of f32 multiply-adds"),
        Some(gain) => format!("f32 multiply-adds, vdpbf16ps being {gain:.1} times as fast"),
        None => "f32 multiply-adds".into(),
    };
    vec![
        ("bf16 products", bf16),
        (
            "matrix product",
            format!(
                "panels of {} outputs, tiles of {} rows, {} words of k, {} KiB of packed rows a task",
                gemm::NR,
                gemm::MR,
                gemm::K_BLOCK,
                gemm::LEFT_BYTES >> 10
            ),
        ),
        (
            "loss",
            format!(
                "{} rows at a time, or {} MiB of logits",
                cross_entropy::CHUNK_ROWS,
                cross_entropy::CHUNK_BYTES >> 20
            ),
        ),
        ("idle threads", format!("spin {} times, then sleep; {} elements keep one busy", pool::SPINS, split::ALONE)),
        ("huge pages", format!("asked for from {} MiB on; the system's rule: {}", HUGE_PAGE_BYTES >> 20, huge_pages())),
    ]
}

/// The system's rule for transparent huge pages: the word in brackets of `always [madvise] never`.
fn huge_pages() -> String {
    let path = "/sys/kernel/mm/transparent_hugepage/enabled";
    let text = formats::file::read_to_string(path.as_ref()).unwrap_or_default();
    let word = text.split_once('[').and_then(|(_, rest)| rest.split_once(']')).map(|(word, _)| word.to_owned());
    word.unwrap_or_else(|| "none".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_name_their_numbers() {
        let text = choices().iter().map(|(what, how)| format!("{what}: {how}\n")).collect::<String>();
        assert!(text.contains("panels of 64 outputs, tiles of 6 rows"), "{text}");
        assert!(text.contains("huge pages: asked for from 2 MiB on"), "{text}");
    }
}
