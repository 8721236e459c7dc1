//! `--new-tokens`: texts that become tokens, in a list or in a file.

use std::fmt;
use std::path::Path;
use std::str::FromStr;

use lorafit_model::weights::MOST_ADDED_ROWS;
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// More than so many tokens have.
const MOST_BYTES: u64 = 1 << 20;

/// The texts, in the order of their ids.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewTokens(pub Vec<String>);

impl NewTokens {
    fn of(texts: Vec<String>) -> Result<Self, String> {
        match texts.len() {
            0 => Err("no tokens are given; write them with commas between, or name a file with one a line"
                .to_owned()),
            n if n > MOST_ADDED_ROWS => Err(format!("{n} tokens, expected {MOST_ADDED_ROWS} at most")),
            _ => Ok(NewTokens(texts)),
        }
    }

    fn of_file(path: &Path) -> Result<Self, String> {
        let shown = path.display();
        let bytes = path.metadata().map_err(|e| format!("{shown}: {e}"))?.len();
        if bytes > MOST_BYTES {
            return Err(format!(
                "{shown} has {bytes} bytes, expected {MOST_BYTES} at most, one token a line"
            ));
        }
        let text = std::fs::read_to_string(path).map_err(|e| format!("{shown}: {e}"))?;
        NewTokens::of(text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect())
            .map_err(|e| format!("{shown}: {e}"))
    }
}

impl FromStr for NewTokens {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let path = Path::new(text);
        match (path.is_file(), text.ends_with(".txt")) {
            (true, _) => NewTokens::of_file(path),
            (false, true) => Err(format!("{text}: there is no such file")),
            (false, false) => {
                let texts = text.split(',').map(str::trim).filter(|text| !text.is_empty());
                NewTokens::of(texts.map(str::to_owned).collect())
            }
        }
    }
}

impl fmt::Display for NewTokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(","))
    }
}

/// The tokens themselves, so that a run does not depend on the file.
impl Serialize for NewTokens {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for NewTokens {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OfTokens;
        impl<'de> Visitor<'de> for OfTokens {
            type Value = NewTokens;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a list of tokens, or a text as on the command line")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<NewTokens, E> {
                text.parse().map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<NewTokens, A::Error> {
                let mut texts = Vec::new();
                while let Some(text) = list.next_element()? {
                    texts.push(text);
                }
                NewTokens::of(texts).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(OfTokens)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_read_from_lists_and_files_and_kept_as_themselves() {
        let read = |text: &str| text.parse::<NewTokens>().map(|tokens| tokens.0);
        assert_eq!(read("<a>, <b>,<c d>"), Ok(["<a>", "<b>", "<c d>"].map(str::to_owned).to_vec()));
        assert!(read(" , ").expect_err("none").contains("no tokens"));
        assert!(read("absent.txt").expect_err("no file").contains("absent.txt"));
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("tokens");
        std::fs::write(&path, "<a,b>\r\n\n two \n").expect("written");
        let tokens: NewTokens = path.to_string_lossy().parse().expect("read");
        assert_eq!(tokens.0, ["<a,b>", " two "]);
        let text = serde_json::to_string(&tokens).expect("JSON");
        assert_eq!(text, r#"["<a,b>"," two "]"#);
        assert_eq!(serde_json::from_str::<NewTokens>(&text).expect("read"), tokens);
    }
}
