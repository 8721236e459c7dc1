//! Adapters as flags name them: a folder, perhaps with a weight or a name.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::{Args, ValueEnum};
use lorafit_model::adapter::FactorDtype;
use serde::Serialize;

use crate::terminal::error::CliError;

/// `DIR` or `DIR:WEIGHT`.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterArg {
    /// The adapter's folder.
    pub dir: PathBuf,
    /// What its update is multiplied by.
    pub weight: f64,
}

impl FromStr for AdapterArg {
    type Err = CliError;

    /// A folder that has such a name goes first.
    fn from_str(text: &str) -> Result<Self, CliError> {
        let split = text.rsplit_once(':').filter(|_| !Path::new(text).exists());
        let Some((dir, number)) = split else { return Ok(AdapterArg { dir: text.into(), weight: 1.0 }) };
        let wrong = |rule: &str| {
            Err(CliError::usage(format!("--adapter {text}: the weight `{number}` {rule}"))
                .hint("write the weight as a number after the last colon, as in ADAPTER:0.5"))
        };
        match number.parse::<f64>() {
            // Factors are multiplied in f32.
            Ok(weight) if (weight as f32).is_normal() => Ok(AdapterArg { dir: dir.into(), weight }),
            Ok(_) => wrong("must be finite and not 0"),
            Err(_) if Path::new(dir).exists() => wrong("is not a number"),
            Err(_) => Ok(AdapterArg { dir: text.into(), weight: 1.0 }),
        }
    }
}

impl AdapterArg {
    /// Reads what flags name. One that is named twice is a mistake, or a weight.
    ///
    /// # Errors
    /// A weight that is none, and an adapter that is named twice.
    pub fn all(texts: &[String]) -> Result<Vec<Self>, CliError> {
        let mut adapters: Vec<AdapterArg> = Vec::with_capacity(texts.len());
        for text in texts {
            let adapter: AdapterArg = text.parse()?;
            let place = |dir: &Path| dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
            if let Some(earlier) = adapters.iter().find(|earlier| place(&earlier.dir) == place(&adapter.dir))
            {
                let (dir, sum) = (adapter.dir.display(), earlier.weight + adapter.weight);
                return Err(CliError::usage(format!("--adapter {text}: {dir} is given twice"))
                    .hint(format!("give it once; {dir}:{sum} is both together")));
            }
            adapters.push(adapter);
        }
        Ok(adapters)
    }
}

/// An adapter as `chat` and `serve` take it: `NAME=DIR`, or `DIR`, which is then named after the folder; either with a weight behind a
/// colon.
#[derive(Clone, Debug, PartialEq)]
pub struct NamedAdapter {
    /// What `/adapter NAME` of a chat calls it, and requests to a server.
    pub name: String,
    /// Its folder and weight.
    pub adapter: AdapterArg,
}

impl NamedAdapter {
    /// Refuses adapters of which two have one name.
    ///
    /// # Errors
    /// As it says.
    pub fn check_names(adapters: &[Self]) -> Result<(), CliError> {
        for (index, Self { name, adapter }) in adapters.iter().enumerate() {
            if adapters[..index].iter().any(|earlier| earlier.name == *name) {
                return Err(CliError::usage(format!("two adapters are called `{name}`"))
                    .hint(format!("name them: --adapter NAME={}", adapter.dir.display())));
            }
        }
        Ok(())
    }
}

impl FromStr for NamedAdapter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, adapter) = match text.split_once('=') {
            Some((name, adapter)) => (Some(name.to_owned()), adapter),
            None => (None, text),
        };
        if adapter.is_empty() {
            return Err(format!("`{text}` has no folder after the equals sign"));
        }
        let adapter: AdapterArg = adapter.parse().map_err(|error: CliError| {
            format!("{error}\nhint: a weight is a number behind a colon: DIR:0.5")
        })?;
        let name = match name {
            Some(name) => name,
            None => {
                let last = adapter.dir.file_name().ok_or("the folder has no name: use NAME=DIR")?;
                last.to_string_lossy().into_owned()
            }
        };
        // A folder that does not exist is reported when it is opened.
        let is_of_folder = text.split_once('=').is_none();
        if is_of_folder && !adapter.dir.exists() {
            return Ok(NamedAdapter { name, adapter });
        }
        if name.is_empty() || name == "none" || name.contains(char::is_whitespace) {
            return Err(format!("`{name}` cannot name an adapter: use NAME=DIR with a word other than none"));
        }
        Ok(NamedAdapter { name, adapter })
    }
}

