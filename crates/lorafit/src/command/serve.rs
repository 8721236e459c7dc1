//! `lorafit serve`: OpenAI's API over one base with any number of adapters.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use lorafit_kernels::Device;
use lorafit_model::{KvCache, Model, is_hub_id};
use lorafit_remedy::amounts::{counted, memory};
use lorafit_serve::{
    Guard, Limits, MOST_STRENGTH, Open, Opened, Served, Server, View, Views, wrong_adapter_name,
    wrong_base_name,
};
use lorafit_train::available_bytes;
use serde_json::json;

use crate::args::adapters::{FactorArgs, NamedAdapter};
use crate::args::base::{ComputeArgs, QuantArgs, TemplateArgs};
use crate::args::common::Common;
use crate::args::require;
use crate::args::size::ByteSize;
use crate::pages::shell::{COLOURS, FIGURES, VIEWS};
use crate::pages::{figure, watch};
use crate::session::base::{Base, OpenedAdapter, as_trained, hold, open_base, read_to_answer, use_threads};
use crate::session::merge_inputs::{Trained, sum};
use crate::session::tokens::{Tokens, labels_of_adapter};
use crate::terminal::error::CliError;
use crate::terminal::shell::shell_word;
use crate::terminal::{interrupt, output};

/// The flags of `serve`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
    lorafit serve --model M --adapter butler=runs/butler --adapter pirate=runs/pirate
    lorafit serve --model M --adapter butler=runs/butler --runs runs
    lorafit serve --model M --adapters-from adapters --api-key-file key --host 0.0.0.0 --port 8000

Requests say in `model` who answers: the base by its name, an adapter by its name, or an adapter at a strength, as in
pirate:0.7. GET /v1/models lists them. Requests for different adapters share one batch. The page at / is a chat in two columns, and a
calculator of the memory that fine-tuning the base takes; with --runs it shows runs with live curves.
Ctrl-C and SIGTERM let running answers finish; a second one ends the server at once. docs/serving.md says more.")]
pub struct ServeArgs {
    /// The base model: a Hugging Face folder, a .gguf file, or a hub id (org/name or org/name@revision)
    #[arg(long, value_name = "M", help_heading = "Input")]
    pub model: String,
    /// Adapter to serve; repeat the flag for several
    ///
    /// Without NAME the adapter has the name of its folder. A weight from -100 to 100 that is not 0 (DIR:0.7) makes it weaker or
    /// stronger; the strength that a request asks for (NAME:0.5) is multiplied with it.
    #[arg(long = "adapter", value_name = "[NAME=]DIR[:WEIGHT]", help_heading = "Input")]
    pub adapters: Vec<NamedAdapter>,
    /// Folder of adapters that clients may load and unload while the server runs; needs --api-key-file
    #[arg(long, value_name = "DIR", help_heading = "Input")]
    pub adapters_from: Option<PathBuf>,
    /// Folder with runs of train, or of sweeps, in it or in folders below it: the page shows them with live curves
    #[arg(long, value_name = "DIR", help_heading = "Input")]
    pub runs: Option<PathBuf>,
    /// What requests call the base [default: the last part of --model]
    ///
    /// An adapter that was trained over a base of another name is served with a warning; where --model does not say what the base is, as
    /// the mount point of a container, this name does.
    #[arg(long, value_name = "NAME", help_heading = "Input")]
    pub name: Option<String>,

    /// Address to listen at; any but one of this machine needs --api-key-file or --insecure
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", help_heading = "Access")]
    pub host: String,
    /// Port to listen at; 0 takes any that is free
    #[arg(long, value_name = "N", default_value_t = 8080, help_heading = "Access")]
    pub port: u16,
    /// File with keys, one a line, of which a request needs one
    #[arg(long, value_name = "FILE", help_heading = "Access")]
    pub api_key_file: Option<PathBuf>,
    /// Listen at an address that other machines reach, without a key
    #[arg(long, help_heading = "Access")]
    pub insecure: bool,
    /// Name that clients call the server by, as in the address of a reverse proxy; repeat the flag for several
    #[arg(long, value_name = "NAME", help_heading = "Access")]
    pub allow_host: Vec<String>,

