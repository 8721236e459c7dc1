//! How the frozen base is held in memory, and how it is spoken to: flags that several verbs share.

use clap::{ArgAction, Args, ValueEnum};
use lorafit_data::{Builtin, TemplateError, Tokenizer};
use lorafit_kernels::ComputeDtype;
use lorafit_kernels::ops::matmul::cpu_instruction_set;
use lorafit_kernels::quant::Quantization;
use lorafit_kernels::quant::four_bit::Code;
use lorafit_model::{BaseQuantization, is_gguf};
use serde::{Deserialize, Serialize};

use crate::args::flags::{Facts, Words};
use crate::args::options::DeviceChoice;
use crate::args::options::Method;
use crate::terminal::error::CliError;

/// `--quant`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum QuantFormat {
    /// 4 bits, the levels of a normal distribution: what QLoRA trains over
    Nf4,
    /// 4 bits, a tiny floating-point number
    Fp4,
    /// 8 bits, evenly spaced over each row
    Int8,
}

/// What of the base is quantised, and how.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Base model")]
pub struct QuantArgs {
    /// Quantise the base's projections as it is loaded, as bitsandbytes does
    ///
    /// Without it weights stay as their file has them, which is best for a GGUF file that is quantised already.
    #[arg(long, value_enum, value_name = "FORMAT")]
    #[arg(add = Facts::ARITHMETIC.of(Method::Lora))]
    pub quant: Option<QuantFormat>,
    /// Quantise the scales of nf4 or fp4 too: 4.13 instead of 4.5 bits a weight
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC.of(Method::Lora))]
    pub double_quant: bool,
    /// Weights that share a scale in nf4 or fp4: a power of two from 32 to 4096
    #[arg(long, value_name = "N", default_value_t = QUANT_BLOCK)]
    #[arg(add = Facts::ARITHMETIC.of(Method::Lora))]
    pub quant_block: usize,
    /// Quantise the embedding and the head too
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true)]
    #[arg(default_value_t = false, default_missing_value = "true", hide_default_value = true)]
    #[arg(hide_possible_values = true, action = ArgAction::Set)]
    #[arg(add = Facts::ARITHMETIC.of(Method::Lora))]
    pub quant_head: bool,
}

/// How the base is multiplied.
#[derive(Args, Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Base model")]
pub struct ComputeArgs {
    /// Number type in which weights and activations are multiplied
    ///
    /// bf16 rounds both to 16 bits first, as QLoRA does on GPUs, and sums in f32; the adapter, attention and the loss
    /// stay f32. On processors that multiply bf16 training is up to 1.7 times as fast (AVX512-BF16: AMD Zen 4, Intel
    /// Cooper Lake, and later) or about twice (AMX: Intel Sapphire Rapids, and later); on others it is not faster. On a
    /// GPU, activations have this type.
    ///
    /// int8 rounds both to 8 bits, with a scale for every 64 values, where processors multiply bytes (AVX512-VNNI: Intel
    /// Ice Lake, AMD Zen 4, and later; AVX-VNNI: Intel Alder Lake, and later). With AMX it is no faster than bf16; on
    /// processors that do not multiply bytes it is slower than f32.
    /// [default: bf16 on a GPU, and with --quant on processors that multiply bf16; else f32]
    #[arg(long, value_enum, value_name = "DTYPE")]
    #[serde(skip_serializing_if = "Option::is_none")]
    #[arg(add = Facts::ARITHMETIC)]
    pub compute_dtype: Option<ComputeChoice>,
}

impl ComputeArgs {
    /// The default.
    pub const UNSET: ComputeArgs = ComputeArgs { compute_dtype: None };

    /// # Errors
    /// Products that are not computed on `device`.
    pub fn check(self, device: DeviceChoice) -> Result<(), CliError> {
        match (self.compute_dtype, device) {
            (Some(ComputeChoice::Int8), DeviceChoice::Cuda(_)) => {
                let text = format!(
                    "--compute-dtype int8 with --device {device}: only the processor computes in 8 bits"
                );
                Err(CliError::usage(text).hint("give --compute-dtype bf16, or --device cpu"))
            }
            _ => Ok(()),
        }
    }

    /// A warning where int8 was chosen and this processor does not multiply bytes.
    pub fn warning(self) -> Option<&'static str> {
        (self.compute_dtype == Some(ComputeChoice::Int8) && !multiplies_bytes()).then_some(
            "warning: --compute-dtype int8 is slower than f32 here: this processor does not multiply bytes",
        )
    }

    /// What is asked for, or the default on `device` for a base that is `quantized` as it is loaded: what rounding to
    /// bf16 changes is little beside that.
    pub fn on(self, device: DeviceChoice, quantized: bool) -> ComputeChoice {
        self.compute_dtype.unwrap_or(match device {
            DeviceChoice::Cuda(_) => ComputeChoice::Bf16,
            DeviceChoice::Auto | DeviceChoice::Cpu if quantized && multiplies_bf16() => ComputeChoice::Bf16,
            DeviceChoice::Auto | DeviceChoice::Cpu => ComputeChoice::F32,
        })
    }
}

