//! Texts without the folders of this machine: an error that names a file keeps the file's name.

/// `text` with every path of `known` and every absolute path replaced by its last part. Known paths are found whatever
/// they hold; others begin with `/`, `~/`, `./`, `../`, a drive or a share, and end at white space or at a quote that
/// stands before them. Addresses of the web stay.
pub fn without_folders(text: &str, known: &[String]) -> String {
    let mut known: Vec<&str> =
        known.iter().map(|k| k.trim_end_matches(SEPARATORS)).filter(|k| k.len() > 1).collect();
    known.sort_by_key(|k| std::cmp::Reverse(k.len()));
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut before) = (text, None);
    while let Some(c) = rest.chars().next() {
        let length = match known.iter().find(|k| rest.starts_with(**k) && begins(before)) {
            Some(k) => k.len() + tail(&rest[k.len()..], quote(before)),
            None => path(rest, before),
        };
        if length > 0 {
            out.push_str(last(&rest[..length]));
            before = rest[..length].chars().next_back();
            rest = &rest[length..];
        } else if let Some(address) = address(rest).filter(|_| begins(before)) {
            out.push_str(&rest[..address]);
            before = rest[..address].chars().next_back();
            rest = &rest[address..];
        } else {
            out.push(c);
            before = Some(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

const SEPARATORS: [char; 2] = ['/', '\\'];

/// Whether a path may begin behind `before`.
fn begins(before: Option<char>) -> bool {
    before.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '/' | '\\' | '.' | '-' | '_' | '~' | '<'))
}

/// The quote that ends a path which stands behind `before`.
fn quote(before: Option<char>) -> Option<char> {
    before.filter(|c| matches!(c, '"' | '\'' | '`'))
}

/// Bytes of a web address.
fn address(text: &str) -> Option<usize> {
    let scheme =
        text.find("://").filter(|n| text[..*n].chars().all(|c| c.is_ascii_alphabetic()) && *n > 1)?;
    (&text[..scheme] != "file").then(|| text.find(char::is_whitespace).unwrap_or(text.len()))
}

/// Bytes of an absolute path at the start of `text`, 0 if there is none.
fn path(text: &str, before: Option<char>) -> usize {
    if !begins(before) {
        return 0;
    }
    let body = text.strip_prefix("file://").unwrap_or(text);
    let drive = |t: &str| {
        let mut c = t.chars();
        matches!((c.next(), c.next(), c.next()), (Some(a), Some(':'), Some('/' | '\\')) if a.is_ascii_alphabetic())
    };
    let rooted = ["/", "~/", "./", "../", "\\\\"].iter().any(|r| {
        let named = |t: &str| t.chars().next().is_some_and(|c| c.is_alphanumeric() || "._-~@".contains(c));
        body.strip_prefix(r).is_some_and(named)
    });
    if rooted || drive(body) { text.len() - body.len() + tail(body, quote(before)) } else { 0 }
}

/// Bytes of `text` up to the end of the path that it continues. A name with a space in it goes on where the next word
/// has a separator.
fn tail(text: &str, quote: Option<char>) -> usize {
    if let Some(end) = quote.and_then(|q| text.find(q)) {
        return end;
    }
    let word = |from: usize| text[from..].find(char::is_whitespace).map_or(text.len(), |n| from + n);
    let mut end = word(0);
    while text[end..].starts_with(' ') && !text[..end].ends_with([':', ',', ';', ')']) {
        let next = word(end + 1);
        if !text[end + 1..next].trim_start_matches(SEPARATORS).contains(SEPARATORS)
            || text[end + 1..].starts_with(SEPARATORS)
        {
            break;
        }
        end = next;
    }
    text[..end].trim_end_matches([':', ',', ';', ')', ']', '.', '\'', '"', '`']).len()
}

/// The last part of a path.
fn last(path: &str) -> &str {
    path.trim_end_matches(SEPARATORS).rsplit(SEPARATORS).next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn files_keep_their_names_and_nothing_else() {
        let known = ["/srv/my data/runs/r1".to_string(), "corpora/private/stories.txt".into()];
        for (text, want) in [
            ("reading /home/jane/stories.txt: No such file", "reading stories.txt: No such file"),
            (
                "cannot open \"/home/Jane Doe/my stories.txt\" (os error 2)",
                "cannot open \"my stories.txt\" (os error 2)",
            ),
            ("/home/Jane Doe/data/x.txt is empty", "x.txt is empty"),
            ("/srv/my data/runs/r1/ckpt/step-8/model.safetensors: short", "model.safetensors: short"),
            ("in /srv/my data/runs/r1", "in r1"),
            ("corpora/private/stories.txt has no document", "stories.txt has no document"),
            ("C:\\Users\\jane\\a.txt and \\\\host\\share\\b.txt", "a.txt and b.txt"),
            ("~/a/b, ../c/d; (./e/f)", "b, d; (f)"),
            ("file:///etc/hosts", "hosts"),
            (
                "1,200 tokens/s at step 3/4 of https://example.org/a/b",
                "1,200 tokens/s at step 3/4 of https://example.org/a/b",
            ),
            ("loss became NaN", "loss became NaN"),
            ("/tmp/x.txt 12 tokens / s", "x.txt 12 tokens / s"),
            ("cache (/var/cache/hilda/ab): full", "cache (ab): full"),
            ("path=/a/b/c", "path=c"),
            ("<|endoftext|></s>", "<|endoftext|></s>"),
            ("", ""),
        ] {
            assert_eq!(without_folders(text, &known), want);
        }
    }

    proptest! {
        #[test]
        fn folders_never_survive(
            parts in prop::collection::vec("[a-z]{1,6}", 1..5),
            before in "(reading |\"|'|\\(|error: |)",
            after in "(: no|, x|\"|'|| is gone)",
        ) {
            let path = format!("/secret/{}", parts.join("/"));
            let text = without_folders(&format!("{before}{path}{after}"), &[]);
            prop_assert!(!text.contains("secret") && !text.contains('/'), "{}", text);
            prop_assert!(text.contains(parts.last().unwrap()));
        }

        #[test]
        fn any_text_is_taken(text in any::<String>(), known in prop::collection::vec("[a/ é]{0,5}", 0..3)) {
            without_folders(&text, &known);
        }
    }
}