/// How the factors of adapters are held in memory.
#[derive(Args, Clone, Copy, Debug)]
#[command(next_help_heading = "Base model")]
pub struct FactorArgs {
    /// Number type in which the factors of adapters are held in memory
    ///
    /// auto keeps bf16 and f16 where the file of an adapter has them, and is f32 otherwise: both give the same answers, and 16 bits
    /// take half the memory and less time. bf16 rounds the factors of every adapter. A sum of adapters, and one with a weight, is f32
    /// with auto. Adapters with magnitudes (DoRA), and factors of embedding and head, are f32 always. On a GPU this has no effect: it
    /// has a copy of the type that it computes with.
    #[arg(long, value_enum, value_name = "DTYPE", default_value_t = FactorChoice::Auto)]
    pub adapter_dtype: FactorChoice,
}

/// `--adapter-dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FactorChoice {
    /// As the adapter's file has them
    Auto,
    /// In 32 bits
    F32,
    /// Rounded to 16 bits
    Bf16,
}

impl From<FactorChoice> for FactorDtype {
    fn from(choice: FactorChoice) -> Self {
        match choice {
            FactorChoice::Auto => FactorDtype::AsStored,
            FactorChoice::F32 => FactorDtype::F32,
            FactorChoice::Bf16 => FactorDtype::Bf16,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn a_weight_is_behind_the_last_colon_and_a_folder_of_that_name_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let adapter = dir.path().join("a");
        fs::create_dir(&adapter).unwrap();
        let read = |text: &str| {
            let text = format!("{}{text}", adapter.display());
            text.parse::<AdapterArg>().map(|arg| (arg.dir, arg.weight)).map_err(|e| e.to_string())
        };
        assert_eq!(read(""), Ok((adapter.clone(), 1.0)));
        assert_eq!(read(":0.5"), Ok((adapter.clone(), 0.5)));
        assert_eq!(read(":-1e0"), Ok((adapter.clone(), -1.0)));
        assert!(read(":half").unwrap_err().contains("`half` is not a number"));
        for text in [":0", ":inf", ":NaN", ":1e39", ":1e-50"] {
            assert!(read(text).unwrap_err().contains("must be finite and not 0"), "{text}");
        }
        let named = dir.path().join("a:2");
        fs::create_dir(&named).unwrap();
        assert_eq!(read(":2"), Ok((named, 1.0)));
    }

    #[test]
    fn an_adapter_is_given_once_however_it_is_written() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a", "b"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let all = |names: &[&str]| {
            let texts: Vec<String> =
                names.iter().map(|name| dir.path().join(name).display().to_string()).collect();
            AdapterArg::all(&texts).map(|all| all.len()).map_err(|e| e.to_string())
        };
        assert_eq!(all(&["a:0.5", "b"]), Ok(2));
        assert!(all(&["a:0.5", "b", "b/../a:0.25"]).unwrap_err().contains("is given twice"));
        assert!(all(&["nowhere", "nowhere"]).unwrap_err().contains("is given twice"));
    }

    #[test]
    fn an_adapter_without_a_name_takes_the_folders() {
        let adapter: NamedAdapter = "runs/poet".parse().unwrap();
        assert_eq!((adapter.name.as_str(), adapter.adapter.dir.to_str()), ("poet", Some("runs/poet")));
        assert_eq!("p=runs/x".parse::<NamedAdapter>().unwrap().name, "p");
        let here = tempfile::tempdir().unwrap();
        let text = format!("p={}:0.7", here.path().display());
        let weighted: NamedAdapter = text.parse().unwrap();
        assert_eq!((weighted.adapter.dir.as_path(), weighted.adapter.weight), (here.path(), 0.7));
        assert!(format!("{text}x").parse::<NamedAdapter>().unwrap_err().contains("`0.7x` is not a number"));
        for text in ["none=x", "=x", "a=", ".."] {
            assert!(text.parse::<NamedAdapter>().is_err(), "{text}");
        }
    }
}
