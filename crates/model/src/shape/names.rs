//! What checkpoints call the parts of a decoder outside of its blocks, and what stands before the names of those of blocks.

/// The names of a decoder, as its class in transformers has them in memory: PEFT's names are these, and files may have
/// something else before them.
#[derive(Debug, PartialEq, Eq)]
pub struct Names {
    /// What stands before all of them, but for the head's.
    pub(crate) decoder: &'static str,
    /// What stands before the number of a block.
    pub(crate) blocks: &'static str,
    pub(crate) embedding: &'static str,
    /// Of learned positions, where there are some.
    pub(crate) positions: &'static str,
    /// Of the norm before the head.
    pub(crate) norm: &'static str,
}

/// The name of the head.
pub(crate) const HEAD: &str = "lm_head";
/// The name of a head that scores texts, in its place.
pub(crate) const SCORE: &str = "score";

impl Names {
    /// Of Llama and most others.
    pub(crate) const USUAL: &Names = &Names {
        decoder: "model.",
        blocks: "model.layers.",
        embedding: "model.embed_tokens",
        positions: "model.embed_positions",
        norm: "model.norm",
    };
    /// Of the language model in a model of several parts, which reads images, too.
    pub(crate) const OF_SEVERAL: &Names = &Names {
        decoder: "model.language_model.",
        blocks: "model.language_model.layers.",
        embedding: "model.language_model.embed_tokens",
        positions: "model.language_model.embed_positions",
        norm: "model.language_model.norm",
    };
    /// Of GPT-2.
    pub(crate) const GPT2: &Names = &Names {
        decoder: "transformer.",
        blocks: "transformer.h.",
        embedding: "transformer.wte",
        positions: "transformer.wpe",
        norm: "transformer.ln_f",
    };
    /// All that there are. A name of one is none of another.
    pub(crate) const ALL: [&Names; 3] = [Names::OF_SEVERAL, Names::USUAL, Names::GPT2];

    /// The path of a part of a block: `model.layers.3.self_attn.q_proj`.
    pub(crate) fn in_block(&self, layer: usize, part: &str) -> String {
        format!("{}{layer}.{part}", self.blocks)
    }

    /// The layer and the part of a path, if it is one of a block as it is written: not `+1` for 1, nor `01`.
    pub(crate) fn block_of<'p>(&self, path: &'p str) -> Option<(usize, &'p str)> {
        let (number, part) = path.strip_prefix(self.blocks)?.split_once('.')?;
        let layer: usize = number.parse().ok()?;
        (layer.to_string() == number).then_some((layer, part))
    }

    /// As [`Names::block_of`], of any decoder.
    pub(crate) fn any_block_of(path: &str) -> Option<(usize, &str)> {
        Names::ALL.iter().find_map(|names| names.block_of(path))
    }

    /// The name that the tensor `name` has in a folder of the decoder alone.
    pub(crate) fn alone(&self, name: &str) -> String {
        match name.strip_prefix(self.decoder) {
            Some(rest) if self.is_of_several() => format!("{}{rest}", Names::USUAL.decoder),
            _ => name.to_owned(),
        }
    }

    /// Whether the decoder is a part of a model of several.
    pub(crate) fn is_of_several(&self) -> bool {
        self == Names::OF_SEVERAL
    }
}
