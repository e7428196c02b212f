//! Changing one field in the text of a recipe and leaving the rest, comments included, as its author wrote it.
//!
//! The edit is made in the text and then checked: the new text must parse to the old values with exactly this field
//! changed. Where the text is written in a way that the line editor does not know (a section as an inline table, a
//! key that spans lines), the whole recipe is written out anew instead, without its comments.

use toml::{Table, Value};

/// A step of a path: a key, or an index into `[[phase]]`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Key<'a> {
    Name(&'a str),
    Index(usize),
}

/// "phase[1].lr.peak" as a path.
pub fn path(field: &str) -> Vec<Key<'_>> {
    let mut out = Vec::new();
    for part in field.split('.') {
        match part.split_once('[') {
            Some((name, index)) => {
                out.push(Key::Name(name));
                if let Ok(i) = index.trim_end_matches(']').parse() {
                    out.push(Key::Index(i));
                }
            }
            None => out.push(Key::Name(part)),
        }
    }
    out
}

/// The value of a field, where the text parses and has it.
pub fn get(text: &str, field: &str) -> Option<Value> {
    let mut at = Value::Table(text.parse::<Table>().ok()?);
    for key in path(field) {
        at = match key {
            Key::Name(n) => at.as_table()?.get(n)?.clone(),
            Key::Index(i) => at.as_array()?.get(i)?.clone(),
        };
    }
    Some(at)
}

/// A value as people write it in a form.
pub fn plain(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

/// Sets (`Some`) or removes (`None`) a field. An error is the parser's message: the text must be valid before.
pub fn set(text: &str, field: &str, value: Option<Value>) -> Result<String, String> {
    let table: Table = text.parse().map_err(|e: toml::de::Error| e.message().to_string())?;
    let keys = path(field);
    let before = Value::Table(table);
    let mut wanted = before.clone();
    if change(&mut wanted, &keys, value.clone()).is_none() && value.is_some() {
        return Err(format!("there is no place for {field}"));
    }
    if value.is_none() && wanted == before {
        return Ok(text.into());
    }
    let wanted = wanted.as_table().cloned().unwrap_or_default();
    let edited = edit_lines(text, &keys, value.as_ref());
    if let Some(new) = edited
        && new.parse::<Table>().is_ok_and(|t| t == wanted)
    {
        return Ok(new);
    }
    toml::to_string_pretty(&wanted).map_err(|e| e.to_string())
}

fn change(at: &mut Value, keys: &[Key], value: Option<Value>) -> Option<()> {
    match keys {
        [Key::Name(n)] => {
            let t = at.as_table_mut()?;
            match value {
                Some(v) => drop(t.insert(n.to_string(), v)),
                None => drop(t.remove(*n)),
            }
            Some(())
        }
        [Key::Name(n), rest @ ..] => {
            let t = at.as_table_mut()?;
            if value.is_none() && !t.contains_key(*n) {
                return Some(());
            }
            change(t.entry(n.to_string()).or_insert_with(|| Value::Table(Table::new())), rest, value)
        }
        [Key::Index(i), rest @ ..] => change(at.as_array_mut()?.get_mut(*i)?, rest, value),
        [] => None,
    }
}

/// The first and one past the last line of the section that holds the field's key, and the key. `None`: not found.
fn section<'a>(lines: &[&str], keys: &[Key<'a>]) -> Option<(std::ops::Range<usize>, Vec<&'a str>)> {
    let header = |l: &str| l.trim_start().starts_with('[');
    let end = |from: usize| (from..lines.len()).find(|i| header(lines[*i])).unwrap_or(lines.len());
    let bare = |l: &str| l.split('#').next().unwrap_or("").trim().to_string();
    match keys {
        [Key::Name(k)] => Some((0..end(0), vec![k])),
        [Key::Name(list), Key::Index(i), rest @ ..] => {
            let open = format!("[[{list}]]");
            let start = lines.iter().enumerate().filter(|(_, l)| bare(l) == open).nth(*i)?.0 + 1;
            if let [Key::Name(sub), Key::Name(k)] = rest {
                // `[phase.lr]` after this phase and before the next
                let next = (start..lines.len()).find(|j| bare(lines[*j]) == open).unwrap_or(lines.len());
                let sub_open = format!("[{list}.{sub}]");
                if let Some(j) = (start..next).find(|j| bare(lines[*j]) == sub_open) {
                    return Some((j + 1..end(j + 1), vec![k]));
                }
            }
            let names = rest.iter().filter_map(|k| if let Key::Name(n) = k { Some(*n) } else { None });
            Some((start..end(start), names.collect()))
        }
        [Key::Name(table), rest @ ..] => {
            let open = format!("[{table}]");
            let start = lines.iter().position(|l| bare(l) == open)? + 1;
            let names = rest.iter().filter_map(|k| if let Key::Name(n) = k { Some(*n) } else { None });
            Some((start..end(start), names.collect()))
        }
        _ => None,
    }
}

