//! The model that is planned for: a published shape, a configuration, or files.

use std::path::Path;

use anyhow::Context as _;
use lorafit_kernels::{Device, Placement};
use lorafit_model::adapter::{self, LoraConfig};
use lorafit_model::weights::ModelFiles;
use lorafit_model::{BaseQuantization, Config, ShapeSource, Source, SourceError, models_near};

use crate::args::options::shape_hint;
use crate::session::adapter_folder::adapter_folder;
use crate::terminal::error::CliError;
use crate::terminal::shell::shell_word;

/// A model to plan for.
pub struct Subject {
    /// Its shape.
    pub config: Config,
    /// Its files, if there are any.
    pub files: Option<ModelFiles>,
}

impl Subject {
    /// Opens what `--model` names.
    pub fn open(model: &str) -> anyhow::Result<Self> {
        if let Some(config) = Config::named(model) {
            return Ok(Subject { config, files: None });
        }
        let path = Path::new(model);
        if path.is_file() && path.extension().is_some_and(|e| e == "json") {
            return Subject::of_config(path);
        }
        let source = Source::resolve_shape(model, &mut |text| tell!("{text}"));
        let source = source.map_err(|error| match error {
            SourceError::NotFound { .. } => {
                let text = format!("{model}: no such file or folder, and no published shape");
                // A name of a shape has no folder and no ending.
                let is_path = path.components().count() > 1 || path.extension().is_some_and(|e| e == "gguf");
                let near = models_near(model).filter(|_| is_path);
                anyhow::Error::from(CliError::new(text).hint(near.unwrap_or_else(|| shape_hint(model))))
            }
            other => other.into(),
        });
        match source? {
            ShapeSource::Config(path) => Subject::of_config(&path),
            ShapeSource::Model(source) => {
                let files = ModelFiles::open_header(source.path())?;
                Ok(Subject { config: files.config().clone(), files: Some(files) })
            }
        }
    }

    /// Has the model score texts by so many labels.
    ///
    /// # Errors
    /// Files with a head of other labels.
    pub fn score(&mut self, labels: usize) -> anyhow::Result<()> {
        match &mut self.files {
            Some(files) => {
                files.score(labels, 0)?;
                self.config = files.config().clone();
            }
            None => self.config = self.config.scoring(labels),
        }
        Ok(())
    }

    /// The labels of the head that the files have, if they score texts.
    pub fn labels(&self) -> Option<usize> {
        self.config.labels
    }

    /// What the adapter in a folder or a run is made of, over this model.
    ///
    /// # Errors
    /// An adapter that cannot be read, or is of another model.
    pub fn adapter(&self, dir: &Path) -> anyhow::Result<LoraConfig> {
        let dir = adapter_folder(dir, true)?;
        let adapter = match &self.files {
            Some(files) => adapter::load_over(&dir, files, Device::Cpu)?,
            None => adapter::load(&dir, &self.config, Device::Cpu)?,
        };
        Ok(adapter.config().clone())
    }

    /// A shape alone.
    fn of_config(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {shown}"))?;
        let config = Config::from_hf_json(&text).with_context(|| format!("{shown} cannot be used"))?;
        Ok(Subject { config, files: None })
    }

    /// `--model` of a run, of a model whose weights there are; `named` is what the user calls it.
    pub fn model_flag(&self, named: &str) -> Option<String> {
        match &self.files {
            Some(_) => Some(shell_word(named)),
            // On the hub, if no file says so: its weights come with the first run.
            None if Config::named(named).is_none() && !Path::new(named).exists() => Some(shell_word(named)),
            None => None,
        }
    }

    /// Whether the files hold quantised weights, which are not quantised again.
    pub fn is_quantized(&self) -> bool {
        self.files.as_ref().is_some_and(ModelFiles::is_quantized)
    }

    /// Weights in memory: as the files have them or, of a shape alone, in 16 bits.
    pub fn weight_bytes(&self, base: Option<BaseQuantization>, placement: Placement) -> anyhow::Result<u64> {
        Ok(match &self.files {
            Some(files) => files.weight_bytes(base, placement)?,
            None => self.config.weight_bytes(2, base),
        })
    }
}
