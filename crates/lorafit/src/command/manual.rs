//! `lorafit manual`: the help of every verb as man pages, or as one page of Markdown (`docs/cli.md`).

mod markdown;
mod pyi;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command, ValueEnum};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};
use lorafit_remedy::amounts::counted;

use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::terminal::flow::{Block, blocks};
use crate::terminal::output;

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A man page for lorafit and one for each verb: --out is a folder
    Man,
    /// All verbs on one page: --out is a file
    Markdown,
    /// The flags as types for Python (crates/python): --out is a file
    #[value(hide = true)]
    Pyi,
}

/// The flags of `manual`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
  Man pages for you alone; afterwards `man lorafit-train` shows one:
    lorafit manual --out ~/.local/share/man/man1
  The reference on one page:
    lorafit manual --format markdown --out cli.md")]
pub struct ManualArgs {
    /// Where to write: a folder for man pages, a file for Markdown
    #[arg(long, value_name = "PATH")]
    pub out: PathBuf,
    /// What to write
    #[arg(long, value_enum, default_value_t = Format::Man)]
    pub format: Format,
}

/// Writes the manual of `command`.
pub fn run(args: ManualArgs, command: Command) -> anyhow::Result<()> {
    let kind = match args.format {
        Format::Man => Kind::Manual,
        Format::Markdown => Kind::Table(markdown::TITLE),
        Format::Pyi => Kind::Table(pyi::TITLE),
    };
    outputs::check(&Inputs::default(), Output::asked("--out", Some(&args.out), kind))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    match args.format {
        Format::Markdown => return output::file(&args.out, markdown::reference(&command).as_bytes()),
        Format::Pyi => return output::file(&args.out, pyi::stub(&command).as_bytes()),
        Format::Man => {}
    }
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for verb in std::iter::once(&command).chain(command.get_subcommands()) {
        let page = page(verb);
        output::file(&args.out.join(page.get_filename()), &text(&page, verb)?)?;
    }
    let pages = counted(1 + command.get_subcommands().count(), "man page", "man pages");
    output::line(format!("{pages} written to {}", args.out.display()))?;
    Ok(())
}

/// The man page of a command, whose synopsis is its usage: what is required has its values there.
fn page(verb: &Command) -> Man {
    let usage = verb.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().to_owned();
    let source = concat!("lorafit ", env!("CARGO_PKG_VERSION"));
    Man::new(verb.clone().override_usage(usage)).source(source).manual("lorafit")
}

/// The text of a man page. What stands behind the flags is ours: paragraphs are filled, examples are not.
fn text(page: &Man, verb: &Command) -> anyhow::Result<Vec<u8>> {
    let mut text = Vec::new();
    page.render_title(&mut text)?;
    page.render_name_section(&mut text)?;
    page.render_synopsis_section(&mut text)?;
    page.render_description_section(&mut text)?;
    page.render_options_section(&mut text)?;
    if verb.has_subcommands() {
        page.render_subcommands_section(&mut text)?;
    }
    let after = verb.get_after_long_help().or(verb.get_after_help());
    let mut roff = Roff::default();
    if after.is_some() {
        roff.control("SH", ["NOTES"]);
    }
    for block in after.map(|after| blocks(&after.to_string())).unwrap_or_default() {
        match block {
            Block::Text(text) => {
                roff.control("PP", []);
                roff.text([roman(text)]);
            }
            Block::Lines(lines) => {
                roff.control("PP", []);
                roff.control("EX", []);
                for line in lines {
                    roff.text([roman(line)]);
                }
                roff.control("EE", []);
            }
        }
    }
    roff.to_writer(&mut text)?;
    // Each section begins with the same preamble.
    let text = String::from_utf8(text)?;
    let (preamble, rest) = text.split_at(text.find(".TH").unwrap_or(0));
    Ok(match preamble.is_empty() {
        true => text.into_bytes(),
        false => format!("{preamble}{}", rest.replace(preamble, "")).into_bytes(),
    })
}
