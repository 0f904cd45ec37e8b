//! A llama2.c `tok*.bin`: pieces with scores, encoded as SentencePiece does.

use formats::llama2c::TokBin;

use crate::problem::Problem;
use crate::sentencepiece;
use crate::vocabulary::{Family, Piece, PieceKind, SPACE_MARK, Vocabulary, byte_of_piece};

/// Spellings of the first three ids; the file has line ends around them, for printing.
const SPECIALS: [(&str, PieceKind); 3] =
    [("<unk>", PieceKind::Unknown), ("<s>", PieceKind::Control), ("</s>", PieceKind::Control)];

/// Takes over the pieces; the format has plain spaces for `▁`, and ids 0 to 2 are unknown, begin and end by position.
pub(crate) fn read(file: TokBin) -> Result<Vocabulary, Problem> {
    let mut vocabulary = Vocabulary::new(Family::Spaced);
    for (id, piece) in file.pieces.into_iter().enumerate() {
        let piece_of = |(text, kind): (&str, PieceKind)| Piece { text: text.to_owned(), kind };
        let text = String::from_utf8(piece.bytes).map_err(|_| Problem::PieceNotUtf8 { id })?;
        let piece_as_text = match SPECIALS.get(id) {
            Some(&special) => piece_of(special),
            None => match byte_of_piece(&text) {
                Some(byte) => Piece { text, kind: PieceKind::Byte(byte) },
                None => Piece { text: text.replace(' ', SPACE_MARK.to_string().as_str()), kind: PieceKind::Normal },
            },
        };
        vocabulary.pieces.push(piece_as_text);
        vocabulary.scores.push(piece.score);
    }
    if vocabulary.pieces.len() < SPECIALS.len() {
        return Err(Problem::Empty);
    }
    (vocabulary.bos, vocabulary.eos) = (Some(1), Some(2));
    sentencepiece::finish(&mut vocabulary)?;
    Ok(vocabulary)
}
