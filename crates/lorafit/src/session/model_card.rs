//! The text of a model card: what a run has trained, from what, how, how good it is, and how readers load it. Equal runs have equal
//! cards; of paths of this machine there is none but the base's, which `adapter_config.json` has, too.

use std::collections::BTreeSet;
use std::path::Path;

use lorafit_data::Dataset;
use lorafit_model::adapter::LoraConfig;
use lorafit_model::is_hub_id;
use lorafit_model::weights::License;
use lorafit_remedy::amounts::{counted, grouped};
use lorafit_train::{CARD_MARK, EvaluationRecord, LEAST_WARMED_UP, WARMUP_RATIO};

use crate::args::options::{Init, value_name};
use crate::args::projections::patterns_in_words;
use crate::args::train::TrainArgs;
use crate::session::readers;
use crate::session::rows::{read_in_words, shapes};
use crate::session::run::Data;
use crate::session::scoring::Scoring;
use crate::session::verdict::beside_loss;

/// What a card is about.
pub struct Card<'a> {
    /// The flags of the run.
    pub args: &'a TrainArgs,
    /// What the adapter calls its base.
    pub base_name: &'a str,
    /// That of the base, if its files say.
    pub license: Option<License>,
    /// The adapter's shape; `None` of full fine-tuning.
    pub lora: Option<&'a LoraConfig>,
    /// What its head gives of a text, where it scores texts.
    pub scoring: Option<&'a Scoring>,
    /// The rows.
    pub data: &'a Data,
    /// Optimizer steps done, and of the whole run.
    pub steps: (u64, u64),
}

