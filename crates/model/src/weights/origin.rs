//! Where a model comes from, as far as its files say: the model of the hub that it is, and its licence.

use super::ModelFiles;
use crate::files::{MAX_CONFIG_BYTES, inside, read_text};

/// Keys of GGUF metadata that name the model whose weights the file has, the surest first. The second is how older versions
/// of llama.cpp wrote the first.
const OF_MODEL: [&str; 6] = [
    "general.source.huggingface.repository",
    "general.source.hugginface.repository",
    "general.source.repo_url",
    "general.source.url",
    "general.repo_url",
    "general.url",
];
/// The model that a GGUF file's was made from: by quantising, or by training.
const PARENT: &str = "general.base_model.0.repo_url";

/// A licence as model cards have it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct License {
    /// `apache-2.0`, or `other`.
    pub id: String,
    /// What an `other` one is called.
    pub name: Option<String>,
    /// Where it stands.
    pub link: Option<String>,
}

impl ModelFiles {
    /// The model of the hub, `org/name`, whose weights a GGUF file has, if its metadata names one. A title is no name.
    ///
    /// `general.base_model` is often the model that this one was trained from, whose weights are others: it counts only where
    /// it has the file's own name (a model that was republished).
    pub fn hub_model(&self) -> Option<String> {
        let gguf = self.gguf()?;
        let own = || OF_MODEL.into_iter().find_map(|key| hub_model(gguf.text(key)?));
        own().or_else(|| {
            let parent = self.hub_parent()?;
            let name = parent.split_once('/')?.1;
            (plain(name) == plain(gguf.text("general.name")?)).then_some(parent)
        })
    }

    /// The model of the hub that a GGUF file's metadata says its model was made from, by whatever way.
    pub fn hub_parent(&self) -> Option<String> {
        hub_model(self.gguf()?.text(PARENT)?)
    }

    /// The licence that the metadata of a GGUF file, or the model card beside a folder's weights, states.
    pub fn license(&self) -> Option<License> {
        match self.gguf() {
            Some(gguf) => {
                let text = |key: &str| gguf.text(key).map(str::to_owned).filter(|text| is_plain(text));
                Some(License {
                    id: text("general.license")?,
                    name: text("general.license.name"),
                    link: text("general.license.link"),
                })
            }
            None => {
                let path = inside(self.path(), "README.md").ok()?;
                license_of_card(&read_text(&path, MAX_CONFIG_BYTES).ok()?)
            }
        }
    }
}

/// `org/name` of an address of the hub, or of such a name by itself.
fn hub_model(text: &str) -> Option<String> {
    const HUB: [&str; 2] = ["huggingface.co/", "hf.co/"];
    let text = text.trim();
    let without_scheme = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let path = match without_scheme {
        Some(rest) => HUB.into_iter().find_map(|hub| rest.strip_prefix(hub))?,
        None => text,
    };
    let mut parts = path.split(['/', '?', '#']);
    let (org, name) = (parts.next()?, parts.next()?);
    let is_part = |part: &str| {
        let known = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        !part.is_empty() && !part.starts_with('.') && part.len() <= 96 && part.chars().all(known)
    };
    // A name by itself has two parts. Repositories of GGUF files have no weights that transformers loads.
    let whole = without_scheme.is_some() || parts.next().is_none();
    let loadable = !["datasets", "spaces"].contains(&org) && !name.to_lowercase().ends_with("gguf");
    (is_part(org) && is_part(name) && whole && loadable).then(|| format!("{org}/{name}"))
}

/// Letters and digits only, in lower case.
fn plain(name: &str) -> String {
    name.chars().filter(char::is_ascii_alphanumeric).map(|c| c.to_ascii_lowercase()).collect()
}

/// The licence in the front matter of a model card.
fn license_of_card(card: &str) -> Option<License> {
    let mut lines = card.lines();
    if lines.next()?.trim_start_matches('\u{feff}').trim() != "---" {
        return None;
    }
    let head: Vec<&str> = lines.take_while(|line| line.trim() != "---").collect();
    let value = |key: &str| {
        let value = head.iter().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
        let value = value.trim().trim_matches(['"', '\'']);
        is_plain(value).then(|| value.to_owned())
    };
    Some(License { id: value("license")?, name: value("license_name"), link: value("license_link") })
}

/// Whether a text is one that can stand in a card as it is.
fn is_plain(text: &str) -> bool {
    let unknown = |c: char| !(c.is_ascii_alphanumeric() || " ._-+/:()@".contains(c));
    !text.is_empty() && text.len() <= 256 && !text.contains(unknown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_of_the_hub_is_read_off_addresses_and_names() {
        for (text, expected) in [
            ("https://huggingface.co/Qwen/Qwen3-0.6B", Some("Qwen/Qwen3-0.6B")),
            ("https://huggingface.co/Qwen/Qwen3-0.6B/tree/main", Some("Qwen/Qwen3-0.6B")),
            ("http://hf.co/a/b?x=1", Some("a/b")),
            ("HuggingFaceTB/SmolLM2-135M", Some("HuggingFaceTB/SmolLM2-135M")),
            ("https://huggingface.co/unsloth", None),
            ("https://huggingface.co/datasets/a", None),
            ("https://huggingface.co/bartowski/Qwen3-0.6B-GGUF", None),
            ("https://github.com/a/b", None),
            ("Smollm2 135M 8k", None),
            ("a/b/c", None),
            ("../b", None),
            ("", None),
        ] {
            assert_eq!(hub_model(text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn a_card_tells_its_licence() {
        let card = "---\nlicense: \"other\"\nlicense_name: llama3.1\nlicense_link: LICENSE\ntags:\n- a\n---\n# license: mit\n";
        let of = |id: &str, name: Option<&str>, link: Option<&str>| License {
            id: id.to_owned(),
            name: name.map(str::to_owned),
            link: link.map(str::to_owned),
        };
        assert_eq!(license_of_card(card), Some(of("other", Some("llama3.1"), Some("LICENSE"))));
        assert_eq!(license_of_card("---\nlicense: apache-2.0\n---"), Some(of("apache-2.0", None, None)));
        for none in [
            "",
            "license: mit",
            "---\nlicense:\n- a\n---",
            "---\nlicense: [a]\n---",
            "---\ntags: b\n---\nlicense: mit",
        ] {
            assert_eq!(license_of_card(none), None, "{none}");
        }
    }
}