    /// Memory for the context of running answers and of remembered prompts (the KV cache), such as 6GiB or 800MB [default: half of
    /// what is free]
    ///
    /// A request waits while there is no room for it, and is refused if there never will be.
    #[arg(long, value_name = "SIZE", help_heading = "Limits")]
    pub memory: Option<ByteSize>,
    /// Tokens of the longest prompt
    #[arg(long, value_name = "N", default_value_t = LIMITS.prompt_tokens, help_heading = "Limits")]
    pub max_prompt_tokens: usize,
    /// Tokens of the longest answer
    #[arg(long, value_name = "N", default_value_t = LIMITS.new_tokens, help_heading = "Limits")]
    pub max_new_tokens: usize,
    /// Answers that are computed side by side
    #[arg(long, value_name = "N", default_value_t = LIMITS.sequences, help_heading = "Limits")]
    pub parallel: usize,
    /// Requests that wait; more are refused with status 429
    #[arg(long, value_name = "N", default_value_t = LIMITS.queue, help_heading = "Limits")]
    pub queue: usize,
    /// Open connections; more are refused with status 503
    #[arg(long, value_name = "N", default_value_t = LIMITS.connections, help_heading = "Limits")]
    pub connections: usize,
    /// Seconds from a request to the end of its answer; then 504
    #[arg(long, value_name = "SECONDS", default_value_t = LIMITS.request_time.as_secs(), help_heading = "Limits")]
    pub request_time: u64,
    /// Seconds that running answers have once the server is to end
    #[arg(long, value_name = "SECONDS", default_value_t = LIMITS.drain_time.as_secs(), help_heading = "Limits")]
    pub drain_time: u64,

    /// How the base is held in memory.
    #[command(flatten)]
    pub base: QuantArgs,
    /// How the factors of adapters are held in memory.
    #[command(flatten)]
    pub factors: FactorArgs,
    /// How conversations are written.
    #[command(flatten)]
    pub template: TemplateArgs,
    /// The flags of every verb.
    #[command(flatten)]
    pub common: Common,
}

/// Limits for which there is no flag, or none is given.
const LIMITS: Limits = Limits::USUAL;

impl ServeArgs {
    /// Refuses names by which a request could not be read in one way only, and weights that no request may ask for.
    fn check_names(&self) -> Result<(), CliError> {
        let base = self.base_name();
        if let Some(rule) = wrong_base_name(&base) {
            return Err(CliError::usage(format!("--name: the name `{base}` {rule}"))
                .hint("requests have it in `model`, as in --name llm"));
        }
        for NamedAdapter { name, adapter } in &self.adapters {
            let (dir, weight) = (adapter.dir.display(), adapter.weight);
            let renamed = format!("name it, as in --adapter butler={dir}");
            if let Some(rule) = wrong_adapter_name(name) {
                return Err(CliError::usage(format!("--adapter: the name `{name}` {rule}")).hint(renamed));
            }
            if weight.abs() > MOST_STRENGTH {
                let text = format!(
                    "--adapter {name}={dir}:{weight}: the weight is not from -{MOST_STRENGTH} to {MOST_STRENGTH}"
                );
                return Err(CliError::usage(text)
                    .hint(format!("1 is the adapter as it was trained: --adapter {name}={dir}")));
            }
            if *name == base {
                return Err(CliError::usage(format!("the base and an adapter are both called `{name}`"))
                    .hint("name the base with --name, or the adapter with --adapter NAME=DIR"));
            }
        }
        NamedAdapter::check_names(&self.adapters)
    }

