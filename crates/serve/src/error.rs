//! Errors that a client gets: OpenAI's error object. Its message says what to change.

use axum::body::Body;
use axum::http::{HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// The HTTP status.
    pub status: StatusCode,
    /// The message: what is wrong, and what the client should change.
    pub message: String,
    /// The field of the request that is to blame.
    pub field: Option<String>,
    /// A word for programs.
    pub code: Option<&'static str>,
}

/// Seconds after which a client that was refused for lack of room may ask again.
pub const RETRY_AFTER: &str = "2";

impl ApiError {
    /// An error of this status.
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        ApiError { status, message: message.into(), field: None, code: None }
    }

    /// A request that cannot be answered as it is.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    /// A field that cannot be as it is; `rule` follows its name.
    pub fn field(name: &str, rule: impl AsRef<str>) -> Self {
        let message = format!("`{name}` {}", rule.as_ref());
        ApiError { field: Some(name.to_owned()), ..Self::bad(message) }
    }

    /// A fault of the server.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, message)
    }

    /// A server that is ending.
    pub fn ending() -> Self {
        let message = "the server is shutting down and takes no new requests; send the request to another";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("server_ending")
    }

    /// An answer that the end of the server cut.
    pub fn cut() -> Self {
        let message = "the server ended before the answer did; send the request again";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, message).code("answer_cut")
    }

    /// Results of a model, with an adapter at `strength`, that are no numbers.
    pub fn not_numbers(strength: f64) -> Self {
        if strength.abs() > 1.0 {
            let rule = format!(
                "has an adapter at {strength} times its strength, which is too large: the results are not numbers; give \
                 a smaller strength"
            );
            return Self::field("model", rule).code("strength_too_large");
        }
        Self::internal("the model's results are not numbers; its weights or the adapter's are damaged")
    }

    /// With a word for programs.
    #[must_use]
    pub fn code(self, code: &'static str) -> Self {
        ApiError { code: Some(code), ..self }
    }

    /// OpenAI's error object.
    pub fn json(&self) -> Value {
        let kind = match self.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            StatusCode::NOT_FOUND => "not_found_error",
            StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        };
        json!({"error": {"message": self.message, "type": kind, "param": self.field, "code": self.code}})
    }

    /// The error as an answer.
    pub fn response(&self) -> Response<Body> {
        let mut response = json_response(self.status, &self.json());
        let headers = response.headers_mut();
        if [StatusCode::TOO_MANY_REQUESTS, StatusCode::SERVICE_UNAVAILABLE].contains(&self.status) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// An answer in JSON.
pub fn json_response(status: StatusCode, value: &Value) -> Response<Body> {
    let mut response = Response::new(Body::from(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
