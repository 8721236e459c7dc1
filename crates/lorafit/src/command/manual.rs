//! `lorafit manual`: the help of every verb as man pages, or as one page of Markdown (`docs/cli.md`).

mod markdown;

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::{Args, Command, ValueEnum};
use clap_mangen::Man;
use lorafit_data::words::counted;

use crate::args::outputs::{self, Inputs, Kind, Output};
use crate::terminal::output;

/// `--format`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A man page for lorafit and one for each verb: --out is a folder
    Man,
    /// All verbs on one page: --out is a file
    Markdown,
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
        Format::Man => Kind::Files,
        Format::Markdown => Kind::Table(markdown::TITLE),
    };
    outputs::check(&Inputs::default(), Output::asked("--out", Some(&args.out), kind))?;
    let mut command = command.disable_help_subcommand(true);
    command.build();
    if args.format == Format::Markdown {
        return output::file(&args.out, markdown::reference(&command).as_bytes());
    }
    fs::create_dir_all(&args.out).with_context(|| format!("cannot make {}", args.out.display()))?;
    for verb in std::iter::once(&command).chain(command.get_subcommands()) {
        let (page, mut text) = (Man::new(verb.clone()), Vec::new());
        page.render(&mut text)?;
        output::file(&args.out.join(page.get_filename()), &text)?;
    }
    let pages = counted(1 + command.get_subcommands().count(), "man page", "man pages");
    output::line(format!("{pages} written to {}", args.out.display()))?;
    Ok(())
}