    /// Refuses host names that no `Host` header can equal: those with a scheme, a port or a path.
    fn check_hosts(&self) -> Result<(), CliError> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
        match self.allow_host.iter().find(|host| host.is_empty() || !host.chars().all(is_name)) {
            None => Ok(()),
            Some(host) => {
                let rest = host.split_once("://").map_or(host.as_str(), |(_, rest)| rest);
                let name: String = rest.chars().take_while(|c| is_name(*c)).collect();
                let name = if name.is_empty() { "llm.example" } else { &name };
                Err(CliError::usage(format!("--allow-host {host}: not the name of a host"))
                    .hint(format!("give the name alone: {name}")))
            }
        }
    }

    fn validate(&self) -> Result<(), CliError> {
        self.check_names()?;
        self.check_hosts()?;
        let numbers = [
            ("max-prompt-tokens", self.max_prompt_tokens),
            ("max-new-tokens", self.max_new_tokens),
            ("parallel", self.parallel),
            ("queue", self.queue),
            ("connections", self.connections),
        ];
        for (flag, number) in numbers {
            require(number > 0, flag, number, "must be 1 or more")?;
        }
        require(self.request_time > 0, "request-time", self.request_time, "must be 1 or more")?;
        if self.adapters_from.is_some() && self.api_key_file.is_none() {
            return Err(CliError::usage(
                "--adapters-from without --api-key-file would let anybody load adapters",
            )
            .hint("write a key of 16 letters or more into a file, and give it with --api-key-file"));
        }
        if let Some(dir) = self.adapters_from.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(CliError::usage(format!(
                "--adapters-from {}: there is no such folder",
                dir.display()
            ))
            .hint("give the folder that has the folders of adapters"));
        }
        if let Some(dir) = self.runs.as_ref().filter(|dir| !dir.is_dir()) {
            return Err(CliError::usage(format!("--runs {}: there is no such folder", dir.display()))
                .hint("give the folder that has your runs in it"));
        }
        self.base.resolve()?;
        self.common.validate()
    }

    /// Where to listen.
    fn address(&self) -> Result<IpAddr, CliError> {
        let host = match self.host.as_str() {
            "localhost" => Ok(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            host => host.parse::<IpAddr>(),
        };
        let host = host.map_err(|_| {
            CliError::usage(format!("--host {}: not an address", self.host)).hint(
                "127.0.0.1 is this machine alone, 0.0.0.0 all its addresses; names are for --allow-host",
            )
        })?;
        match host.is_loopback() || self.insecure || self.api_key_file.is_some() {
            true => Ok(host),
            false => Err(CliError::usage(format!(
                "--host {host}: other machines could use the server without a key"
            ))
            .hint("give keys with --api-key-file, or allow it with --insecure")),
        }
    }

    fn guard(&self) -> anyhow::Result<Guard> {
        let Some(path) = &self.api_key_file else {
            return Ok(Guard { keys: Vec::new(), hosts: self.allow_host.clone() });
        };
        let shown = path.display();
        let text = fs::read_to_string(path).with_context(|| format!("cannot read --api-key-file {shown}"))?;
        let keys = Guard::keys_of(&text).map_err(|why| {
            CliError::usage(format!("--api-key-file {shown}: {why}"))
                .hint("openssl rand -hex 32 prints a good key; the file has one a line")
        })?;
        Ok(Guard { keys, hosts: self.allow_host.clone() })
    }

    fn limits(&self, model: &Model) -> Result<Limits, CliError> {
        let device = model.device();
        let free = match device {
            Device::Cpu => available_bytes(),
            Device::Cuda(gpu) => Some(gpu.info().free_bytes),
        };
        let cache_bytes = match self.memory {
            Some(size) => size.0,
            None => free.map_or(LIMITS.cache_bytes, |free| free / 2),
        };
        let least = KvCache::bytes(model.config(), device.placement(), 2 * LEAST_TOKENS);
        if cache_bytes < least {
            let takes = format!(
                "keys and values of a prompt of {LEAST_TOKENS} tokens and {LEAST_TOKENS} new ones take {}",
                memory(least)
            );
            let (kept, enough) = (memory(cache_bytes), rounded_up(least));
            return Err(match self.memory {
                Some(_) => CliError::usage(format!("--memory {kept} is too little: {takes}"))
                    .hint(format!("give --memory {enough} or more")),
                None => {
                    CliError::new(format!("half of the memory that is free, {kept}, is too little: {takes}"))
                        .hint(format!("end other programs, or give --memory {enough}"))
                }
            });
        }
        if let Some(free) = free.filter(|free| cache_bytes > *free && !self.common.quiet) {
            eprintln!("--memory {} is more than the {} that are free", memory(cache_bytes), memory(free));
        }
        Ok(Limits {
            prompt_tokens: self.max_prompt_tokens,
            new_tokens: self.max_new_tokens,
            sequences: self.parallel,
            choices: LIMITS.choices.min(self.parallel),
            queue: self.queue,
            connections: self.connections,
            request_time: Duration::from_secs(self.request_time),
            drain_time: Duration::from_secs(self.drain_time),
            cache_bytes,
            ..LIMITS
        })
    }

    /// What requests call the base. The name of a folder or file may have letters that a name may not.
    fn base_name(&self) -> String {
        let last = || {
            let path = Path::new(&self.model);
            let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy();
            let name = name.strip_suffix(".gguf").unwrap_or(&name).trim_start_matches('.');
            let plain = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
            let name: String = name.chars().map(plain).take(64).collect();
            if name.is_empty() { "base".to_owned() } else { name }
        };
        match &self.name {
            Some(name) => name.clone(),
            None if is_hub_id(&self.model) && !Path::new(&self.model).exists() => {
                self.model.split('@').next().unwrap_or_default().to_owned()
            }
            None => last(),
        }
    }

    /// Says where it listens, whom requests may name, and a request that works.
    fn say_where(&self, address: SocketAddr, base: &str, bytes: MemoryTaken, chats: bool) -> io::Result<()> {
        let is_every = address.ip().is_unspecified();
        let own = match address {
            SocketAddr::V4(_) if is_every => SocketAddr::from((Ipv4Addr::LOCALHOST, address.port())),
            SocketAddr::V6(_) if is_every => SocketAddr::from((Ipv6Addr::LOCALHOST, address.port())),
            address => address,
        };
        let others = if is_every { " and every other address of this machine" } else { "" };
        let adapters = self.adapters.iter().map(|adapter| adapter.name.as_str());
        let models: Vec<&str> = [base].into_iter().chain(adapters).collect();
        output::line(format!("serving at http://{own}/{others} (Ctrl-C ends it)"))?;
        output::line(format!("models: {}", models.join(", ")))?;
        if bytes.adapters > 0 {
            output::line(format!("memory of adapters: {}", memory(bytes.adapters)))?;
        }
        output::line(format!("memory for keys and values (KV cache): {}", memory(bytes.cache)))?;
        output::line(format!("try: {}", self.example(own, base, chats)))
    }

    /// A request that works, for a shell.
    fn example(&self, address: SocketAddr, name: &str, chats: bool) -> String {
        let key = self.api_key_file.as_ref().map_or(String::new(), |path| {
            let path = shell_word(&path.display().to_string());
            format!(" -H \"Authorization: Bearer $(grep -m1 -v '^#' {path})\"")
        });
        let (path, body) = match chats {
            true => {
                let messages = json!([{"role": "user", "content": "Hello"}]);
                ("chat/completions", json!({"model": name, "messages": messages}))
            }
            false => ("completions", json!({"model": name, "prompt": "Hello"})),
        };
        format!("curl http://{address}/v1/{path}{key} -d {}", shell_word(&body.to_string()))
    }
}

