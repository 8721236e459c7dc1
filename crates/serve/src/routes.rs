//! The endpoints: from a request to an answer.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::{Arc, PoisonError};
use std::task::Poll;
use std::time::Instant;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use axum::routing::{get, post};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::error::{ApiError, json_response};
use crate::events::{Event, Inbox};
use crate::fields::Fields;
use crate::limits::HEAD_BYTES;
use crate::metrics::{Pending, Tally};
use crate::queue::State as QueueState;
use crate::reply::Reply;
use crate::site::Site;
use crate::writing::{Stream, whole};
use crate::{chat, completion, texts};

type Shared = State<Arc<Site>>;
type Answer = Response<Body>;

/// All endpoints.
pub fn routes(site: Arc<Site>) -> Router {
    Router::new()
        .route("/", get(show_page))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/v1/models", get(models))
        .route("/v1/models/{*name}", get(model))
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(complete))
        .route("/v1/embeddings", post(embed))
        .route("/v1/score", post(score))
        .route("/v1/tokenize", post(tokenize))
        .route("/v1/adapters", post(load))
        .route("/v1/adapters/{name}", axum::routing::delete(unload))
        .route("/views/{name}", post(view))
        .fallback(|| async {
            let message =
                "there is nothing at this path; the API is below /v1, as in POST /v1/chat/completions";
            ApiError::new(StatusCode::NOT_FOUND, message).response()
        })
        .method_not_allowed_fallback(|method: Method| async move {
            let message = format!("this path does not take {method}");
            // What it takes is known to the router alone: see `with_methods`.
            ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).response()
        })
        .with_state(site)
}

/// Answers a request: who asks is looked at first, and a panic is an error like others.
pub async fn answer<F>(site: &Site, request: Request<Body>, route: impl FnOnce(Request<Body>) -> F) -> Answer
where
    F: Future<Output = Answer>,
{
    let method = request.method().clone();
    let tally = Tally::new(&site.metrics, endpoint(request.uri().path()));
    let is_open = ["/", "/health"].contains(&request.uri().path());
    let guard = &site.guard;
    let checked = check_head(&request).and_then(|()| guard.check_names(request.uri(), request.headers()));
    let checked = checked.and_then(|()| match is_open {
        true => Ok(()),
        false => guard.check_key(request.headers()),
    });
    let mut response = match checked {
        Err(error) => error.response(),
        Ok(()) => without_panic(route(request)).await.unwrap_or_else(|| {
            site.metrics.panics.add(1);
            ApiError::internal("a fault of the server ended this request").response()
        }),
    };
    if response.status() == StatusCode::METHOD_NOT_ALLOWED {
        response = with_methods(response, &method);
    }
    match response.extensions_mut().remove::<Pending>() {
        // What it ends with is not known yet.
        Some(pending) => *pending.lock().unwrap_or_else(PoisonError::into_inner) = Some(tally),
        None => tally.answered(response.status().as_u16()),
    }
    response
}

/// The error of a path that does not take a method, with those that it takes.
fn with_methods(response: Answer, method: &Method) -> Answer {
    let Some(allowed) = response.headers().get(header::ALLOW).cloned() else { return response };
    let taken = String::from_utf8_lossy(allowed.as_bytes()).replace(',', " or ");
    let message = format!("this path does not take {method}; send {taken}");
    let mut response = ApiError::new(StatusCode::METHOD_NOT_ALLOWED, message).response();
    response.headers_mut().insert(header::ALLOW, allowed);
    response
}

/// Refuses a head that is too large. The connection reads somewhat more than that, as it comes.
fn check_head(request: &Request<Body>) -> Result<(), ApiError> {
    let path = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    let headers =
        request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + ": \r\n".len());
    match path + headers.sum::<usize>() <= HEAD_BYTES {
        true => Ok(()),
        false => {
            let message = format!("the head of the request has more than {HEAD_BYTES} bytes; send less");
            Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, message))
        }
    }
}

/// What requests are counted by that are to no endpoint, or that cannot be read.
pub const NO_ENDPOINT: &str = "other";

/// The endpoint of a path, of which there are few, so that nobody makes the list of metrics long.
fn endpoint(path: &str) -> &'static str {
    const ALL: [&str; 11] = [
        "/",
        "/health",
        "/metrics",
        "/v1/models",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/embeddings",
        "/v1/score",
        "/v1/tokenize",
        "/v1/adapters",
        "/views",
    ];
    let below =
        |known: &&str| known.len() > 1 && path.strip_prefix(*known).is_some_and(|rest| rest.starts_with('/'));
    let found = ALL.into_iter().find(|known| path == *known);
    found.or_else(|| ALL.into_iter().find(below)).unwrap_or(NO_ENDPOINT)
}

