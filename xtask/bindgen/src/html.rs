//! `public/index.html` is written for Trunk (hot reload); this turns it into the page that is served.
//!
//! Trunk marks what it handles with `data-trunk`. Here `<link data-trunk rel="rust" ...>` becomes a preload and the
//! external start script (a content security policy without `unsafe-inline` forbids Trunk's inline one),
//! `<link data-trunk rel="css" ...>` becomes a style sheet, `copy-file` and `copy-dir` vanish (all of `public/` is
//! copied anyway), anything else only loses the attribute. Addresses stay relative to `<base>`, so that a published folder
//! may live below a path.

/// Name of the start script in the asset graph.
pub const BOOT: &str = "hilda-boot.js";

/// The start script: loads the bindings, then the module that `boot.js` chose and already fetches.
pub fn boot_script(stem: &str) -> String {
    format!(
        "import init from './{stem}.js';\n\
         init({{ module_or_path: document.documentElement.dataset.module }});\n"
    )
}

/// Replaces the `data-trunk` links. `stem` is the module's name, as in `{stem}.js`.
pub fn from_trunk(html: &str, stem: &str) -> String {
    let mut out = String::with_capacity(html.len() + 256);
    let mut rest = html;
    while let Some(start) = rest.find("<link") {
        let Some(length) = rest[start..].find('>') else { break };
        let tag = &rest[start..start + length + 1];
        out.push_str(&rest[..start]);
        out.push_str(&link(tag, stem));
        rest = &rest[start + length + 1..];
    }
    out.push_str(rest);
    out
}

fn link(tag: &str, stem: &str) -> String {
    if !tag.contains("data-trunk") {
        return tag.to_owned();
    }
    let href = attribute(tag, "href").unwrap_or_default();
    match attribute(tag, "rel") {
        Some("rust") => format!(
            "<link rel=\"modulepreload\" href=\"{stem}.js\">\n    \
             <script type=\"module\" src=\"{BOOT}\"></script>"
        ),
        Some("css") => format!("<link rel=\"stylesheet\" href=\"{}\">", href.trim_start_matches("./")),
        Some("copy-file" | "copy-dir") => String::new(),
        _ => tag.replace(" data-trunk", ""),
    }
}

/// Value of a double-quoted attribute.
fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    let start = tag.find(&format!(" {name}=\""))? + name.len() + 3;
    let length = tag[start..].find('"')?;
    Some(&tag[start..start + length])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trunk_links_become_served_ones() {
        let html = "<head><link data-trunk rel=\"rust\" href=\"../app/Cargo.toml\" data-bin=\"x\"/>\
                    <link data-trunk rel=\"css\" href=\"style.css\"><link rel=\"icon\" href=\"/i.svg\">\
                    <link data-trunk rel=\"copy-dir\" href=\"models\"></head>";
        let out = from_trunk(html, "app");
        assert!(
            out.contains("src=\"hilda-boot.js\"") && out.contains("rel=\"modulepreload\" href=\"app.js\"")
        );
        assert!(out.contains(
            "<link rel=\"stylesheet\" href=\"style.css\"><link rel=\"icon\" href=\"/i.svg\"></head>"
        ));
        assert!(!out.contains("data-trunk") && !out.contains("Cargo.toml"));
    }
}