/// Bytes of memory beside the base.
#[derive(Clone, Copy)]
struct MemoryTaken {
    adapters: u64,
    /// Of keys and values, at most.
    cache: u64,
}

/// Tokens of a prompt, and of an answer, for which there has to be memory.
const LEAST_TOKENS: usize = 64;

/// A size that is at least `bytes`, as a flag takes it.
fn rounded_up(bytes: u64) -> String {
    match bytes >= 1 << 20 {
        true => format!("{}MiB", bytes.div_ceil(1 << 20)),
        false => format!("{}KiB", bytes.div_ceil(1 << 10)),
    }
}

/// Why an adapter cannot be served, if it scores texts.
fn writes_no_text(dir: &Path) -> Option<&'static str> {
    match labels_of_adapter(dir).ok()?? {
        1 => Some("the adapter is a reward model, whose head writes no text"),
        _ => Some("the adapter is a classifier, whose head writes no text"),
    }
}

/// What shows the plan of a base that has this name and lies at this path.
pub type PlanView = fn(String, String) -> View;

/// What the page shows beside the chat.
fn views(args: &ServeArgs, base: &Base, plan: PlanView) -> Views {
    let path = base.weights.path().display().to_string();
    let runs = args.runs.clone().map(watch::view::view);
    Views {
        views: runs.into_iter().chain([plan(args.base_name(), path)]).collect(),
        style: [COLOURS, FIGURES, VIEWS].concat(),
        script: figure::SCRIPT,
    }
}

