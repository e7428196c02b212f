//! Problems with checkable answers, as training documents. Here: GSM8K (Cobbe et al. 2021, arXiv 2110.14168), JSON
//! lines with `question` and `answer`; the answer ends in `#### n`, and its arithmetic carries calculator marks
//! `<<48/2=24>>` in 98.7 % of the problems. Marks are kept or stripped everywhere, never in part.

use super::DataError;
use super::document::json_object;

/// One GSM8K problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub question: String,
    /// the worked solution without its last line
    pub solution: String,
    /// what follows `####`, white space removed
    pub answer: String,
}

/// Reads the problems of a JSON-lines text; `name` is what errors call it.
///
/// Errors: a line that is no object, lacks a field or has no `####` line, by line number from 1.
pub fn gsm8k(name: &str, text: &str) -> Result<Vec<Problem>, DataError> {
    let mut problems = Vec::new();
    for (i, line) in text.lines().enumerate().filter(|(_, l)| !l.trim().is_empty()) {
        let object = json_object(name, i + 1, line)?;
        let field = |field: &str| {
            let text = object.get(field).and_then(|v| v.as_str()).map(str::trim);
            text.ok_or_else(|| DataError::MissingField {
                name: name.into(),
                line: i + 1,
                field: field.into(),
            })
        };
        let (question, full) = (field("question")?, field("answer")?);
        let Some((solution, answer)) = full.rsplit_once("####") else {
            return Err(DataError::MissingField {
                name: name.into(),
                line: i + 1,
                field: "answer: ####".into(),
            });
        };
        problems.push(Problem {
            question: question.into(),
            solution: solution.trim_end().into(),
            answer: answer.trim().into(),
        });
    }
    Ok(problems)
}

impl Problem {
    /// `Question: q\nAnswer:`, what a model is asked (evaluation template "plain").
    pub fn prompt(&self) -> String {
        format!("Question: {}\nAnswer:", self.question)
    }

    /// Prompt, solution and `#### n`; `marks` keeps the calculator marks.
    pub fn document(&self, marks: bool) -> String {
        let solution = if marks { self.solution.clone() } else { strip_marks(&self.solution) };
        format!("{} {solution}\n#### {}", self.prompt(), self.answer)
    }
}

impl Problem {
    /// Does a written solution end in the answer? What follows its last `####` counts, to the end of the line, without white
    /// space, thousands' commas and a full stop; a text without that mark is wrong.
    pub fn solved_by(&self, text: &str) -> bool {
        let number = |s: &str| {
            let s: String = s.chars().filter(|c| !c.is_whitespace() && *c != ',').collect();
            s.trim_end_matches('.').to_string()
        };
        let told = text.rsplit_once("####").and_then(|(_, rest)| rest.trim_start().lines().next());
        told.is_some_and(|told| number(told) == number(&self.answer))
    }
}

/// Removes every `<<...>>` inside a line.
pub fn strip_marks(text: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(text.len()), text);
    while let Some(open) = rest.find("<<") {
        let Some(close) = rest[open..].find(">>").filter(|c| !rest[open..open + c].contains('\n')) else {
            break;
        };
        out.push_str(&rest[..open]);
        rest = &rest[open + close + 2..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::data::shared::shared;

    #[test]
    fn a_problem_becomes_a_document() {
        let line =
            r###"{"question": " How many? ", "answer": "48/2 = <<48/2=24>>24 clips.\nSo 24.\n#### 1,024"}"###;
        let problems = gsm8k("f", line).unwrap();
        assert_eq!(problems[0].answer, "1,024");
        let want = "Question: How many?\nAnswer: 48/2 = 24 clips.\nSo 24.\n#### 1,024";
        assert_eq!(problems[0].document(false), want);
        assert!(problems[0].document(true).contains("= <<48/2=24>>24"));
    }

    #[test]
    fn an_answer_is_what_follows_the_last_mark() {
        let line = r###"{"question": "q", "answer": "s\n#### 1,024"}"###;
        let problem = &gsm8k("f", line).unwrap()[0];
        for right in ["#### 1024", "a\n#### 3\n####1,024.\nmore", &problem.document(false)] {
            assert!(problem.solved_by(right), "{right}");
        }
        for wrong in ["1024", "", "#### 1024 apples", "#### 1024\n#### 7", "####"] {
            assert!(!problem.solved_by(wrong), "{wrong}");
        }
    }

    #[test]
    fn unclosed_marks_stay() {
        assert_eq!(strip_marks("a<<1>>b<<2\n>>c"), "ab<<2\n>>c");
        assert_eq!(strip_marks("é<<>><<x"), "é<<x");
    }

    #[test]
    fn errors_name_line_and_field() {
        let e = gsm8k("f", "\n{\"question\": \"q\"}").unwrap_err().to_string();
        assert_eq!(e, "f: line 2 has no text field \"answer\"");
        let e = gsm8k("f", "{\"question\": \"q\", \"answer\": \"4\"}").unwrap_err().to_string();
        assert!(e.contains("####"), "{e}");
    }

    #[test]
    fn the_whole_training_set_reads() {
        let Some(path) = shared("the_whole_training_set_reads", "data/gsm8k/train.jsonl") else {
            return;
        };
        let problems = gsm8k("train", &std::fs::read_to_string(path).unwrap()).unwrap();
        assert_eq!(problems.len(), 7473);
        let marked = problems.iter().filter(|p| p.solution.contains("<<")).count();
        assert_eq!((marked as f64 / 74.73).round(), 99.0);
        assert!(problems.iter().all(|p| !p.document(false).contains("<<") && !p.answer.is_empty()));
    }
}
