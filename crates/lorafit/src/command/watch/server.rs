//! HTTP for one page: requests are small, answers are text, and a stream of server-sent events (WHATWG HTML, 9.2) brings news.
//!
//! Who may ask: whatever runs on this machine may connect, other sites in its browser among them. A `Host` that is not this
//! server's is refused, so that no name of another site can be bent to this address; whoever answers checks a token before
//! it changes anything.

use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A request may take so many bytes, its body among them.
const LARGEST: usize = 16 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// Connections at once.
const CONNECTIONS: usize = 64;
/// Time for a request to arrive and for an answer to leave.
const PATIENCE: Duration = Duration::from_secs(5);
/// A sign of life in a stream of events, by which a reader that has left is noticed.
const SIGN_OF_LIFE: Duration = Duration::from_secs(10);

/// What somebody asks for.
pub struct Request {
    /// `GET` and so on.
    pub method: String,
    /// Without a query.
    pub path: String,
    /// The header `X-Lorafit-Token`.
    pub token: Option<String>,
    /// Text.
    pub body: String,
    host: Option<String>,
    origin: Option<String>,
}

/// What is answered.
pub enum Answer {
    /// A status, a type and a content.
    Whole(u16, &'static str, String),
    /// The stream of events.
    Events,
}

impl Answer {
    /// An HTML page.
    pub fn page(html: String) -> Self {
        Answer::Whole(200, "text/html; charset=utf-8", html)
    }

