//! Text and recipes small enough to train in seconds.

use std::path::Path;

/// Short stories, no two alike: enough structure to learn from, and a loss that falls within forty steps.
pub fn stories(count: usize) -> String {
    let names = ["Tom", "Lily", "Ben", "Mia", "Sam", "Anna", "Max", "Sue"];
    let things = ["red ball", "small boat", "old book", "green hat", "warm cake", "long rope", "blue cup"];
    let places = ["park", "garden", "house", "forest", "lake"];
    let ends = ["was happy", "went home", "said thank you", "smiled", "slept well", "laughed"];
    let story = |i: usize| {
        let (name, friend) = (names[i % 8], names[(i / 8 + 1 + i % 7) % 8]);
        let (thing, place) = (things[(i / 3) % 7], places[(i / 5) % 5]);
        let end = ends[(i / 2) % 6];
        format!(
            "Once upon a time there was a child named {name}. One day {name} went to the {place} and found a {thing}. \
             {friend} came to the {place} too. \"Look at my {thing} number {i},\" said {name}. They played until the \
             sun went down. In the end {name} {end}."
        )
    };
    (0..count).map(story).collect::<Vec<_>>().join("\n<|endoftext|>\n")
}

/// Writes `train.txt` and `valid.txt` into `folder`.
pub fn write_stories(folder: &Path) {
    std::fs::write(folder.join("train.txt"), stories(400)).expect("train.txt");
    let all = stories(460);
    let (_, valid) =
        all.split_at(all.match_indices("<|endoftext|>").nth(399).map_or(0, |(at, mark)| at + mark.len()));
    std::fs::write(folder.join("valid.txt"), valid.trim_start()).expect("valid.txt");
}

/// Steps of [`recipe`].
pub const STEPS: u64 = 40;

/// A recipe that trains the tiny model for `steps` steps of 8 x 64 tokens. `data` is the inside of its `[data]` table.
pub fn recipe_of(name: &str, data: &str, steps: u64) -> String {
    format!(
        "name = \"{name}\"\nabout = \"A test of the machinery, not of a method.\"\nseed = 3\ndevice = \"cpu\"\n\
         [model]\nsize = \"tiny\"\ncontext = 64\n[data]\n{data}\nvocab = 320\n[data.packing]\nlength = 64\n\
         [batch]\nrows = 8\n[eval]\nevery = 20\nrows = 8\n[checkpoint]\nevery = 10\n[sample]\nlength = 16\n\
         [[phase]]\nobjective = \"mdlm\"\ntokens = {}\nlr = {{ peak = 3e-3, warmup = 5 }}\n",
        steps * 512
    )
}

/// The recipe over `train.txt` and `valid.txt` beside it.
pub fn recipe(name: &str) -> String {
    recipe_of(name, "train = \"train.txt\"\nvalid = \"valid.txt\"", STEPS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_story_comes_twice_and_validation_is_unseen() {
        let folder = tempfile::tempdir().unwrap();
        write_stories(folder.path());
        let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
        let (train, valid) = (read("train.txt"), read("valid.txt"));
        let split = |text: &str| text.split("<|endoftext|>").map(|s| s.trim().to_owned()).collect::<Vec<_>>();
        let (train, valid) = (split(&train), split(&valid));
        assert_eq!((train.len(), valid.len()), (400, 60));
        let all: std::collections::BTreeSet<_> = train.iter().chain(&valid).collect();
        assert_eq!(all.len(), 460);
    }
}
