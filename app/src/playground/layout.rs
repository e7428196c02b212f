//! Where each token stands. Lines are broken here and not by the browser, so that nothing jumps: the place of a
//! position follows from the newest text alone, whatever frame is shown, and an earlier occupant that is wider than
//! its place is drawn narrower.
//!
//! Widths come from a [`Measure`]; breaking is greedy, before a token that begins with a space (a token without one
//! continues the word before it), after a newline, and before and after masks.

use super::tape::{Frame, Mark};

/// Text of a token, split the way the canvas draws it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Piece<'a> {
    /// the token begins with a space
    pub space: bool,
    pub word: &'a str,
    /// line breaks at the end
    pub newlines: usize,
}

impl<'a> Piece<'a> {
    pub fn of(text: &'a str) -> Piece<'a> {
        let newlines = text.matches('\n').count();
        let trimmed = text.trim_end_matches(['\n', '\r']);
        let word = trimmed.trim_start_matches([' ', '\n']);
        Piece { space: trimmed.starts_with(' '), word, newlines }
    }
}

/// Width of text in the canvas font, CSS pixels.
pub trait Measure {
    fn width(&self, text: &str) -> f64;
    /// the font's size, CSS pixels
    fn em(&self) -> f64;
}

/// Place of one position: left edge, line number, width of its word.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Place {
    pub x: f64,
    pub line: usize,
    pub width: f64,
}

/// Width, in em, that a mask takes where the model has not yet been asked: the widths of common words, in turn.
const TYPICAL: [f64; 11] = [1.7, 2.6, 1.1, 2.1, 3.0, 1.4, 2.4, 0.9, 2.8, 1.9, 2.2];

/// Places for every position of `frame` in a column `width` pixels wide; the second value is the number of lines.
/// `text` gives the text of a token id. Positions in `starts` (ascending) begin a line as they did before, up to the
/// first line that has become too long: where words settle all over the text, lines are not refilled every time.
pub fn layout<'a>(
    frame: &Frame,
    text: impl Fn(u32) -> &'a str,
    measure: &impl Measure,
    width: f64,
    starts: &[usize],
) -> (Vec<Place>, usize) {
    let mut starts = starts.iter().copied().peekable();
    let mut keep = true;
    let em = measure.em();
    let space = measure.width(" ");
    let mut places = Vec::with_capacity(frame.cells.len());
    let (mut x, mut line) = (0.0, 0);
    // position where the current word began, to carry it over whole
    let mut word_start = 0;
    let mut after_mask = true;
    for (pos, cell) in frame.cells.iter().enumerate() {
        let (gap, body, breaks, newlines) = match cell.token {
            Some(_) if cell.mark == Mark::Filled => (0.0, 0.0, false, 0),
            Some(id) => {
                let piece = Piece::of(text(id));
                let gap = if piece.space && x > 0.0 { space } else { 0.0 };
                (gap, measure.width(piece.word), piece.space || after_mask, piece.newlines)
            }
            None => {
                let typical = TYPICAL[pos % TYPICAL.len()] * em;
                let guess = cell.room.map(|id| measure.width(Piece::of(text(id)).word));
                let gap = if x > 0.0 { space } else { 0.0 };
                (gap, guess.map_or(typical, |w| w.max(0.55 * em)), true, 0)
            }
        };
        if breaks {
            word_start = pos;
        }
        let mut left = x + gap;
        let kept = keep && starts.next_if_eq(&pos).is_some();
        if kept && breaks && x > 0.0 {
            line += 1;
            left = 0.0;
        } else if left + body > width && x > 0.0 {
            keep = false;
            line += 1;
            left = 0.0;
            let first = places.get(word_start).map_or(0.0, |p: &Place| p.x);
            if word_start < pos && first > 0.0 {
                for place in &mut places[word_start..] {
                    place.x -= first;
                    place.line = line;
                    left = place.x + place.width;
                }
            }
        }
        places.push(Place { x: left, line, width: body });
        x = left + body;
        after_mask = cell.token.is_none();
        if newlines > 0 {
            line += newlines.min(2);
            x = 0.0;
            after_mask = true;
        }
    }
    (places, line + 1)
}

/// Positions that begin a line.
pub fn line_starts(places: &[Place]) -> Vec<usize> {
    let begins = |i: &usize| *i > 0 && places[*i].line != places[*i - 1].line;
    (0..places.len()).filter(begins).collect()
}

#[cfg(test)]
mod tests {
    use hilda_engine::decode::DecodeConfig;

    use super::super::tape::Tape;
    use super::*;

    /// every character is 10 wide
    struct Ten;
    impl Measure for Ten {
        fn width(&self, text: &str) -> f64 {
            text.chars().count() as f64 * 10.0
        }
        fn em(&self) -> f64 {
            10.0
        }
    }
    const WORDS: [&str; 6] = ["once", " upon", " curi", "ous", ".\n", "\n"];

    /// positions given as `None` are masked
    fn places(ids: &[Option<u32>], width: f64) -> Vec<(f64, usize)> {
        let mut config = DecodeConfig::new(Vec::new(), ids.len() as u32, 100, 99);
        config.fixed = (0..).zip(ids).filter_map(|(pos, id)| Some((pos, (*id)?))).collect();
        let tape = Tape::new(&config);
        let (places, _) = layout(&tape.frames[0], |id| WORDS[id as usize], &Ten, width, &[]);
        places.iter().map(|p| (p.x, p.line)).collect()
    }

    #[test]
    fn a_word_of_two_tokens_moves_to_the_next_line_whole() {
        let got = places(&[Some(0), Some(1), Some(2), Some(3), Some(4)], 150.0);
        assert_eq!(got, [(0.0, 0), (50.0, 0), (0.0, 1), (40.0, 1), (70.0, 1)]);
    }

    #[test]
    fn a_newline_ends_the_line_and_no_place_leaves_the_column() {
        let got = places(&[Some(0), Some(4), Some(0), None, None, None, None], 60.0);
        assert_eq!(got[2], (0.0, 1));
        assert!(got.iter().all(|(x, _)| *x < 60.0));
    }

    #[test]
    fn kept_lines_are_refilled_only_when_one_is_too_long() {
        let words = |ids: &[u32], starts: &[usize]| {
            let config = DecodeConfig::new(ids.to_vec(), ids.len() as u32, 100, 99);
            let tape = Tape::new(&config);
            let (places, _) = layout(&tape.frames[0], |id| WORDS[id as usize], &Ten, 100.0, starts);
            line_starts(&places)
        };
        // " upon" is 40 wide and 10 apart: two fit in 100
        assert_eq!(words(&[1, 1, 1, 1], &[]), [2]);
        assert_eq!(words(&[1, 1, 1, 1], &[1]), [1, 3], "the first line stays short, the rest is filled");
        assert_eq!(words(&[1, 1, 1, 1], &[1, 2, 3]), [1, 2, 3]);
        assert_eq!(words(&[1, 1, 1, 1], &[3]), [2], "three do not fit: the old break is given up");
    }

    #[test]
    fn text_before_a_change_stays_where_it_is() {
        let a = places(&[Some(0), Some(1), None, None, None], 120.0);
        let b = places(&[Some(0), Some(1), Some(2), Some(3), None], 120.0);
        assert_eq!(a[..2], b[..2]);
    }
}