    /// A sentence.
    pub fn text(status: u16, text: impl Into<String>) -> Self {
        Answer::Whole(status, "text/plain; charset=utf-8", text.into())
    }
}

/// The last news of each kind. Whoever comes later gets them first.
#[derive(Default)]
pub struct Feed {
    news: Mutex<Vec<News>>,
    sent: Condvar,
}

/// An event: how many were sent before, its kind and its data.
#[derive(Clone)]
struct News(u64, &'static str, String);

impl Feed {
    /// Sends `data`, a line, to all readers, in place of earlier data of the kind.
    pub fn send(&self, kind: &'static str, data: &str) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let number = news.iter().map(|News(number, ..)| number + 1).max().unwrap_or(1);
        news.retain(|News(_, known, _)| *known != kind);
        news.push(News(number, kind, data.to_owned()));
        self.sent.notify_all();
    }

    /// What was sent after number `after`; empty if that is nothing for as long as `patience`.
    fn after(&self, after: u64, patience: Duration) -> Vec<News> {
        let news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        let is_old = |news: &mut Vec<News>| news.iter().all(|News(number, ..)| *number <= after);
        let waited = self.sent.wait_timeout_while(news, patience, is_old);
        let (news, _) = waited.unwrap_or_else(PoisonError::into_inner);
        news.iter().filter(|News(number, ..)| *number > after).cloned().collect()
    }
}

/// A server on 127.0.0.1.
pub struct Server {
    /// Its port.
    pub port: u16,
    /// Its events.
    pub feed: Arc<Feed>,
    /// What it answers.
    pub answer: Box<dyn Fn(&Request) -> Answer + Send + Sync>,
}

impl Server {
    /// Answers until `tick`, which is called that often, says no. Connections are answered on threads of their own.
    ///
    /// # Errors
    /// A listener that fails.
    pub fn serve(
        self,
        listener: &TcpListener,
        every: Duration,
        tick: &mut dyn FnMut() -> bool,
    ) -> io::Result<()> {
        /// Time between two looks for somebody who connects.
        const PAUSE: Duration = Duration::from_millis(20);
        listener.set_nonblocking(true)?;
        let (server, open) = (Arc::new(self), Arc::new(AtomicUsize::new(0)));
        let mut last: Option<Instant> = None;
        loop {
            if last.is_none_or(|last| last.elapsed() >= every) {
                if !tick() {
                    return Ok(());
                }
                last = Some(Instant::now());
            }
            match listener.accept() {
                Ok((stream, _)) => {
                    let (server, open) = (Arc::clone(&server), Arc::clone(&open));
                    let number = open.fetch_add(1, Ordering::SeqCst);
                    std::thread::spawn(move || {
                        // Somebody who leaves in the middle is no error of ours.
                        let _ = server.connection(stream, number);
                        open.fetch_sub(1, Ordering::SeqCst);
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::thread::sleep(PAUSE),
                Err(error) if is_of_one_connection(&error) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn connection(&self, mut stream: TcpStream, number: usize) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let answer = match Request::read(&mut stream) {
            _ if number >= CONNECTIONS => Answer::text(503, "too many connections\n"),
            Ok(request) if !request.is_for(self.port) => {
                Answer::text(403, format!("ask for http://127.0.0.1:{}/\n", self.port))
            }
            Ok(request) => (self.answer)(&request),
            Err(refused) => Answer::text(refused?, "this request cannot be read\n"),
        };
        match answer {
            Answer::Whole(status, kind, content) => whole(&mut stream, status, kind, &content),
            Answer::Events => self.events(&mut stream),
        }
    }

    /// Sends events until nobody reads them.
    fn events(&self, stream: &mut TcpStream) -> io::Result<()> {
        write!(stream, "{}Content-Type: text/event-stream\r\n\r\n", head(200))?;
        let mut last = 0;
        loop {
            let news = self.feed.after(last, SIGN_OF_LIFE);
            if news.is_empty() {
                stream.write_all(b": still here\n\n")?;
            }
            for News(number, kind, data) in news {
                write!(stream, "event: {kind}\ndata: {data}\n\n")?;
                last = last.max(number);
            }
            stream.flush()?;
        }
    }
}

/// Whether accepting may go on after this error.
fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    [ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted].contains(&error.kind())
}

fn whole(stream: &mut TcpStream, status: u16, kind: &str, content: &str) -> io::Result<()> {
    let length = content.len();
    write!(stream, "{}Content-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{content}", head(status))?;
    stream.flush()
}

/// The first lines of every answer. No other site may frame it, read it or keep it.
fn head(status: u16) -> String {
    let reason = match status {
        200 => "OK",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        409 => "Conflict",
        413 => "Content Too Large",
        503 => "Service Unavailable",
        _ => "Internal Server Error",
    };
    format!(
        "HTTP/1.1 {status} {reason}\r\nConnection: close\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
         Content-Security-Policy: frame-ancestors 'none'\r\nCross-Origin-Resource-Policy: same-origin\r\n\
         Referrer-Policy: no-referrer\r\n"
    )
}

impl Request {
    /// Reads a request; the error is the status to answer with, or why nothing can be answered.
    fn read(stream: &mut TcpStream) -> Result<Self, io::Result<u16>> {
        let (mut bytes, mut piece) = (Vec::new(), [0; 4096]);
        loop {
            match Self::parse(&bytes) {
                Ok(Some(request)) => return Ok(request),
                Ok(None) if bytes.len() >= LARGEST => return Err(Ok(413)),
                Ok(None) => {}
                Err(status) => return Err(Ok(status)),
            }
            match stream.read(&mut piece) {
                Ok(0) => return Err(Err(io::ErrorKind::UnexpectedEof.into())),
                Ok(read) => bytes.extend_from_slice(&piece[..read]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Err(error)),
            }
        }
    }

    /// The request in `bytes`, if it is whole.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, u16> {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut found = httparse::Request::new(&mut headers);
        let httparse::Status::Complete(body) = found.parse(bytes).map_err(|_| 400_u16)? else {
            return Ok(None);
        };
        let header = |name: &str| {
            let header = found.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
            Some(String::from_utf8_lossy(header.value).into_owned())
        };
        let length = match header("content-length") {
            Some(length) => length.trim().parse::<usize>().map_err(|_| 400_u16)?,
            None => 0,
        };
        if length > LARGEST - body.min(LARGEST) {
            return Err(413);
        }
        let Some(content) = bytes.get(body..body + length) else { return Ok(None) };
        let path = found.path.unwrap_or("/");
        Ok(Some(Request {
            method: found.method.unwrap_or_default().to_owned(),
            path: path.split_once('?').map_or(path, |(path, _)| path).to_owned(),
            token: header("x-lorafit-token"),
            body: String::from_utf8_lossy(content).into_owned(),
            host: header("host"),
            origin: header("origin"),
        }))
    }

    /// Whether it asks this server by one of its own names, and comes from no other site.
    fn is_for(&self, port: u16) -> bool {
        let hosts = [format!("127.0.0.1:{port}"), format!("localhost:{port}")];
        let is_own = |host: &str| hosts.iter().any(|own| own == host);
        let of_host = self.host.as_deref().is_some_and(is_own);
        let origin = self.origin.as_deref().map(|origin| origin.strip_prefix("http://"));
        of_host && origin.is_none_or(|origin| origin.is_some_and(is_own))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(text: &str) -> Result<Option<Request>, u16> {
        Request::parse(text.replace('\n', "\r\n").as_bytes())
    }

    #[test]
    fn a_request_is_read_once_it_is_whole() {
        let text = "POST /stop?x HTTP/1.1\nHost: 127.0.0.1:80\nx-LORAFIT-token: t\nContent-Length: 4\n\nruns";
        for length in 0..text.len() {
            assert!(request(&text[..length]).unwrap().is_none(), "{length}");
        }
        let found = request(text).unwrap().unwrap();
        assert_eq!(
            (found.method.as_str(), found.path.as_str(), found.body.as_str()),
            ("POST", "/stop", "runs")
        );
        assert_eq!(found.token.as_deref(), Some("t"));
        assert!(matches!(request("no request\n\n"), Err(400)));
        assert!(matches!(request("POST / HTTP/1.1\nContent-Length: 99999999999\n\n"), Err(413)));
        assert!(matches!(request("POST / HTTP/1.1\nContent-Length: -1\n\n"), Err(400)));
    }

    #[test]
    fn another_host_or_site_is_refused() {
        for (headers, is_for) in [
            ("Host: 127.0.0.1:8470", true),
            ("Host: localhost:8470\nOrigin: http://localhost:8470", true),
            ("Host: example.com:8470", false),
            ("Host: 127.0.0.1:8471", false),
            ("Host: 127.0.0.1:8470\nOrigin: http://example.com", false),
            ("Host: 127.0.0.1:8470\nOrigin: null", false),
            ("Accept: text/html", false),
        ] {
            let found = request(&format!("GET / HTTP/1.1\n{headers}\n\n")).unwrap().unwrap();
            assert_eq!(found.is_for(8470), is_for, "{headers}");
        }
    }

    #[test]
    fn a_reader_gets_the_last_of_each_kind_and_then_what_is_new() {
        let feed = Feed::default();
        feed.send("states", "1");
        feed.send("curves", "2");
        feed.send("states", "3");
        let told = |after| {
            let news = feed.after(after, Duration::ZERO);
            let last = news.iter().map(|News(number, ..)| *number).max().unwrap_or(after);
            (last, news.into_iter().map(|News(_, kind, data)| format!("{kind} {data}")).collect::<Vec<_>>())
        };
        let (last, first) = told(0);
        assert_eq!(first, ["curves 2", "states 3"]);
        assert!(told(last).1.is_empty());
        feed.send("curves", "4");
        assert_eq!(told(last).1, ["curves 4"]);
    }
}