/// The chat template that the run of an adapter was trained with; `None` if it was the model's own, or is not known.
fn template_of(dir: &Path) -> Option<String> {
    Trained::of(dir)?.template
}

fn template_in_words(template: Option<&str>) -> String {
    template.map_or("the model's own chat template".to_owned(), |name| format!("the chat template {name}"))
}

impl ServeArgs {
    /// Refuses adapters of several chat templates: one server writes all conversations with one.
    fn check_templates(&self) -> Result<(), CliError> {
        let [first, others @ ..] = &self.adapters[..] else { return Ok(()) };
        let of = |named: &NamedAdapter| template_of(&named.adapter.dir);
        let other = others.iter().find(|other| of(other) != of(first));
        match other.filter(|_| self.template.template.is_none()) {
            None => Ok(()),
            Some(other) => Err(CliError::usage(format!(
                "the adapter {} was trained with {}, {} with {}: one server writes all conversations with one",
                first.name,
                template_in_words(of(first).as_deref()),
                other.name,
                template_in_words(of(other).as_deref())
            ))
            .hint("serve them apart, or choose a template for all: --template")),
        }
    }
}

/// Serves until a signal ends it.
pub fn run(args: ServeArgs, plan: PlanView) -> anyhow::Result<()> {
    args.validate()?;
    let address = args.address()?;
    let guard = args.guard()?;
    // Binds before the base is loaded, which takes a while: a port in use is an error at once.
    let listener =
        TcpListener::bind((address, args.port)).map_err(|error| refused(address, args.port, &error))?;
    use_threads(&args.common)?;
    for NamedAdapter { name, adapter } in &args.adapters {
        if let Some(why) = writes_no_text(&adapter.dir) {
            return Err(CliError::usage(format!("--adapter {name}={}: {why}", adapter.dir.display()))
                .hint("leave it out; lorafit generate prints what it says of a text")
                .into());
        }
    }
    let dirs = || args.adapters.iter().map(|adapter| adapter.adapter.dir.as_path());
    args.check_templates()?;
    let template = as_trained(&args.template, &args.base, dirs(), args.common.quiet);
    let tokens = Tokens::of_adapters(dirs());
    let base = open_base(&args.model, &tokens, &args.base, &template, ComputeArgs::UNSET, &args.common)?;
    base.check_writes("nothing can be served")?;
    // The server needs it until the process ends.
    let base: &'static Base = Box::leak(Box::new(base));
    let name = args.base_name();
    let adapters = args
        .adapters
        .iter()
        .map(|named| open_named(base, &name, named, args.factors))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let factors = args.factors;
    let (used, is_asked) = (template.template.clone(), args.template.template.is_some());
    let served_name = name.clone();
    let open: Open = Box::new(move |dir| match writes_no_text(dir) {
        Some(why) => Err(why.to_owned()),
        None if !is_asked && template_of(dir) != used => Err(format!(
            "it was trained with {}, and this server writes conversations with {}: serve it by another server",
            template_in_words(template_of(dir).as_deref()),
            template_in_words(used.as_deref())
        )),
        None => {
            let OpenedAdapter { adapter, notes } = read_to_answer(base, dir, factors, Some(&served_name))
                .map_err(|error| format!("{error:#}"))?;
            Ok(Opened { adapter, warnings: warnings(base, dir, &notes) })
        }
    });
    let limits = args.limits(&base.model)?;
    let held = adapters.iter().map(|named| named.adapter.held_bytes()).sum();
    let bytes = MemoryTaken { adapters: held, cache: limits.cache_bytes };
    let served = Served {
        name: name.clone(),
        model: &base.model,
        tokenizer: &base.tokenizer,
        from: args.adapters_from.clone().map(|from| (from, open)),
        guard,
        limits,
        adapters,
        views: views(&args, base, plan),
    };
    let chats = base.tokenizer.chat_template().is_some();
    let server = Server::new(served, listener)?;
    let address = server.address().context("a socket without an address")?;
    let stop = interrupt::flag();
    args.say_where(address, &name, bytes, chats)?;
    let time = args.drain_time;
    server.run(stop, |left| {
        if left > 0 {
            let left = counted(left, "answer runs", "answers run");
            // Without a reader it ends all the same.
            let _ = output::line(format!("ending: {left}, at most {time} s; Ctrl-C again ends at once"));
        }
    })?;
    output::line("ended")?;
    Ok(())
}