/// Whether this processor has instructions for products of bytes.
fn multiplies_bytes() -> bool {
    cpu_instruction_set(ComputeDtype::Int8) != cpu_instruction_set(ComputeDtype::F32)
}

/// Whether this processor has instructions for products in bf16.
pub fn multiplies_bf16() -> bool {
    cpu_instruction_set(ComputeDtype::Bf16) != cpu_instruction_set(ComputeDtype::F32)
}

/// `--compute-dtype`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ComputeChoice {
    /// As PEFT does by default: equal to it to six digits
    F32,
    /// Rounded to 16 bits
    Bf16,
    /// Rounded to 8 bits, on processors alone
    Int8,
}

impl From<ComputeChoice> for ComputeDtype {
    fn from(choice: ComputeChoice) -> Self {
        match choice {
            ComputeChoice::F32 => ComputeDtype::F32,
            ComputeChoice::Bf16 => ComputeDtype::Bf16,
            ComputeChoice::Int8 => ComputeDtype::Int8,
        }
    }
}

/// Which chat template conversations are rendered by.
#[derive(Args, Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[command(next_help_heading = "Base model")]
pub struct TemplateArgs {
    /// Chat template: chatml, llama-3, mistral, alpaca, or a Jinja file [default: the model's own]
    ///
    /// For a base model without a template, or to train with another. A model trained with a template has to be used
    /// with it.
    #[arg(long, value_name = "NAME|FILE")]
    #[arg(add = Facts::FREE, add = Words(|| Builtin::ALL.map(Builtin::name).to_vec()))]
    pub template: Option<String>,
}

impl TemplateArgs {
    /// Gives the tokenizer the template asked for.
    pub fn apply(&self, tokenizer: &mut Tokenizer) -> Result<(), TemplateError> {
        match &self.template {
            Some(template) => tokenizer.use_chat_template(template),
            None => Ok(()),
        }
    }
}

/// `--quant-block` unless it is given.
pub const QUANT_BLOCK: usize = 64;

impl QuantArgs {
    /// The flags as they are typed; `None` where nothing is quantised.
    pub fn flags(&self) -> Option<String> {
        let format = self.quant?.to_possible_value().expect("every format has a name");
        let mut flags = format!("--quant {}", format.get_name());
        for (flag, given) in [("--double-quant", self.double_quant), ("--quant-head", self.quant_head)] {
            if given {
                flags = format!("{flags} {flag}");
            }
        }
        if self.quant_block != QUANT_BLOCK {
            flags = format!("{flags} --quant-block {}", self.quant_block);
        }
        Some(flags)
    }

    /// What the flags ask for, if they go together.
    pub fn resolve(&self) -> Result<Option<BaseQuantization>, CliError> {
        let block_len = self.quant_block;
        if !(32..=4096).contains(&block_len) || !block_len.is_power_of_two() {
            return Err(CliError::usage(format!(
                "--quant-block {block_len}: must be a power of two from 32 to 4096"
            )));
        }
        let double = self.double_quant;
        let needs = |flag: &str, what: &str| {
            CliError::usage(format!("{flag} without {what} has nothing to quantise"))
                .hint("--quant nf4 --double-quant is what QLoRA uses")
        };
        if block_len != QUANT_BLOCK && !matches!(self.quant, Some(QuantFormat::Nf4 | QuantFormat::Fp4)) {
            return Err(CliError::usage(format!(
                "--quant-block {block_len} has no meaning without --quant nf4 or fp4"
            ))
            .hint("add --quant nf4, or leave --quant-block out"));
        }
        let quantization = match self.quant {
            Some(QuantFormat::Nf4) => Quantization::FourBit { code: Code::Nf4, block_len, double },
            Some(QuantFormat::Fp4) => Quantization::FourBit { code: Code::Fp4, block_len, double },
            Some(QuantFormat::Int8) if double => {
                return Err(needs("--double-quant", "--quant nf4 or fp4"));
            }
            Some(QuantFormat::Int8) => Quantization::Int8,
            None if double => return Err(needs("--double-quant", "--quant")),
            None if self.quant_head => return Err(needs("--quant-head", "--quant")),
            None => return Ok(None),
        };
        Ok(Some(BaseQuantization { quantization, head: self.quant_head }))
    }
}

/// Refuses a `--base-name` that can name no model.
pub fn check_base_name(asked: Option<&str>) -> Result<(), CliError> {
    let Some(name) = asked else { return Ok(()) };
    let hint = "give the model on the hub whose weights the file has, org/name, or its folder";
    if name.trim().is_empty() || name.contains(char::is_control) {
        return Err(CliError::usage(format!("--base-name {name:?}: must be a name")).hint(hint));
    }
    match std::path::Path::new(name).is_file() || is_gguf(name) {
        false => Ok(()),
        true => {
            Err(CliError::usage(format!("--base-name {name} is a file, and PEFT loads bases from folders"))
                .hint(hint))
        }
    }
}
