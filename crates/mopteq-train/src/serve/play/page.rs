//! The page itself: one file, which loads nothing.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::Rng;

use crate::serve::http::Response;

const HTML: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/style.css");
/// In the order in which they build on each other.
const SCRIPTS: [&str; 5] = [
    include_str!("page/ask.js"),
    include_str!("page/draw.js"),
    include_str!("page/charts.js"),
    include_str!("page/show.js"),
    include_str!("page/main.js"),
];

/// The page with a policy by which a browser runs its own script only, and loads nothing.
pub(crate) fn page() -> Response {
    let mut bytes = [0; 16];
    rand::rng().fill_bytes(&mut bytes);
    let nonce = STANDARD.encode(bytes);
    let script = SCRIPTS.concat();
    let html = HTML
        .replace("{nonce}", &nonce)
        .replace("{style}", STYLE)
        .replace("{script}", &script);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data: blob:; \
         connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Response::new(200, "text/html; charset=utf-8", html)
        .with("Content-Security-Policy", policy)
        .with("Referrer-Policy", "no-referrer")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_nothing_outside() {
        let page = page();
        let html = std::str::from_utf8(page.body()).unwrap();
        for word in [
            "http://",
            "https://",
            "//cdn",
            "@import",
            "<link rel=\"stylesheet",
            "<iframe",
            "src=\"",
        ] {
            // The SVG namespace is not an address that is loaded.
            let html = html.replace("http://www.w3.org/2000/svg", "");
            assert!(!html.contains(word), "{word}");
        }
        assert!(
            !html.contains("{nonce}") && !html.contains("{style}") && !html.contains("{script}")
        );
    }
}