fn edit_lines(text: &str, keys: &[Key], value: Option<&Value>) -> Option<String> {
    let mut lines: Vec<&str> = text.lines().collect();
    let Some((range, names)) = section(&lines, keys) else {
        // a table that is not there yet
        return match (keys, value) {
            ([Key::Name(t), Key::Name(k)], Some(v)) => {
                Some(format!("{}\n\n[{t}]\n{k} = {v}\n", text.trim_end()))
            }
            _ => None,
        };
    };
    let key = names.first()?;
    let at = range.clone().find(|i| key_of(lines[*i]).as_deref() == Some(*key));
    let new;
    match (at, value, names.as_slice()) {
        (Some(i), None, [_]) => drop(lines.remove(i)),
        (Some(i), Some(v), [_]) => {
            let (head, comment) = split_line(lines[i])?;
            new = format!("{head}= {v}{comment}");
            lines[i] = &new;
        }
        (Some(i), Some(v), [_, inner]) => {
            new = edit_inline(lines[i], inner, v)?;
            lines[i] = &new;
        }
        (None, Some(v), [k]) => {
            new = format!("{k} = {v}");
            // after the last line of the section that says something
            let last = range.clone().rev().find(|i| !lines[*i].trim().is_empty());
            lines.insert(last.map_or(range.start, |i| i + 1), &new);
        }
        (None, None, _) => {}
        _ => return None,
    }
    Some(lines.join("\n") + "\n")
}

/// The key that a line sets.
fn key_of(line: &str) -> Option<String> {
    let (k, _) = line.split_once('=')?;
    let k = k.trim();
    (!k.is_empty() && !k.starts_with('#')).then(|| k.trim_matches('"').to_string())
}

/// "key " and "  # comment" around the value of `key = value  # comment`.
fn split_line(line: &str) -> Option<(&str, &str)> {
    let eq = line.find('=')?;
    let rest = &line[eq + 1..];
    let mut quote = None;
    for (i, c) in rest.char_indices() {
        match (quote, c) {
            (None, '"' | '\'') => quote = Some(c),
            (Some(q), c) if c == q => quote = None,
            (None, '#') => {
                let value_end = rest[..i].trim_end().len();
                return Some((&line[..eq], &rest[value_end..]));
            }
            _ => {}
        }
    }
    Some((&line[..eq], &rest[rest.trim_end().len()..]))
}

/// Replaces `inner = ...` inside `key = { ..., inner = old, ... }`.
fn edit_inline(line: &str, inner: &str, value: &Value) -> Option<String> {
    let open = line.find('{')?;
    let mut from = open;
    loop {
        let at = from + line[from..].find(inner)?;
        let before = line[..at].trim_end().chars().next_back()?;
        let after = &line[at + inner.len()..];
        let eq = after.find('=');
        if matches!(before, '{' | ',') && eq.is_some_and(|e| after[..e].trim().is_empty()) {
            let value_start = at + inner.len() + eq? + 1;
            let value_end = value_start + line[value_start..].find([',', '}'])?;
            let gap = if line[value_start..value_end].ends_with(' ') { " " } else { "" };
            return Some(format!("{} {value}{gap}{}", &line[..value_start], &line[value_end..]));
        }
        from = at + inner.len();
    }
}

