//! Owns who may pass: the one layer in front of every route and of what is not a route.
//!
//! Must not know what a route does. Invariant: nothing behind it runs for a request that names a
//! foreign host, comes from a foreign page, lacks the token where the route asks for one, or is one
//! too many.

use axum::{
    body::HttpBody as _,
    extract::{MatchedPath, Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, request::Parts},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use data_encoding::BASE64;

use super::{Shared, body, problem::Error, routes};
use crate::identity::Token;

/// The user name that goes with the token in Basic authentication.
pub const BASIC_USER: &str = "sessionmesh";

/// The listener through which a request came; a request without it is taken for one by TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Via {
    /// Loopback TCP, which a browser can reach, too.
    Tcp,
    /// The Unix socket, whose client runs as the same user: its `Host` means nothing.
    Unix,
}

/// Lets a request through or refuses it, and counts it either way.
pub(super) async fn pass(State(shared): State<Shared>, request: Request, next: Next) -> Response {
    let (parts, body) = request.into_parts();
    let method = parts.method.clone();
    let route = parts.extensions.get::<MatchedPath>().map(|path| path.as_str().to_owned());
    let has_body = body.size_hint().upper() != Some(0);
    let mut response =
        match check(&shared.token, &parts, has_body).and_then(|open| is_due(&shared, open)) {
            Ok(()) => next.run(Request::from_parts(parts, body)).await,
            Err(refused) => {
                tracing::debug!(%method, path = parts.uri.path(), %refused, "refused a request");
                refused.into_response()
            }
        };
    let headers = response.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    shared.counters.request(&method, route.as_deref(), response.status());
    response
}

/// Counts a request that would pass. What is refused before this, or says no more than that the
/// daemon is there, costs no more than saying that there are too many.
fn is_due(shared: &Shared, is_open: bool) -> Result<(), Error> {
    if is_open || shared.bucket.take() { Ok(()) } else { Err(Error::TooManyRequests) }
}

/// Tells whether a request is for an open route, unless it may not pass.
fn check(token: &Token, parts: &Parts, has_body: bool) -> Result<bool, Error> {
    let via = parts.extensions.get().copied().unwrap_or(Via::Tcp);
    let host = single(&parts.headers, &header::HOST).map_err(|()| Error::ForeignHost)?;
    if via == Via::Tcp && !(host.is_some_and(is_loopback) && authority_is_loopback(&parts.uri)) {
        return Err(Error::ForeignHost);
    }
    let origin = single(&parts.headers, &header::ORIGIN).map_err(|()| Error::ForeignOrigin)?;
    if !origin.is_none_or(|origin| is_same_origin(origin, host)) {
        return Err(Error::ForeignOrigin);
    }
    if routes::is_open(parts.uri.path()) {
        return Ok(true);
    }
    if !is_authorized(token, &parts.headers) {
        return Err(Error::Unauthorized);
    }
    // A type that is declared must be JSON even where the body is empty: a form of a foreign page
    // can't declare it.
    let reads_only = matches!(parts.method, Method::GET | Method::HEAD | Method::OPTIONS);
    if !reads_only && !body::declares_json(parts).unwrap_or(!has_body) {
        return Err(Error::NotJson);
    }
    Ok(false)
}

/// Returns a header that must not be there twice: two readers might choose differently.
fn single<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, ()> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value.to_str().map(Some).map_err(|_| ()),
        (Some(_), Some(_)) => Err(()),
    }
}

/// A request target may name a host of its own, which goes before the header (RFC 9112, 3.2.2).
fn authority_is_loopback(uri: &Uri) -> bool {
    uri.authority().is_none_or(|authority| is_loopback(authority.as_str()))
}

/// Tells whether `HOST[:PORT]` names this machine. Any port: `ssh -L` brings another one.
fn is_loopback(host: &str) -> bool {
    ["localhost", "127.0.0.1", "[::1]"].iter().any(|name| {
        let split = host.split_at_checked(name.len());
        split.is_some_and(|(start, rest)| {
            let port = rest.strip_prefix(':').map(|port| port.parse::<u16>().is_ok());
            start.eq_ignore_ascii_case(name) && (rest.is_empty() || port == Some(true))
        })
    })
}

/// A page of another port of this machine is a foreign one: any program may serve it.
fn is_same_origin(origin: &str, host: Option<&str>) -> bool {
    let authority = origin.strip_prefix("http://");
    authority.zip(host).is_some_and(|(authority, host)| {
        is_loopback(authority) && authority.eq_ignore_ascii_case(host)
    })
}

fn is_authorized(token: &Token, headers: &HeaderMap) -> bool {
    let Ok(Some(value)) = single(headers, &header::AUTHORIZATION) else { return false };
    let Some((scheme, rest)) = value.split_once(' ') else { return false };
    if scheme.eq_ignore_ascii_case("bearer") {
        return token.matches(rest.trim().as_bytes());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return false;
    }
    let Ok(pair) = BASE64.decode(rest.trim().as_bytes()) else { return false };
    pair.strip_prefix(BASIC_USER.as_bytes())
        .and_then(|pair| pair.strip_prefix(b":"))
        .is_some_and(|secret| token.matches(secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_names_of_the_loopback_are_this_machine() {
        for host in ["localhost", "LOCALHOST:1", "127.0.0.1:7178", "[::1]", "[::1]:65535"] {
            assert!(is_loopback(host), "{host} was refused");
        }
        for host in [
            "",
            "localhost.evil.example",
            "localhost:",
            "localhost:x",
            "localhost:1@evil.example",
            "evil.example",
            "127.0.0.1.nip.io",
            "127.0.0.2",
            "0.0.0.0",
            "::1",
            "[::1].evil",
            "héé",
        ] {
            assert!(!is_loopback(host), "{host} was let through");
        }
    }

    #[test]
    fn an_origin_is_the_same_only_with_scheme_name_and_port() {
        let host = Some("localhost:7178");
        assert!(is_same_origin("http://localhost:7178", host));
        for origin in [
            "null",
            "https://localhost:7178",
            "http://localhost:3000",
            "http://127.0.0.1:7178",
            "http://evil.example",
            "localhost:7178",
        ] {
            assert!(!is_same_origin(origin, host), "{origin} was let through");
        }
        assert!(!is_same_origin("http://evil.example", Some("evil.example")));
    }

    #[test]
    fn the_token_is_taken_as_bearer_and_as_password_and_nothing_else_is() {
        let token = Token::generate();
        let text = token.as_str();
        let authorized = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, value.parse().unwrap());
            is_authorized(&token, &headers)
        };
        let basic = |pair: &str| format!("Basic {}", BASE64.encode(pair.as_bytes()));
        assert!(authorized(&format!("Bearer {text}")) && authorized(&format!("bearer {text}")));
        assert!(authorized(&basic(&format!("sessionmesh:{text}"))));
        let (short, digest) = (format!("Bearer {}", &text[1..]), format!("Digest {text}"));
        for value in [&short, "Bearer ", "Bearer", text, &digest, "Basic !"] {
            assert!(!authorized(value), "{value} was let through");
        }
        let (other, glued) = (format!("root:{text}"), format!("sessionmesh{text}"));
        for pair in [&other, "sessionmesh:", &glued, text] {
            assert!(!authorized(&basic(pair)), "{pair} was let through");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, format!("Bearer {text}").parse().unwrap());
        twice.append(header::AUTHORIZATION, "Bearer x".parse().unwrap());
        assert!(!is_authorized(&token, &twice));
    }
}
