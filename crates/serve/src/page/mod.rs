//! The page at `/`: a conversation with two models of the server side by side, and the views that the server was given beside it.
//!
//! One file that asks for nothing but this server's API, at addresses relative to its own. What models write is put into it
//! as text only. It is sent with a header `Content-Security-Policy`: no script and no style runs but those of the file, which
//! carry a random number, and nothing is loaded from or sent to elsewhere.
//!
//! It reads `id` of `/v1/models`, and `parent`, the base that an adapter is put on: models that have one get a field for
//! their strength (`name:0.7`). A 401 or 403 makes it ask for an API key. What an answer was asked with is written out by
//! `/v1/tokenize` when somebody opens it.
//!
//! Scripts of views may use `by(id)`, `element(name, parent, text, class)`, `view(name, opened)`, whose function is called whenever
//! the view comes into sight, `ask(name, question)`, which gives the answer or throws an error with the server's words, `isShown(name)`,
//! and `put(parent, html)` for HTML of the view's own.

use std::fmt::Write as _;

use crate::views::Views;

const SHELL: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
const SCRIPTS: [&str; 3] = [include_str!("page.js"), include_str!("chat.js"), include_str!("prompt.js")];

/// The page of a server.
pub struct Page {
    /// All of it.
    pub html: String,
    /// The header `Content-Security-Policy` that it is sent with.
    pub policy: String,
}

impl Page {
    /// The page with the chat and `views`.
    pub fn new(views: &Views) -> Self {
        let nonce = nonce();
        let (mut links, mut parts, mut scripts) = (String::new(), String::new(), String::new());
        for view in &views.views {
            let (name, title, heading) = (view.name, escape(view.title), escape(&view.heading));
            let _ = writeln!(links, "<a href=\"#{name}\">{title}</a>");
            let _ = writeln!(
                parts,
                "<section class=\"view\" id=\"view-{name}\" aria-labelledby=\"heading\" data-heading=\"{heading}\" hidden>\n{}</section>",
                view.html
            );
        }
        if !links.is_empty() {
            links = format!(
                "<nav aria-label=\"Views\" id=\"links\">\n<a href=\"#chat\">Chat</a>\n{links}</nav>\n"
            );
        }
        let shared = Some(views.script).filter(|script| !script.is_empty());
        let of_views = shared.into_iter().chain(views.views.iter().map(|view| view.script));
        for script in SCRIPTS.into_iter().chain(of_views) {
            let _ = writeln!(scripts, "<script nonce=\"{nonce}\">\n{script}</script>");
        }
        let styles = [STYLE, &views.style].into_iter().chain(views.views.iter().map(|view| view.style));
        let html = SHELL
            .replace("{nonce}", &nonce)
            .replace("{style}", &styles.collect::<String>())
            .replace("{links}", &links)
            .replace("{views}", &parts)
            .replacen("{scripts}", &scripts, 1);
        let policy = format!(
            "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; img-src data:; connect-src 'self'; \
             base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
        Page { html, policy }
    }
}

/// Text as it stands in an element or in a quoted attribute.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
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
    use crate::views::View;

    #[test]
    fn the_page_is_whole_and_its_policy_is_of_its_own_script_and_style() {
        let Page { html, policy } = Page::new(&Views::default());
        for place in ["{nonce}", "{style}", "{links}", "{views}", "{scripts}"] {
            assert!(!html.contains(place), "{place}");
        }
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert!(nonce.len() == 32 && policy.matches(nonce).count() == 2);
        assert_eq!(html.matches(nonce).count(), 1 + SCRIPTS.len());
        assert!(html.contains(&format!("<script nonce=\"{nonce}\">\n\"use strict\";")));
        assert!(html.contains(&format!("<style nonce=\"{nonce}\">\n:root")));
        assert!(!html.contains("<nav"), "without views there is nothing to go to");
    }

    #[test]
    fn views_are_linked_to_and_their_scripts_run() {
        let view = |name, title| View {
            name,
            title,
            heading: "What \"it\" <shows>".to_owned(),
            html: "<p>of a view</p>\n".to_owned(),
            style: "p { color: blue; }\n",
            script: "\"use strict\"; // of a view\n",
            answer: Box::new(|_| Ok(serde_json::Value::Null)),
        };
        let views = Views {
            views: vec![view("one", "One"), view("two", "Two")],
            style: "svg { color: red; }\n".to_owned(),
            script: "// shared\n",
        };
        let Page { html, policy } = Page::new(&views);
        let nonce = policy.split("'nonce-").nth(1).unwrap().split('\'').next().unwrap();
        assert_eq!(html.matches(&format!("<script nonce=\"{nonce}\">")).count(), SCRIPTS.len() + 3);
        for part in [
            "<a href=\"#chat\">Chat</a>\n<a href=\"#one\">One</a>\n<a href=\"#two\">Two</a>",
            "<section class=\"view\" id=\"view-two\"",
            "data-heading=\"What &quot;it&quot; &lt;shows&gt;\" hidden>\n<p>of a view</p>",
            "svg { color: red; }\np { color: blue; }\n",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        let order = ["// shared", "// of a view"].map(|part| html.find(part).unwrap());
        assert!(order[0] < order[1] && views.named("two").is_some() && views.named("three").is_none());
    }

    #[test]
    fn the_page_loads_nothing_and_puts_in_no_html_of_models() {
        for part in [SHELL, STYLE].into_iter().chain(SCRIPTS) {
            for word in ["http:", "https:", "//cdn", "src=", "@import", "url(", " style=", "onclick"] {
                assert!(!part.contains(word), "{word}");
            }
        }
        for word in
            ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "Function(", "</"]
        {
            assert!(SCRIPTS.iter().all(|script| !script.contains(word)), "{word}");
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
