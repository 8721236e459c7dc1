//! Who may ask: keys, and the names by which the server may be called. A page of another site that a browser shows can send requests
//! to this machine, and can make its own name lead here (DNS rebinding); both say their names in `Host` or `Origin`.

use std::net::IpAddr;

use axum::http::{HeaderMap, HeaderName, StatusCode, Uri, header};

use crate::error::ApiError;

/// The shortest key; shorter ones can be guessed.
pub const SHORTEST_KEY: usize = 16;

/// Checks every request before anything else reads it.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    /// Keys of which a request needs one; none for none.
    pub keys: Vec<String>,
    /// Names of this server beside addresses and `localhost`.
    pub hosts: Vec<String>,
}

impl Guard {
    /// Keys, one a line; empty lines and those that begin with `#` are none.
    ///
    /// # Errors
    /// A key that is too short, one that cannot stand in a header, and none at all.
    pub fn keys_of(text: &str) -> Result<Vec<String>, String> {
        let lines = text.lines().map(str::trim).enumerate();
        let lines = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        let key = |(index, line): (usize, &str)| {
            if line.len() < SHORTEST_KEY {
                let found = line.len();
                return Err(format!(
                    "line {}: the key has {found} letters, and {SHORTEST_KEY} is the least",
                    index + 1
                ));
            }
            match line.bytes().all(|byte| byte.is_ascii_graphic()) {
                true => Ok(line.to_owned()),
                false => Err(format!("line {}: a key has ASCII letters, digits and signs only", index + 1)),
            }
        };
        let keys: Vec<String> = lines.map(key).collect::<Result<_, _>>()?;
        match keys.is_empty() {
            true => Err("there is no key in it".to_owned()),
            false => Ok(keys),
        }
    }

    /// Refuses a request that calls the server by a name that is not its own, or that a page of another site sends.
    ///
    /// # Errors
    /// As it says.
    pub fn check_names(&self, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
        let host = one(headers, &header::HOST)?
            .ok_or_else(|| ApiError::bad("the request has no `Host` header; send one"))?;
        let forbidden =
            |message: String| Err(ApiError::new(StatusCode::FORBIDDEN, message).code("wrong_host"));
        for name in [Some(host), uri.authority().map(|authority| authority.as_str())].into_iter().flatten() {
            if !self.is_own(name) {
                let shown: String = name.chars().take(80).collect();
                return forbidden(format!(
                    "the server is not called `{shown}` (header `Host`); use its address, or allow this name when the server is started"
                ));
            }
        }
        let Some(origin) = one(headers, &header::ORIGIN)? else { return Ok(()) };
        let site = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
        match site.is_some_and(|site| site.eq_ignore_ascii_case(host)) {
            true => Ok(()),
            false => forbidden("pages of other sites may not use this server (header `Origin`)".to_owned()),
        }
    }

    /// Whether the server is called so: an address, which no site can make its own, `localhost`, or a name that was given.
    fn is_own(&self, host: &str) -> bool {
        let without_port = match host.strip_prefix('[') {
            Some(rest) => match rest.split_once(']') {
                Some((address, port)) if port.is_empty() || is_port(port) => address,
                _ => return false,
            },
            None => match host.split_once(':') {
                Some((name, port)) if is_port(&format!(":{port}")) => name,
                Some(_) => return false,
                None => host,
            },
        };
        let names = self.hosts.iter().map(String::as_str).chain(["localhost"]);
        without_port.parse::<IpAddr>().is_ok()
            || names.into_iter().any(|name| name.eq_ignore_ascii_case(without_port))
    }

    /// Refuses a request without one of the keys, if there are any.
    ///
    /// # Errors
    /// As it says.
    pub fn check_key(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let refused =
            |message: &str| Err(ApiError::new(StatusCode::UNAUTHORIZED, message).code("invalid_api_key"));
        let Some(given) = one(headers, &header::AUTHORIZATION)? else {
            return refused("a key is needed; send `Authorization: Bearer KEY`");
        };
        let is_bearer = given.get(..7).is_some_and(|scheme| scheme.eq_ignore_ascii_case("bearer "));
        let given = if is_bearer { given[7..].trim() } else { "" };
        // Every key is looked at, and all of it, so that the time says nothing.
        let fits = self.keys.iter().fold(false, |fits, key| fits | equal(key.as_bytes(), given.as_bytes()));
        match fits {
            true => Ok(()),
            false => refused(
                "the key is not one of this server's; send `Authorization: Bearer KEY` with one that is",
            ),
        }
    }
}

