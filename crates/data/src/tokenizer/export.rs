//! A tokenizer as the files of a Hugging Face folder, for one that came from elsewhere.

use serde_json::{Map, Value, json};

use super::{Tokenizer, TokenizerError, guarded};

impl Tokenizer {
    /// `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and, where there is one chat template,
    /// `chat_template.jinja`, by name (two are in the settings): a folder of them is read as this tokenizer.
    ///
    /// # Errors
    /// When the tokenizers library fails.
    pub fn folder_files(&self) -> Result<Vec<(String, Vec<u8>)>, TokenizerError> {
        let pretty = |value: &Value| serde_json::to_vec_pretty(value).expect("plain values");
        let special = &self.special;
        let mut settings = Map::new();
        settings.insert("tokenizer_class".to_owned(), json!("PreTrainedTokenizerFast"));
        settings.insert("clean_up_tokenization_spaces".to_owned(), json!(false));
        for (key, token) in [
            ("bos_token", &special.bos),
            ("eos_token", &special.eos),
            ("unk_token", &special.unk),
            ("pad_token", &special.pad),
        ] {
            if let Some(token) = token {
                settings.insert(key.to_owned(), json!(token));
            }
        }
        if let (Some(template), Some(of_tools)) = (&self.chat_template, &self.tool_template) {
            let named = |name: &str, template: &str| json!({"name": name, "template": template});
            let list = [named("default", template), named("tool_use", of_tools)];
            settings.insert("chat_template".to_owned(), json!(list));
        }
        let generation = json!({
            "bos_token_id": self.bos,
            "eos_token_id": self.eos_ids,
            "pad_token_id": self.pad,
        });
        let mut files = vec![
            ("tokenizer.json".to_owned(), pretty(&self.to_json()?)),
            ("tokenizer_config.json".to_owned(), pretty(&Value::Object(settings))),
            ("generation_config.json".to_owned(), pretty(&generation)),
        ];
        if let (Some(template), None) = (&self.chat_template, &self.tool_template) {
            files.push(("chat_template.jinja".to_owned(), template.clone().into_bytes()));
        }
        Ok(files)
    }

    /// The tokenizer itself, with what is added around plain text as its post-processor.
    fn to_json(&self) -> Result<Value, TokenizerError> {
        let text = guarded("write the tokenizer", || self.inner.to_string(false))?;
        let mut json: Value = serde_json::from_str(&text).expect("the library writes JSON");
        if self.prefix.is_empty() && self.suffix.is_empty() {
            return Ok(json);
        }
        let added = |ids: &[u32]| -> Vec<Value> {
            let names = ids.iter().filter_map(|id| self.id_to_token(*id));
            names.map(|name| json!({"SpecialToken": {"id": name, "type_id": 0}})).collect()
        };
        let around = |sequences: &[&str]| -> Vec<Value> {
            let texts = sequences.iter().map(|id| json!({"Sequence": {"id": id, "type_id": 0}}));
            added(&self.prefix).into_iter().chain(texts).chain(added(&self.suffix)).collect()
        };
        let ids = self.prefix.iter().chain(&self.suffix);
        let tokens: Map<String, Value> = ids
            .filter_map(|id| {
                let name = self.id_to_token(*id)?;
                Some((name.clone(), json!({"id": name, "ids": [id], "tokens": [name]})))
            })
            .collect();
        json["post_processor"] = json!({
            "type": "TemplateProcessing",
            "single": around(&["A"]),
            "pair": around(&["A", "B"]),
            "special_tokens": tokens,
        });
        Ok(json)
    }
}
