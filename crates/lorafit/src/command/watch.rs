//! `lorafit watch`: runs as a live page of this machine.

mod server;

use std::io;
use std::net::TcpListener;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use lorafit_train::RunLock;

use self::server::{Answer, Feed, Request, Server};
use crate::pages::watch::Watched;
use crate::terminal::error::CliError;
use crate::terminal::interrupt;
use crate::terminal::output;

/// How often folders are looked at.
const EVERY: Duration = Duration::from_secs(1);

/// The flags of `watch`.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = "\
Examples:
    lorafit watch runs/first
    lorafit watch runs/* --port 0
    lorafit watch sweeps/first

The page shows the curves of all runs as they grow, and can stop a run or save a checkpoint, as Ctrl-C and SIGUSR1 in its
terminal do. It is served on 127.0.0.1 only and loads nothing from elsewhere. Ctrl-C ends it; the runs go on.
From another machine: ssh -L 8470:127.0.0.1:8470 HOST")]
pub struct WatchArgs {
    /// Run folders of train, and folders of sweeps, whose trials are watched
    #[arg(required = true, value_name = "RUN")]
    pub runs: Vec<PathBuf>,
    /// Port of the page; 0 takes any that is free
    #[arg(long, value_name = "N", default_value_t = 8470)]
    pub port: u16,
}

/// Serves the page until a signal ends it.
pub fn run(args: WatchArgs) -> anyhow::Result<()> {
    let watched = Watched::new(args.runs)?;
    let listener = TcpListener::bind(("127.0.0.1", args.port)).map_err(|error| refused(args.port, &error))?;
    let port = listener.local_addr().context("a socket without an address")?.port();
    let mut random = [0; 16];
    getrandom::fill(&mut random).context("the system has no random numbers")?;
    let token = random.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    interrupt::listen();
    let feed = Arc::new(Feed::default());
    let watched = Arc::new(Mutex::new(watched));
    let site = Site { watched: Arc::clone(&watched), token };
    let server =
        Server { port, feed: Arc::clone(&feed), answer: Box::new(move |request| site.answer(request)) };
    output::line(format!("watching at http://127.0.0.1:{port}/ until Ctrl-C"))?;
    let mut states = String::new();
    server.serve(&listener, EVERY, &mut || {
        let mut watched = watched.lock().unwrap_or_else(PoisonError::into_inner);
        let now = watched.states();
        if now != states {
            feed.send("states", &now);
            states = now;
        }
        if let Some(curves) = watched.curves() {
            feed.send("curves", &curves);
        }
        !interrupt::asked()
    })?;
    output::line("ended; the runs go on")?;
    Ok(())
}

fn refused(port: u16, error: &io::Error) -> CliError {
    match error.kind() {
        io::ErrorKind::AddrInUse => CliError::new(format!("port {port} is in use"))
            .hint("choose another --port, or --port 0 for any that is free"),
        io::ErrorKind::PermissionDenied => CliError::new(format!("port {port} may not be used: {error}"))
            .hint("choose a --port of 1024 or more"),
        _ => CliError::new(format!("cannot listen on port {port}: {error}"))
            .hint("choose another --port, or --port 0 for any that is free"),
    }
}

/// What a request is answered with.
struct Site {
    watched: Arc<Mutex<Watched>>,
    /// What a page of this process has and no other site knows.
    token: String,
}

impl Site {
    fn answer(&self, request: &Request) -> Answer {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => Answer::page(watched.page(&self.token)),
            ("GET", "/events") => Answer::Events,
            ("POST", "/stop" | "/checkpoint") if request.token.as_deref() != Some(&self.token) => {
                Answer::text(
                    403,
                    "this request does not come from the page that lorafit watch serves; load the page again\n",
                )
            }
            ("POST", path @ ("/stop" | "/checkpoint")) => {
                let name = request.body.trim();
                match watched.dir(name) {
                    Some(dir) => ask(path, name, RunLock::holder(&dir)),
                    None => Answer::text(404, format!("no run is called {name}\n")),
                }
            }
            (_, "/" | "/events" | "/stop" | "/checkpoint") => {
                Answer::text(405, "this is asked for otherwise\n")
            }
            _ => Answer::text(404, "there is nothing here; the page is at /\n"),
        }
    }
}

/// Asks the process that has a run to stop or to save a checkpoint.
fn ask(path: &str, name: &str, holder: Option<Option<u32>>) -> Answer {
    let Some(process) = holder.flatten().and_then(|process| i32::try_from(process).ok()) else {
        return Answer::text(409, format!("{name} is not running\n"));
    };
    let done = match path {
        "/stop" => format!("{name} stops after its step and saves a checkpoint\n"),
        _ => format!("{name} saves a checkpoint after its step\n"),
    };
    match signal(process, path == "/stop") {
        Ok(()) => Answer::text(200, done),
        Err(error) => Answer::text(500, format!("cannot signal process {process} of {name}: {error}\n")),
    }
}

#[cfg(unix)]
fn signal(process: i32, stop: bool) -> io::Result<()> {
    let signal = if stop { libc::SIGINT } else { libc::SIGUSR1 };
    // SAFETY: it touches no memory. The process holds the lock of a run, so that its id is not that of another.
    match unsafe { libc::kill(process, signal) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(unix))]
fn signal(_process: i32, _stop: bool) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no such signals"))
}