/// The value of a header that may be there once.
fn one<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h str>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let first = values.next();
    if values.next().is_some() {
        return Err(ApiError::bad(format!("the request has two `{name}` headers; send one")));
    }
    let text = first.map(|value| value.to_str()).transpose();
    text.map_err(|_| ApiError::bad(format!("the header `{name}` is not ASCII text")))
}

fn is_port(text: &str) -> bool {
    text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok() && !port.starts_with('+'))
}

/// Whether two texts are equal, in a time that depends on the length of `given` alone.
fn equal(key: &[u8], given: &[u8]) -> bool {
    let mut differs = u8::from(key.len() != given.len());
    for (at, byte) in given.iter().enumerate() {
        differs |= byte ^ key[at % key.len()];
    }
    std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        let pair = |(name, value): &(HeaderName, &str)| (name.clone(), HeaderValue::from_str(value).unwrap());
        let mut map = HeaderMap::new();
        pairs.iter().map(pair).for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    #[test]
    fn names_of_others_are_refused() {
        let guard = Guard { hosts: vec!["llm.example".to_owned()], ..Guard::default() };
        for host in [
            "127.0.0.1:8080",
            "localhost",
            "LOCALHOST:1",
            "[::1]:8080",
            "[::1]",
            "10.0.0.7",
            "llm.example:443",
        ] {
            assert!(guard.is_own(host), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil",
            "localhost:",
            "localhost:x",
            "[::1",
            "::1",
            "[::1]x",
            "localhost:80:80",
            "llm.example.evil",
            "user@localhost",
            "localhost:+80",
        ] {
            assert!(!guard.is_own(host), "{host}");
        }
    }

    #[test]
    fn pages_of_other_sites_are_refused() {
        let guard = Guard::default();
        let check = |pairs: &[(HeaderName, &str)]| {
            guard.check_names(&Uri::from_static("/v1/models"), &headers(pairs)).map_err(|e| e.status.as_u16())
        };
        let host = (header::HOST, "127.0.0.1:8080");
        assert_eq!(check(std::slice::from_ref(&host)), Ok(()));
        assert_eq!(check(&[host.clone(), (header::ORIGIN, "http://127.0.0.1:8080")]), Ok(()));
        for origin in
            ["null", "http://evil.example", "http://127.0.0.1:9090", "file://", "127.0.0.1:8080", ""]
        {
            assert_eq!(check(&[host.clone(), (header::ORIGIN, origin)]), Err(403), "{origin}");
        }
        assert_eq!(check(&[]), Err(400));
        assert_eq!(check(&[host.clone(), host.clone()]), Err(400));
        assert_eq!(check(&[(header::HOST, "evil.example")]), Err(403));
        let absolute = Uri::from_static("http://evil.example/v1/models");
        assert!(guard.check_names(&absolute, &headers(&[host])).is_err());
    }

    #[test]
    fn keys_are_compared_whole() {
        let key = "0123456789abcdef";
        let guard = Guard { keys: vec!["x".repeat(20), key.to_owned()], ..Guard::default() };
        let check = |value: &str| guard.check_key(&headers(&[(header::AUTHORIZATION, value)])).is_ok();
        assert!(check(&format!("Bearer {key}")) && check(&format!("bearer  {key}")));
        for wrong in
            ["", "Bearer", "Bearer ", key, &format!("Bearer {key}0"), "Bearer 0123456789abcde", "Basic x"]
        {
            assert!(!check(wrong), "{wrong}");
        }
        // A text that repeats the key is none.
        assert!(!check(&format!("Bearer {key}{key}")));
        assert!(guard.check_key(&HeaderMap::new()).is_err());
        assert!(Guard::default().check_key(&HeaderMap::new()).is_ok());
    }

    #[test]
    fn a_file_of_keys_has_one_a_line() {
        let text = "# of the team\n0123456789abcdef\n\n  fedcba9876543210  \n";
        assert_eq!(Guard::keys_of(text).unwrap(), ["0123456789abcdef", "fedcba9876543210"]);
        for text in ["", "# none\n", "short\n", "0123456789abcdef g"] {
            assert!(Guard::keys_of(text).is_err(), "{text}");
        }
    }
}
