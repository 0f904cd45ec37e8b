//! What target and draft are asked to continue: passages of text, and chats about them.

use super::Teacher;
use data::Sample;
use recipe::Distill;

/// Shortest passage, in tokens.
const SHORTEST: usize = 16;

/// The prompt that number `index` makes of a sample, in the target's ids, at most `longest` of them: each request of the
/// recipe in turn, about the beginning of the sample's longest document; then that beginning alone. Where a chat would be
/// too long or cannot be written, the beginning alone too.
pub(crate) fn prompt(
    teacher: &Teacher<'_>,
    distill: &Distill,
    sample: &Sample,
    index: u64,
    longest: usize,
) -> Vec<u32> {
    let passage = longest_document(sample.inputs(), &sample.first_key);
    // Passages of all lengths: the golden ratio's multiples are spread evenly.
    let share = (index as f64 * 0.618_033_988_749_895).fract();
    let most = (longest / 2).max(1);
    let length = SHORTEST + (share * most.saturating_sub(SHORTEST) as f64) as usize;
    let passage = &passage[..passage.len().min(length.min(most))];
    let turn = index % (distill.requests.len() as u64 + 1);
    let chat = distill.requests.get(turn as usize).and_then(|request| {
        let text = (teacher.decode)(passage);
        (teacher.chat)(&request.replace("{text}", text.trim())).filter(|ids| ids.len() <= longest)
    });
    chat.unwrap_or_else(|| passage.to_vec())
}

/// The longest stretch of tokens that belong to one document.
fn longest_document<'s>(tokens: &'s [u32], first_key: &[u32]) -> &'s [u32] {
    let documents = first_key.chunk_by(|a, b| a == b);
    let longest = documents.max_by_key(|document| document.len()).unwrap_or_default();
    let from = longest.first().map_or(0, |&first| first as usize);
    &tokens[from..from + longest.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_document_is_cut_out() {
        let tokens = [10, 11, 12, 13, 14, 15];
        assert_eq!(longest_document(&tokens, &[0, 0, 2, 2, 2, 5]), [12, 13, 14]);
        assert_eq!(longest_document(&tokens, &[0; 6]), tokens);
    }
}