/// What `future` comes to; `None` if it panics.
async fn without_panic<T>(future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(value)) => Poll::Ready(Some(value)),
        Err(_) => Poll::Ready(None),
    })
    .await
}

async fn show_page(State(site): Shared) -> Answer {
    let mut response = Response::new(Body::from(site.page.html.clone()));
    if let Ok(policy) = HeaderValue::from_str(&site.page.policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    let headers = [
        (header::CONTENT_TYPE, "text/html; charset=utf-8"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn health(State(site): Shared) -> Answer {
    match site.queue.state() {
        QueueState::Open => json_response(StatusCode::OK, &json!({"status": "ok"})),
        QueueState::Draining | QueueState::Ended => ApiError::ending().response(),
    }
}

async fn metrics(State(site): Shared) -> Answer {
    let text = site.metrics.text(site.queue.len(), site.models.count());
    let mut response = Response::new(Body::from(text));
    let kind = HeaderValue::from_static("text/plain; version=0.0.4");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

async fn models(State(site): Shared) -> Answer {
    json_response(StatusCode::OK, &site.models.list())
}

async fn model(State(site): Shared, Path(name): Path<String>) -> Answer {
    written(site.models.one(&name))
}

async fn chat(State(site): Shared, request: Request<Body>) -> Answer {
    answered(&site, request, chat::ask).await
}

async fn complete(State(site): Shared, request: Request<Body>) -> Answer {
    answered(&site, request, completion::ask).await
}

async fn embed(State(site): Shared, request: Request<Body>) -> Answer {
    of_texts(&site, request, texts::embed).await
}

async fn score(State(site): Shared, request: Request<Body>) -> Answer {
    of_texts(&site, request, texts::score).await
}

async fn tokenize(State(site): Shared, request: Request<Body>) -> Answer {
    let read = async {
        let body = body(&site, request).await?;
        planned(&site, move |site| chat::tokenize(site, &body)).await
    };
    written(read.await)
}

async fn load(State(site): Shared, request: Request<Body>) -> Answer {
    let load = async {
        let body = body(&site, request).await?;
        planned(&site, move |site| {
            let mut fields = Fields::of_body(&body)?;
            let (name, path) = (fields.needed_text("name")?, fields.needed_text("path")?);
            fields.finish(&[])?;
            site.models.load(&name, &path)?;
            site.models.one(&name)
        })
        .await
    };
    written(load.await)
}

/// Answers what a view of the page asks.
async fn view(State(site): Shared, Path(name): Path<String>, request: Request<Body>) -> Answer {
    let answered = async {
        if site.views.named(&name).is_none() {
            let shown: String = name.chars().take(80).collect();
            let message = format!("the page has no view `{shown}`; load the page again");
            return Err(ApiError::new(StatusCode::NOT_FOUND, message));
        }
        let body = body(&site, request).await?;
        // Held until it is answered, though the client may be gone by then.
        let turn = Arc::clone(&site.answers_view).lock_owned().await;
        planned(&site, move |site| {
            let _turn = turn;
            let question = Fields::of_body(&body)?.rest();
            let view = site.views.named(&name).ok_or_else(|| ApiError::internal("a view is gone"))?;
            (view.answer)(&question).map_err(ApiError::bad)
        })
        .await
    };
    written(answered.await)
}

async fn unload(State(site): Shared, Path(name): Path<String>) -> Answer {
    written(site.models.unload(&name).map(|()| json!({"id": name, "object": "model", "deleted": true})))
}

fn written(result: Result<Value, ApiError>) -> Answer {
    match result {
        Ok(value) => json_response(StatusCode::OK, &value),
        Err(error) => error.response(),
    }
}

/// Reads a request, sends it to the engine by `ask`, and answers whole or as a stream.
async fn answered(
    site: &Arc<Site>,
    request: Request<Body>,
    ask: impl FnOnce(&Site, &[u8], Instant) -> Result<(Reply, Inbox), ApiError> + Send + 'static,
) -> Answer {
    let arrived = Instant::now();
    let answered = async {
        let body = body(site, request).await?;
        let (reply, mut inbox) = planned(site, move |site| ask(site, &body, arrived)).await?;
        if !reply.stream {
            return Ok(json_response(StatusCode::OK, &whole(&reply, inbox).await?));
        }
        // What is wrong before the answer begins has a status of its own.
        match inbox.next().await? {
            Some(Event::Began) => Ok(streamed(Stream::new(reply, inbox))),
            _ => Err(ApiError::internal("a fault of the server ended this answer; ask again")),
        }
    };
    answered.await.unwrap_or_else(|error| error.response())
}

fn streamed(stream: Stream) -> Answer {
    let pending = stream.pending();
    let mut response = Response::new(Body::new(stream));
    response.extensions_mut().insert(pending);
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream; charset=utf-8"),
        (header::CACHE_CONTROL, "no-cache"),
        // Of nginx: pieces are not to be gathered.
        (HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

async fn of_texts(
    site: &Arc<Site>,
    request: Request<Body>,
    ask: impl FnOnce(&Site, &[u8], Instant) -> Result<(texts::Question, Inbox), ApiError> + Send + 'static,
) -> Answer {
    let arrived = Instant::now();
    let answered = async {
        let body = body(site, request).await?;
        let (question, inbox) = planned(site, move |site| ask(site, &body, arrived)).await?;
        question.answer(site, inbox).await
    };
    written(answered.await)
}

/// Does what takes time on another thread: reading JSON, writing a conversation by a template, tokenising, making a grammar.
async fn planned<T: Send + 'static>(
    site: &Arc<Site>,
    plan: impl FnOnce(&Site) -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let own = Arc::clone(site);
    tokio::task::spawn_blocking(move || plan(&own)).await.unwrap_or_else(|_| {
        site.metrics.panics.add(1);
        Err(ApiError::internal("a fault of the server ended this request"))
    })
}

/// The body of a request, within limits of size and time.
async fn body(site: &Site, request: Request<Body>) -> Result<Bytes, ApiError> {
    check_encodings(request.headers())?;
    let most = site.limits.body_bytes;
    let too_large = || {
        let message = format!("the body has more than the {most} bytes that the server takes; send less");
        ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, message)
    };
    let mut body = request.into_body();
    if body.size_hint().lower() > most as u64 {
        return Err(too_large());
    }
    let read = async {
        let mut bytes = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            let frame = frame.map_err(|_| {
                ApiError::bad("the body ended early, or its chunks are not as HTTP has them; send all of it")
            })?;
            let Some(data) = frame.data_ref() else { continue };
            if bytes.len() + data.len() > most {
                return Err(too_large());
            }
            bytes.extend_from_slice(data);
        }
        Ok(bytes.into())
    };
    timeout(site.limits.body_time, read).await.unwrap_or_else(|_| {
        let message = "the body did not come in time; send it faster";
        Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, message))
    })
}

/// Refuses a body that is not sent as it is.
fn check_encodings(headers: &HeaderMap) -> Result<(), ApiError> {
    let other = |name: &HeaderName, plain: &str| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()));
        let values: Vec<_> = values.map(|value| value.trim().to_owned()).collect();
        let is_plain = |value: &String| value.is_empty() || value.eq_ignore_ascii_case(plain);
        let is_fine = values.len() < 2 && values.iter().all(is_plain);
        (!is_fine).then(|| values.join(", ").chars().take(80).collect::<String>())
    };
    if let Some(found) = other(&header::CONTENT_ENCODING, "identity") {
        let message = format!(
            "the body is compressed (`Content-Encoding: {found}`), and this server reads plain JSON; send it without that header, \
             uncompressed"
        );
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    match other(&header::TRANSFER_ENCODING, "chunked") {
        None => Ok(()),
        Some(found) => Err(ApiError::bad(format!(
            "the body is sent with `Transfer-Encoding: {found}`, and this server takes `chunked` alone; send it so, or with \
             `Content-Length`"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_counted_by_their_endpoint() {
        for (path, expected) in [
            ("/", "/"),
            ("/v1/models", "/v1/models"),
            ("/v1/models/a/b", "/v1/models"),
            ("/v1/adapters/x", "/v1/adapters"),
            ("/v1/modelsx", "other"),
            ("/x", "other"),
            ("//", "other"),
            ("/views/runs", "/views"),
            ("/v1/chat/completions", "/v1/chat/completions"),
        ] {
            assert_eq!(endpoint(path), expected, "{path}");
        }
    }
}