fn open_named(
    base: &Base,
    served: &str,
    named: &NamedAdapter,
    factors: FactorArgs,
) -> anyhow::Result<lorafit_serve::NamedAdapter> {
    let OpenedAdapter { adapter, notes } = read_to_answer(base, &named.adapter.dir, factors, Some(served))?;
    let warnings = warnings(base, &named.adapter.dir, &notes);
    let weight = named.adapter.weight;
    let adapter = match weight == 1.0 {
        true => adapter,
        false => {
            let mut weighed = sum(base.model.config(), &[(&adapter, weight)])?;
            base.model.prepare(&mut weighed);
            hold(&mut weighed, adapter.factor_dtype(), &named.adapter.dir)?;
            weighed
        }
    };
    Ok(lorafit_serve::NamedAdapter { name: named.name.clone(), weight, adapter, warnings })
}

/// Letters of a warning, at most.
const LONGEST_WARNING: usize = 500;

/// Tells what is to be told of the adapter in `dir`, and gives it as clients may read it: without folders of this machine.
fn warnings(base: &Base, dir: &Path, notes: &[String]) -> Vec<String> {
    if !base.quiet {
        notes.iter().for_each(|note| tell!("{note}"));
    }
    let last = |path: &str| path.trim_end_matches('/').rsplit('/').next().unwrap_or(path).to_owned();
    let dir = dir.display().to_string();
    let shown = |note: &String| {
        let note = note.strip_prefix("warning: ").unwrap_or(note).replace(&dir, &last(&dir));
        let word = |word: &str| if word.starts_with('/') { last(word) } else { word.to_owned() };
        let note = note.split(' ').map(word).collect::<Vec<_>>().join(" ");
        // What an adapter calls its base may be long, and is sent with every list.
        match note.char_indices().nth(LONGEST_WARNING) {
            None => note,
            Some((end, _)) => format!("{}…", &note[..end]),
        }
    };
    notes.iter().map(shown).collect()
}

fn refused(address: IpAddr, port: u16, error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::AddrInUse => CliError::new(format!("port {port} is in use"))
            .hint("choose another --port, or --port 0 for any that is free"),
        io::ErrorKind::PermissionDenied => CliError::new(format!("port {port} may not be used: {error}"))
            .hint("choose a --port of 1024 or more"),
        io::ErrorKind::AddrNotAvailable => {
            CliError::new(format!("--host {address}: this machine has no such address"))
                .hint("127.0.0.1 is this machine alone, 0.0.0.0 all its addresses")
        }
        _ => CliError::new(format!("{address} port {port} cannot be listened at: {error}"))
            .hint("choose another --host or --port"),
    }
}
