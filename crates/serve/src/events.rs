//! What becomes of a request, on its way from the engine's thread to the client: a bounded channel, and a place for the error that
//! ends it. The engine never waits for a reader: a reader that is too slow loses its answer and gets an error that says so.

use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use axum::http::StatusCode;
use tokio::sync::mpsc;

use crate::error::ApiError;
use crate::sampler::Chosen;

/// Something that happened to a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// It is not in the queue any more.
    Began,
    /// More text of answer `index`, with the tokens that it is of if their log-probabilities are asked for.
    Piece {
        /// Which answer.
        index: usize,
        /// The text, which may be empty.
        text: String,
        /// Its tokens.
        tokens: Vec<Chosen>,
    },
    /// Answer `index` is over.
    Ended(Ending),
    /// The result for text `index`.
    Values {
        /// Which text.
        index: usize,
        /// The numbers.
        values: Vec<f32>,
    },
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ending {
    /// Which answer.
    pub index: usize,
    /// Why.
    pub reason: Reason,
    /// Its tokens.
    pub tokens: usize,
    /// Tokens of its prompt that were computed before for another request; 0 for an answer that is not the first to its prompt.
    pub cached: usize,
}

/// Why an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The model ended it, or a stop string.
    Stop,
    /// It is as long as it may be.
    Length,
}

/// The engine's end.
#[derive(Clone, Debug)]
pub struct Outbox {
    sender: mpsc::Sender<Event>,
    fault: Arc<OnceLock<ApiError>>,
}

/// The client's end. Dropping it cancels the request.
#[derive(Debug)]
pub struct Inbox {
    receiver: mpsc::Receiver<Event>,
    fault: Arc<OnceLock<ApiError>>,
}

/// Both ends of a channel in which `most` events may wait for their reader.
pub fn channel(most: usize) -> (Outbox, Inbox) {
    let (sender, receiver) = mpsc::channel(most);
    let fault = Arc::new(OnceLock::new());
    (Outbox { sender, fault: Arc::clone(&fault) }, Inbox { receiver, fault })
}

impl Outbox {
    /// Hands an event on.
    pub fn send(&self, event: Event) {
        if let Err(mpsc::error::TrySendError::Full(_)) = self.sender.try_send(event) {
            let message = "the answer was ended because the client reads it too slowly";
            self.fail(ApiError::new(StatusCode::REQUEST_TIMEOUT, message).code("slow_reader"));
        }
    }

    /// Ends the request with an error, unless it has one.
    pub fn fail(&self, error: ApiError) {
        // The first error is what happened; others follow from it.
        let _ = self.fault.set(error);
    }

    /// Whether the client is gone.
    pub fn is_unread(&self) -> bool {
        self.sender.is_closed()
    }

    /// Whether nobody wants more of it: the client is gone, or an error ended it.
    pub fn is_over(&self) -> bool {
        self.is_unread() || self.fault.get().is_some()
    }
}

impl Inbox {
    /// The next event; `None` after the last.
    ///
    /// # Errors
    /// What ended the request.
    pub async fn next(&mut self) -> Result<Option<Event>, ApiError> {
        std::future::poll_fn(|context| self.poll_next(context)).await
    }

    /// What ended the request, if something did.
    pub fn fault(&self) -> Option<&ApiError> {
        self.fault.get()
    }

    /// As [`Inbox::next`].
    pub fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Event>, ApiError>> {
        self.receiver.poll_recv(context).map(|event| match (event, self.fault.get()) {
            (Some(event), _) => Ok(Some(event)),
            (None, Some(fault)) => Err(fault.clone()),
            (None, None) => Ok(None),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(inbox: &mut Inbox) -> Poll<Result<Option<Event>, ApiError>> {
        inbox.poll_next(&mut Context::from_waker(std::task::Waker::noop()))
    }

    #[test]
    fn who_reads_too_slowly_loses_the_answer_and_is_told_after_what_there_is() {
        let (outbox, mut inbox) = channel(2);
        let piece = |text: &str| Event::Piece { index: 0, text: text.to_owned(), tokens: Vec::new() };
        for text in ["a", "b"] {
            outbox.send(piece(text));
            assert!(!outbox.is_over());
        }
        outbox.send(piece("c"));
        assert!(outbox.is_over() && !outbox.is_unread());
        drop(outbox);
        assert_eq!(take(&mut inbox), Poll::Ready(Ok(Some(piece("a")))));
        assert_eq!(take(&mut inbox), Poll::Ready(Ok(Some(piece("b")))));
        let Poll::Ready(Err(error)) = take(&mut inbox) else { panic!("no error") };
        assert_eq!((error.status.as_u16(), error.code), (408, Some("slow_reader")));
    }

    #[test]
    fn the_first_error_is_the_one_that_is_told_and_a_client_that_is_gone_is_seen() {
        let (outbox, mut inbox) = channel(1);
        outbox.fail(ApiError::internal("first"));
        outbox.fail(ApiError::internal("second"));
        drop(outbox);
        assert_eq!(take(&mut inbox), Poll::Ready(Err(ApiError::internal("first"))));
        let (outbox, inbox) = channel(1);
        assert!(!outbox.is_unread());
        drop(inbox);
        assert!(outbox.is_unread() && outbox.is_over());
    }
}
