use super::*;

const RECIPE: &str = r#"
name = "t"
[data]
train = "a.txt"
[batch]
rows = 4
[[phase]]
objective = "ar"
tokens = 4096
lr = { peak = 1e-3, warmup = 10 }
[[phase]]
objective = "block"
block_size = [8, 0]
shift = true
tokens = 4096
lr = { peak = 5e-4 }
edit = { rate = 0.2 }
"#;

#[test]
fn reads_defaults_and_round_trips() {
    let c = RunConfig::from_toml(RECIPE).unwrap();
    assert_eq!(c.phase_steps(), [4, 4]);
    assert_eq!(RunConfig::from_toml(&c.to_toml()).unwrap(), c);
    assert_eq!(RunConfig::from_toml(&c.to_toml()).unwrap().hash(), c.hash());
    let here =
        RunConfig { data: DataSpec { train: Some("/home/me/a.txt".into()), ..c.data.clone() }, ..c.clone() };
    let there = RunConfig { data: DataSpec { train: Some("b/a.txt".into()), ..c.data.clone() }, ..c };
    assert_eq!(here.published().data.train.as_deref(), Some("a.txt"));
    assert_eq!(here.hash(), there.hash());
}

#[test]
fn errors_name_the_field() {
    let cases = [
        ("rows = 4", "rowz = 4", "rowz"),
        ("tokens = 4096\nlr = { peak = 1e-3", "tokens = 5\nlr = { peak = 1e-3", "phase[0].tokens"),
        ("[8, 0]", "[7]", "phase[1].block_size"),
        ("peak = 5e-4", "peak = -1", "phase[1].lr.peak"),
        ("name = \"t\"", "name = \"../t\"", "name"),
        ("[data]", "[model]\nsize = \"huge\"\n[data]", "model.size"),
        ("[data]", "[model]\nheads = 7\n[data]", "model.heads"),
        ("[data]", "[model]\ncontext = 100000\n[data]", "model.context"),
        ("rate = 0.2", "rate = 2.0", "phase[1].edit"),
        ("shift = true", "shift = true\nanneal = 5", "phase[1].anneal"),
        ("objective = \"ar\"", "objective = \"ar\"\nschedule = \"cosine\"", "phase[0].schedule"),
        ("shift = true", "shift = true\nschedule = \"sine\"", "sine"),
        ("shift = true", "shift = true\nconfidence = 2.0", "phase[1].confidence"),
        ("shift = true", "shift = true\nrandom_length = 2.0", "phase[1].random_length"),
        ("objective = \"ar\"", "objective = \"ar\"\nrate_per = \"block\"", "phase[0].schedule"),
        ("shift = true", "shift = true\ncomplementary = true", "phase[1].complementary"),
        ("train = \"a.txt\"", "train = \"a.txt\"\nanswer_after = \"\"", "data.answer_after"),
        ("edit = { rate = 0.2 }", "hybrid = { p_uniform = 0.0 }", "phase[1].hybrid.p_uniform"),
        ("edit = { rate = 0.2 }", "hybrid = { p_uniform = 1.0 }", "[sample] length = 0"),
        ("shift = true", "shift = true\nhybrid = { p_uniform = 0.1 }", "phase[1].edit"),
        ("edit = { rate = 0.2 }", "hybrid = { p_uniform = 0.1 }\nt = [0.3, 0.8]", "phase[1].t"),
        ("objective = \"ar\"", "objective = \"ar\"\nhybrid = { p_uniform = 0.1 }", "phase[0].hybrid"),
        ("train = \"a.txt\"", "train = \"a.txt\"\npacking = { documents = false }", "restart_positions"),
    ];
    for (from, to, field) in cases {
        let e = RunConfig::from_toml(&RECIPE.replacen(from, to, 1)).unwrap_err().to_string();
        assert!(e.contains(field), "{to}: {e}");
    }
}

#[test]
fn diff_lists_changed_leaves_only() {
    let a = RunConfig::from_toml(RECIPE).unwrap();
    let b = RunConfig::from_toml(&RECIPE.replace("5e-4", "6e-4")).unwrap();
    assert_eq!(a.diff(&b), [("phase[1].lr.peak".into(), "0.0005".into(), "0.0006".into())]);
    assert_ne!(a.hash(), b.hash());
}
