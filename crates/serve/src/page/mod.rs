//! The page at `/`: a conversation with two models of the server side by side.
//!
//! One file that asks for nothing but this server's API, at addresses relative to its own. What models write is put into it
//! as text only. Send it with the header `Content-Security-Policy` that [`policy`] gives: no script and no style runs but
//! those of the file, which carry a random number, and nothing is loaded from or sent to elsewhere.
//!
//! It reads `id` of `/v1/models`, and `parent`, the base that an adapter is put on: models that have one get a field for
//! their strength (`name:0.7`). A 401 or 403 makes it ask for an API key.

use std::fmt::Write as _;
use std::sync::LazyLock;

const SHELL: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");

struct Page {
    html: String,
    policy: String,
}

static PAGE: LazyLock<Page> = LazyLock::new(|| {
    let nonce = nonce();
    let html = SHELL.replace("{style}", STYLE).replace("{nonce}", &nonce).replacen("{script}", SCRIPT, 1);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    Page { html, policy }
});

/// The whole page.
pub fn html() -> &'static str {
    &PAGE.html
}

/// The header `Content-Security-Policy` that the page is sent with.
pub fn policy() -> &'static str {
    &PAGE.policy
}

/// A number that only this process knows. Without random numbers of the system the page has no script that runs.
fn nonce() -> String {
    let mut bytes = [0; 16];
    if getrandom::fill(&mut bytes).is_err() {
        return String::new();
    }
    bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_whole_and_its_policy_is_of_its_own_script_and_style() {
        let html = html();
        assert!(!html.contains("{nonce}") && !html.contains("{style}") && !html.contains("{script}"));
        let nonce = policy().split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert!(nonce.len() == 32 && policy().matches(nonce).count() == 2);
        assert_eq!(html.matches(nonce).count(), 2);
        assert!(html.contains(&format!("<script nonce=\"{nonce}\">\n\"use strict\";")));
        assert!(html.contains(&format!("<style nonce=\"{nonce}\">\n:root")));
    }

    #[test]
    fn the_page_loads_nothing_and_puts_in_no_html() {
        for part in [SHELL, STYLE, SCRIPT] {
            for word in ["http:", "https:", "//cdn", "src=", "@import", "url(", " style=", "onclick"] {
                assert!(!part.contains(word), "{word}");
            }
        }
        for word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "</"]
        {
            assert!(!SCRIPT.contains(word), "{word}");
        }
        assert!(!STYLE.contains("</"));
    }

    #[test]
    fn every_field_has_a_label_and_every_id_is_once() {
        let ids: Vec<&str> =
            SHELL.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        for id in &ids {
            assert_eq!(ids.iter().filter(|other| other == &id).count(), 1, "{id}");
        }
        for kind in ["<input", "<select", "<textarea"] {
            for (before, field) in SHELL.split(kind).zip(SHELL.split(kind).skip(1)) {
                let id = field.split("id=\"").nth(1).unwrap().split('"').next().unwrap();
                let is_inside = before.rfind("<label") > before.rfind("</label");
                assert!(is_inside || SHELL.contains(&format!("<label for=\"{id}\">")), "{id}");
            }
        }
    }
}