/// The 1-based line on which a field is written, for pointing at it.
pub fn line_of(text: &str, field: &str) -> Option<usize> {
    let lines: Vec<&str> = text.lines().collect();
    let keys = path(field);
    let (range, names) = section(&lines, &keys)?;
    let key = names.first()?;
    range.clone().find(|i| key_of(lines[*i]).as_deref() == Some(*key)).map(|i| i + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RECIPE: &str = r#"# what this shows
name = "demo" # shown in tables
seed = 1

[model]
size = "9m"

[data]
train = "a#b.txt" # a file
[batch]
rows = 8

[[phase]]
objective = "ar"
tokens = 1_000_000 # warm-up
lr = { peak = 1e-3, warmup = 10 } # steep

[[phase]]
objective = "block"
block_size = 8
tokens = 2000000
[phase.lr]
peak = 5e-4
"#;

    fn line(text: &str, n: usize) -> &str {
        text.lines().nth(n - 1).unwrap_or("")
    }

    #[test]
    fn fields_change_and_comments_stay() {
        let cases: [(&str, Value, usize, &str); 7] = [
            ("name", "other".into(), 2, "name = \"other\" # shown in tables"),
            ("seed", 7.into(), 3, "seed = 7"),
            ("model.size", "2m".into(), 6, "size = \"2m\""),
            ("data.train", "c".into(), 9, "train = \"c\" # a file"),
            ("phase[0].tokens", 5.into(), 15, "tokens = 5 # warm-up"),
            ("phase[0].lr.peak", 0.002.into(), 16, "lr = { peak = 0.002, warmup = 10 } # steep"),
            ("phase[1].lr.peak", 0.1.into(), 23, "peak = 0.1"),
        ];
        for (field, value, n, expected) in cases {
            let new = set(RECIPE, field, Some(value.clone())).unwrap();
            assert_eq!(line(&new, n), expected, "{field}");
            assert_eq!(get(&new, field), Some(value), "{field}");
            assert_eq!(new.lines().count(), RECIPE.lines().count(), "{field}");
            assert_eq!(line_of(&new, field), Some(n), "{field}");
        }
    }

    #[test]
    fn missing_fields_are_added_and_fields_removed() {
        let new = set(RECIPE, "data.corpus", Some("stories".into())).unwrap();
        let new = set(&new, "data.train", None).unwrap();
        assert_eq!(get(&new, "data.corpus"), Some("stories".into()));
        assert_eq!(get(&new, "data.train"), None);
        assert!(new.contains("# what this shows"));
        let new = set(RECIPE, "eval.every", Some(5.into())).unwrap();
        assert!(new.ends_with("[eval]\nevery = 5\n"), "{new}");
        assert_eq!(set(RECIPE, "sample.policy", None).unwrap(), RECIPE);
    }

    #[test]
    fn unusual_writing_falls_back_to_writing_all_anew() {
        let text = "name = \"x\" # lost\nmodel = { size = \"9m\" }\n";
        let new = set(text, "model.size", Some("2m".into())).unwrap();
        assert_eq!(get(&new, "model.size"), Some("2m".into()));
        assert_eq!(get(&new, "name"), Some("x".into()));
    }

    #[test]
    fn broken_text_is_an_error_not_a_loss() {
        assert!(set("name = ", "name", Some("x".into())).is_err());
        assert!(set(RECIPE, "phase[9].tokens", Some(1.into())).is_err());
        assert_eq!(get("name = ", "name"), None);
    }
}