impl Card<'_> {
    /// The text, with `evaluation` of what is in the folder.
    pub fn text(&self, evaluation: Option<&EvaluationRecord>) -> String {
        let title = one_line(self.args.name.as_deref().unwrap_or("adapter"));
        let base = match (self.args.init, self.hub_name()) {
            (Init::Random, _) => "random weights".to_owned(),
            (_, Some(name)) => format!("[{name}](https://huggingface.co/{name})"),
            (_, None) => format!("`{}`", one_line(self.base_name).replace('`', " ")),
        };
        let what = match self.lora {
            Some(_) => format!("A LoRA adapter for {base}"),
            None => format!("A model trained from {base}"),
        };
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!(
            "{}\n{CARD_MARK}\n\n# {title}\n\n{what}, trained with lorafit {version}.\n\n| | |\n|---|---|\n",
            self.front_matter()
        );
        for (name, value) in self.rows(evaluation) {
            text += &format!("| {name} | {} |\n", one_line(&value).replace('|', "\\|"));
        }
        text + "\n" + &self.use_it(&title)
    }

    /// The base on the hub, without a revision.
    fn hub_name(&self) -> Option<&str> {
        let name = self.base_name.split_once('@').map_or(self.base_name, |(name, _)| name);
        (self.args.init != Init::Random && is_hub_id(self.base_name)).then_some(name)
    }

    /// What the hub reads.
    fn front_matter(&self) -> String {
        let mut lines = vec!["---".to_owned()];
        lines.extend(self.hub_name().map(|name| format!("base_model: {name}")));
        let (library, relation) = match self.lora {
            Some(_) => ("peft", "adapter"),
            None => ("transformers", "finetune"),
        };
        lines.push(format!("library_name: {library}"));
        let is_scored = self.args.preference.is_scored();
        lines.push(format!("pipeline_tag: text-{}", if is_scored { "classification" } else { "generation" }));
        if let Some(License { id, name, link }) = &self.license {
            lines.push(format!("license: {id}"));
            lines.extend(name.as_ref().map(|name| format!("license_name: \"{name}\"")));
            lines.extend(link.as_ref().map(|link| format!("license_link: \"{link}\"")));
        }
        let sets: Vec<&str> = self.args.data.iter().filter_map(|text| hub_data_set(text)).collect();
        if !sets.is_empty() {
            lines.push("datasets:".to_owned());
            lines.extend(sets.into_iter().map(|name| format!("- {name}")));
        }
        lines.push("tags:".to_owned());
        lines.extend(self.lora.map(|_| "- lora".to_owned()));
        lines.push("- lorafit".to_owned());
        lines.extend(self.hub_name().map(|name| format!("- base_model:{relation}:{name}")));
        lines.push("---".to_owned());
        lines.join("\n")
    }

    /// The table: data, settings, how good it is.
    fn rows(&self, evaluation: Option<&EvaluationRecord>) -> Vec<(&'static str, String)> {
        let args = self.args;
        let mut rows = vec![("training data", figures(&args.data, &self.data.rows))];
        if let Some(held_out) = &self.data.held_out {
            let names = if args.eval_data.is_empty() { &args.data } else { &args.eval_data };
            rows.push(("held-out data", figures(names, held_out)));
        }
        let (done, all) = self.steps;
        let batch = args.batch_size * args.gradient_accumulation;
        let of_all = if done == all { String::new() } else { format!(" of {}", grouped(all)) };
        rows.push(("steps", format!("{}{of_all}, each of {}", grouped(done), counted(batch, "row", "rows"))));
        match self.lora {
            Some(lora) => {
                let rslora = if lora.use_rslora { " (rsLoRA)" } else { "" };
                let dora = if lora.use_dora { " with magnitudes (DoRA)" } else { "" };
                let saved = match lora.save_modules.is_empty() {
                    true => String::new(),
                    false => format!("; whole: {}", lora.save_modules.join(", ")),
                };
                let tokens: BTreeSet<u32> = lora.tokens.ids().collect();
                let saved = match tokens.len() {
                    0 => saved,
                    n => format!("{saved}; rows of {}", counted(n, "token", "tokens")),
                };
                let modules = args.adapter.is_none().then(|| format!(" on {}", args.target_modules));
                let modules = modules.unwrap_or_default();
                let layers = args.layers.as_ref().map(|layers| format!(", layers {layers}"));
                let (rank, alpha, dropout) = (lora.rank, lora.alpha, lora.dropout);
                let of_some = patterns_in_words(&args.projections.rank_pattern);
                let strength = patterns_in_words(&args.alpha_pattern);
                let excluded = args.projections.exclude_modules.as_ref();
                let excluded = excluded.map_or(String::new(), |modules| format!(" without {modules}"));
                rows.push((
                    "adapter",
                    format!(
                        "rank {rank}{of_some}, alpha {alpha}{strength}{rslora}{dora}, dropout {dropout}{modules}{excluded}{}{saved}",
                        layers.unwrap_or_default()
                    ),
                ));
                if let Some(quant) = args.base.flags() {
                    rows.push(("base while training", format!("`{quant}`")));
                }
            }
            None => {
                let modules = args.train_modules.as_ref().map_or("all".to_owned(), ToString::to_string);
                let layers = args.layers.as_ref().map(|layers| format!(", layers {layers}"));
                rows.push(("trained weights", modules + &layers.unwrap_or_default()));
            }
        }
        let rate = args.rate().unwrap_or_default();
        let (scheduler, optimizer) = (value_name(&args.scheduler), value_name(&args.optimizer));
        let warmup = 100.0 * args.warmup_ratio.unwrap_or(WARMUP_RATIO);
        let few = match args.warmup_ratio {
            Some(_) => String::new(),
            None => format!(" (of fewer than {LEAST_WARMED_UP} steps none)"),
        };
        rows.push(("learning rate", format!("{rate}, {scheduler}, {warmup} % of the steps to warm up{few}")));
        let (decay, norm) = (args.weight_decay, args.max_grad_norm);
        let clipped = if norm > 0.0 { format!("clipped to norm {norm}") } else { "not clipped".to_owned() };
        rows.push((
            "optimizer",
            format!("{optimizer}, weight decay {decay}, gradients {clipped}, seed {}", args.seed),
        ));
        if let Some(template) = &args.template.template {
            let name =
                Path::new(template).file_name().map_or(template.clone(), |n| n.to_string_lossy().into());
            rows.push(("chat template", name));
        }
        if let Some(evaluation) = evaluation {
            let (loss, step) = (evaluation.loss, grouped(evaluation.step));
            let beside = beside_loss(evaluation).map(|found| format!(" ({found})")).unwrap_or_default();
            rows.push(("loss on held-out rows", format!("{loss:.4}{beside} after step {step}")));
        }
        let license = match &self.license {
            Some(License { id, name, .. }) => format!("that of the base: {}", name.as_ref().unwrap_or(id)),
            None => "that of the base, whose files do not state it".to_owned(),
        };
        if self.args.init != Init::Random {
            rows.push(("licence", license));
        }
        rows
    }

    /// How a model that scores texts is loaded.
    fn use_scores(&self, scoring: &Scoring) -> String {
        const CLASS: &str = "AutoModelForSequenceClassification";
        let (labels, base) = (scoring.labels(), self.hub_name().unwrap_or("BASE"));
        let (import, load) = match self.lora {
            Some(_) => (
                "from peft import PeftModel\n",
                format!(
                    "model = {CLASS}.from_pretrained(\"{base}\", num_labels={labels})\n\
                     model = PeftModel.from_pretrained(model, \"DIR\")\n"
                ),
            ),
            None => ("", format!("model = {CLASS}.from_pretrained(\"DIR\")\n")),
        };
        let gives = match scoring {
            Scoring::Reward => {
                "chat = [{\"role\": \"user\", \"content\": \"A question\"}, {\"role\": \"assistant\", \"content\": \"An answer\"}]\n\
                 inputs = tokenizer.apply_chat_template(chat, return_tensors=\"pt\", return_dict=True)\n\
                 print(model(**inputs).logits[0, 0].item())"
                    .to_owned()
            }
            Scoring::Classes(labels) => format!(
                "labels = {}\n\
                 logits = model(**tokenizer(\"Some text\", return_tensors=\"pt\")).logits[0]\n\
                 print(labels[logits.argmax()], logits.softmax(-1).max().item())",
                serde_json::json!(labels)
            ),
        };
        let (what, told) = match scoring {
            Scoring::Reward => ("a reward, higher for better replies", "reward"),
            Scoring::Classes(_) => ("a number for each label", "label and probability"),
        };
        let adapter = if self.lora.is_some() { "--model BASE --adapter DIR" } else { "--model DIR" };
        format!(
            "Its head gives {what}. `DIR` is this folder, or its name on the hub.\n\n```python\n{import}from transformers import {CLASS}, \
             AutoTokenizer\n\n{load}tokenizer = AutoTokenizer.from_pretrained(\"DIR\")\n\
             model.config.pad_token_id = tokenizer.pad_token_id or tokenizer.eos_token_id\n{gives}\n```\n\n\
             `lorafit generate {adapter} --prompt TEXT --json` prints {told}, too.\n"
        )
    }

    /// How it is loaded.
    fn use_it(&self, title: &str) -> String {
        if let Some(scoring) = self.scoring {
            return self.use_scores(scoring);
        }
        let class = if self.lora.is_some() { "AutoPeftModelForCausalLM" } else { "AutoModelForCausalLM" };
        let import = match self.lora {
            Some(_) => format!("from peft import {class}\nfrom transformers import AutoTokenizer"),
            None => format!("from transformers import {class}, AutoTokenizer"),
        };
        let mut text = format!(
            "`DIR` is this folder, or its name on the hub.\n\n```python\n{import}\n\n\
             model = {class}.from_pretrained(\"DIR\")\ntokenizer = AutoTokenizer.from_pretrained(\"DIR\")\n\
             chat = [{{\"role\": \"user\", \"content\": \"Hello\"}}]\n\
             inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors=\"pt\", return_dict=True)\n\
             print(tokenizer.decode(model.generate(**inputs, max_new_tokens=64)[0]))\n```\n\n| for | run |\n|---|---|\n"
        );
        let name: String =
            title.chars().map(|c| if c.is_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
        let base = self.hub_name().unwrap_or("BASE");
        let commands = match self.lora {
            Some(lora) => readers::of_card(Path::new("DIR"), &name, base, base, lora),
            None => vec![
                ("vLLM", "vllm serve DIR".to_owned()),
                ("llama.cpp", format!("lorafit export --to gguf --model DIR --type q8_0 --out {name}.gguf")),
                ("Ollama", format!("lorafit export --to ollama --model DIR --out {name}-ollama")),
            ],
        };
        for (reader, command) in commands {
            text += &format!("| {reader} | `{command}` |\n");
        }
        text
    }
}

fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// The data set of the hub that a source of rows names: no file, no glob and no folder that is here.
fn hub_data_set(text: &str) -> Option<&str> {
    let (location, weight) = text.rsplit_once(':').unwrap_or((text, "1"));
    let location = if weight.parse::<f64>().is_ok() { location } else { text };
    let location = location.split_once('@').map_or(location, |(name, _)| name);
    // A folder of it has no place in a card's list.
    let end = location.match_indices('/').nth(1).map_or(location.len(), |(at, _)| at);
    let name = &location[..end];
    let first = name.split('/').next()?;
    (is_hub_id(name) && !Path::new(first).exists() && Path::new(name).extension().is_none()).then_some(name)
}

/// Where rows are from, by the last part of their path, and how many there are.
fn figures(sources: &[String], data: &Dataset) -> String {
    let name = |text: &String| match hub_data_set(text) {
        Some(name) => format!("`{name}`"),
        None => {
            let last = Path::new(text).file_name().map(|name| name.to_string_lossy().into_owned());
            format!("`{}`", last.unwrap_or_else(|| text.clone()).replace('`', " "))
        }
    };
    let report = &data.report;
    let of_shapes = shapes(report);
    format!(
        "{}: {}",
        sources.iter().map(name).collect::<Vec<_>>().join(", "),
        read_in_words(
            report,
            &counted(data.samples.groups().len(), &format!("{of_shapes} row"), &format!("{of_shapes} rows"))
        )
    )
}
