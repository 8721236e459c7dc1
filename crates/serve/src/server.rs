//! The server: connections within limits, one thread that computes, and an end that lets running answers finish.

use std::future::Future;
use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioTimer;
use lorafit_data::{TemplateError, Tokenizer};
use lorafit_model::Model;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use crate::connection::Timed;
use crate::constrain::Grammars;
use crate::error::{ApiError, RETRY_AFTER};
use crate::guard::Guard;
use crate::held_calls::CallSyntax;
use crate::limits::{HEAD_BYTES, Limits};
use crate::metrics::Metrics;
use crate::models::{Models, NamedAdapter, Open};
use crate::page::Page;
use crate::queue::{Queue, State};
use crate::routes::{NO_ENDPOINT, answer, routes};
use crate::site::Site;
use crate::unwritten::Written;
use crate::views::Views;
use crate::vocabulary::bytes_of;
use crate::worker::Worker;

/// Headers of a request.
const MOST_HEADERS: usize = 64;
/// How often the server looks whether it is to end.
const GLANCE: Duration = Duration::from_millis(50);
/// For the last bytes of answers once nothing is computed any more.
const LAST_BYTES: Duration = Duration::from_secs(2);
/// Threads that read requests.
const READERS: usize = 4;

/// What a server serves. Base and tokenizer live as long as the process.
pub struct Served {
    /// What requests call the base.
    pub name: String,
    /// The base.
    pub model: &'static Model,
    /// Its tokenizer.
    pub tokenizer: &'static Tokenizer,
    /// The adapters.
    pub adapters: Vec<NamedAdapter>,
    /// The folder that adapters may be loaded from while the server runs, and what opens them.
    pub from: Option<(PathBuf, Open)>,
    /// Who may ask.
    pub guard: Guard,
    /// What is taken from clients.
    pub limits: Limits,
    /// What the page at `/` shows beside the chat.
    pub views: Views,
}

/// A server that is ready to run.
pub struct Server {
    site: Arc<Site>,
    listener: TcpListener,
}

/// Why there is no server.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The chat template is not one.
    #[error(transparent)]
    Template(#[from] TemplateError),
    /// The system refuses a thread or a socket.
    #[error("the server cannot run: {0}")]
    Io(#[from] io::Error),
}

impl Server {
    /// A server on `listener`.
    ///
    /// # Errors
    /// A chat template that is none.
    pub fn new(served: Served, listener: TcpListener) -> Result<Self, ServeError> {
        let Served { name, model, tokenizer, adapters, from, guard, limits, views } = served;
        let vocabulary = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let template = tokenizer.compile_chat_template()?;
        let site = Site {
            model,
            tokenizer,
            longest_token: (0..vocabulary).map(|id| bytes_of(tokenizer, id).len()).max().unwrap_or(0),
            call_syntax: template.as_ref().and_then(|template| CallSyntax::of(template, tokenizer)),
            template,
            written: Written::default(),
            grammars: Grammars::new(tokenizer, model.config().vocab_size),
            models: Models::new(name, model, adapters, from),
            limits,
            guard,
            queue: Arc::new(Queue::new(limits.queue)),
            metrics: Arc::new(Metrics::default()),
            page: Page::new(&views),
            views,
            answers_view: Arc::default(),
        };
        Ok(Server { site: Arc::new(site), listener })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// A socket without an address.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers requests until `stop` is true; running answers then have some time to finish, and `ending` is called with the number of
    /// those that run or wait.
    ///
    /// # Errors
    /// A system that has no thread, or no socket.
    pub fn run(self, stop: &AtomicBool, ending: impl FnOnce(usize)) -> Result<(), ServeError> {
        let Server { site, listener } = self;
        let (queue, metrics) = (Arc::clone(&site.queue), Arc::clone(&site.metrics));
        let worker = Worker::new(site.model, site.tokenizer, queue, metrics, site.limits);
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(|| worker.run())?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .max_blocking_threads(READERS)
            .build()?;
        let ended = runtime.block_on(listen(&site, listener, stop, ending));
        site.queue.set(State::Ended);
        // Its own panics are caught; what could not be is the system's.
        let _ = thread.join();
        runtime.shutdown_timeout(Duration::from_millis(200));
        Ok(ended?)
    }
}

/// Takes connections until the end.
async fn listen(
    site: &Arc<Site>,
    listener: TcpListener,
    stop: &AtomicBool,
    ending: impl FnOnce(usize),
) -> io::Result<()> {
    let mut says_end = Some(ending);
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let router = routes(Arc::clone(site));
    let (end, ending) = watch::channel(());
    let open = Arc::new(AtomicUsize::new(0));
    let mut until: Option<Instant> = None;
    loop {
        if until.is_none() && stop.load(Ordering::SeqCst) {
            until = Some(Instant::now() + site.limits.drain_time);
            site.queue.set(State::Draining);
            if let Some(ending) = says_end.take() {
                ending(site.metrics.running.get() as usize + site.queue.len());
            }
        }
        if until.is_some_and(|until| Instant::now() >= until) {
            site.queue.set(State::Ended);
        }
        if site.queue.state() == State::Ended {
            break;
        }
        match timeout(GLANCE, listener.accept()).await {
            Err(_) => {}
            Ok(Ok((stream, _))) => {
                let open = Counted::new(&open);
                if open.count() > site.limits.connections {
                    refuse(stream, site.limits.connections);
                    site.metrics.answered(NO_ENDPOINT, StatusCode::SERVICE_UNAVAILABLE.as_u16());
                    continue;
                }
                tokio::spawn(serve(stream, router.clone(), Arc::clone(site), ending.clone(), open));
            }
            // No more files, most often; some will be closed.
            Ok(Err(_)) => sleep(GLANCE).await,
        }
    }
    drop(end);
    let until = Instant::now() + LAST_BYTES;
    while open.load(Ordering::SeqCst) > 0 && Instant::now() < until {
        sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// A connection that is counted while it is open.
struct Counted(Arc<AtomicUsize>);

impl Counted {
    fn new(open: &Arc<AtomicUsize>) -> Self {
        open.fetch_add(1, Ordering::SeqCst);
        Counted(Arc::clone(open))
    }

    fn count(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Tells a client that there is no room, without waiting for it.
fn refuse(stream: TcpStream, most: usize) {
    let message = format!("{most} connections are open already, and no more are taken; ask again later");
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, message).code("too_many_connections");
    let body = error.json().to_string();
    let text = format!(
        "HTTP/1.1 503 Service Unavailable\r\nretry-after: {RETRY_AFTER}\r\nconnection: close\r\n\
         content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    // It does not wait, as the listener's sockets never do; a client that is gone needs no answer.
    let _ = stream.into_std().and_then(|mut stream| stream.write_all(text.as_bytes()));
}

/// Answers the requests of a connection.
async fn serve(
    stream: TcpStream,
    router: Router,
    site: Arc<Site>,
    mut ending: watch::Receiver<()>,
    open: Counted,
) {
    let (limits, metrics) = (site.limits, Arc::clone(&site.metrics));
    // Tokens are small, and are wanted at once.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request: Request<hyper::body::Incoming>| {
        let (router, site) = (router.clone(), Arc::clone(&site));
        async move {
            let route = |request| async move {
                use hyper::service::Service as _;
                let router = hyper_util::service::TowerToHyperService::new(router);
                router.call(request).await.unwrap_or_else(|never| match never {})
            };
            let response = answer(&site, request.map(Body::new), route).await;
            Ok::<_, std::convert::Infallible>(response)
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.head_time);
    builder.max_headers(MOST_HEADERS).max_buf_size(HEAD_BYTES);
    let mut connection = pin!(builder.serve_connection(Timed::new(stream, limits.write_time), service));
    let mut end = pin!(ending.changed());
    let mut is_told = false;
    // What goes wrong with a connection ends it, and nothing else.
    let ended = std::future::poll_fn(|context| {
        if !is_told && end.as_mut().poll(context).is_ready() {
            is_told = true;
            connection.as_mut().graceful_shutdown();
        }
        match connection.as_mut().poll(context) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(result) => Poll::Ready(result),
        }
    })
    .await;
    if let Some(status) = ended.err().as_ref().and_then(refused_with) {
        metrics.answered(NO_ENDPOINT, status.as_u16());
    }
    drop(open);
}

/// The status that a connection answers with to what is no request.
fn refused_with(error: &hyper::Error) -> Option<StatusCode> {
    match error {
        error if error.is_parse_version_h2() => None,
        error if error.is_parse_too_large() => Some(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE),
        error if error.is_parse() => Some(StatusCode::BAD_REQUEST),
        _ => None,
    }
}
