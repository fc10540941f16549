//! Owns reading a whole conversation, so that it can be kept before it is deleted.
//!
//! Must not know where it is kept. Invariants: what is exported equals what `opencode export` prints;
//! of a conversation that is too large the newest messages are exported, and that it was cut is said.

use std::time::Duration;

use reqwest::{Method, header};
use serde_json::Value;

use super::client::{Client, Error, is_json, read_body, read_json};

/// Largest export, bytes.
pub const EXPORT_BYTES_MAX: usize = 64 << 20;
/// How long reading the messages of a session may take.
const MESSAGES_TIMEOUT: Duration = Duration::from_secs(120);
/// How many messages are asked for at a time where all together are too large.
const PAGE_MESSAGES: usize = 16;
/// The header that names the page of older messages.
const NEXT_PAGE: &str = "x-next-cursor";

/// A conversation, as its server tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// `{"info": …, "messages": […]}`
    pub bytes: Vec<u8>,
    /// Whether only its newest messages fit.
    pub is_cut: bool,
}

impl Client {
    /// Exports a session of which the server has said this.
    ///
    /// # Errors
    ///
    /// Its messages can't be read.
    pub async fn export(&self, id: &str, info: &Value) -> Result<Export, Error> {
        self.export_within(id, info, EXPORT_BYTES_MAX).await
    }

    /// Exports a session in so many bytes.
    ///
    /// # Errors
    ///
    /// As [`Client::export`].
    pub async fn export_within(&self, id: &str, info: &Value, max: usize) -> Result<Export, Error> {
        let whole = self.messages(id, &[], max).await;
        let (messages, is_cut) = match whole {
            Ok((messages, _)) => (messages, false),
            Err(Error::TooLong { .. }) => (self.newest(id, max).await?, true),
            Err(error) => return Err(error),
        };
        let info = info.clone();
        let url = self.address().clone();
        let write = move || {
            let export = serde_json::json!({ "info": info, "messages": messages });
            serde_json::to_vec(&export).map_err(|error| error.to_string())
        };
        let written = tokio::task::spawn_blocking(write).await;
        let bytes = written.map_err(|error| error.to_string()).flatten();
        let bytes = bytes.map_err(|reason| Error::Foreign { url, reason })?;
        Ok(Export { bytes, is_cut })
    }

    /// Lists the sessions that were started from one.
    ///
    /// # Errors
    ///
    /// They can't be read.
    pub async fn children(&self, id: &str) -> Result<Vec<Value>, Error> {
        self.get_list(&format!("session/{id}/children"), &[]).await
    }

    /// Reads the newest messages that fit.
    async fn newest(&self, id: &str, max: usize) -> Result<Vec<Value>, Error> {
        let (mut newest_first, mut left) = (Vec::new(), max);
        let (mut before, mut limit) = (None::<String>, PAGE_MESSAGES);
        loop {
            let count = limit.to_string();
            let mut query = vec![("limit", count.as_str())];
            query.extend(before.as_deref().map(|before| ("before", before)));
            let (page, next) = match self.messages(id, &query, left).await {
                // One by one up to the one that is too large.
                Err(Error::TooLong { .. }) if limit > 1 => {
                    limit = 1;
                    continue;
                }
                Err(Error::TooLong { .. }) => break,
                other => other?,
            };
            let size: usize = page.iter().map(|message| message.to_string().len() + 1).sum();
            left = left.saturating_sub(size);
            newest_first.extend(page.into_iter().rev());
            match next {
                Some(next) if before.as_ref() != Some(&next) => before = Some(next),
                _ => break,
            }
        }
        newest_first.reverse();
        Ok(newest_first)
    }

    /// Reads messages, and what names the page before them.
    async fn messages(
        &self,
        id: &str,
        query: &[(&str, &str)],
        max: usize,
    ) -> Result<(Vec<Value>, Option<String>), Error> {
        let (url, request) = self.request(Method::GET, &format!("session/{id}/message"), query);
        let request = request.timeout(MESSAGES_TIMEOUT).header(header::ACCEPT, "application/json");
        let response = self.send(&url, request).await?;
        if !is_json(&response) {
            return Err(Error::Foreign { url, reason: "it answers with no JSON".to_owned() });
        }
        let next = response.headers().get(NEXT_PAGE).and_then(|next| next.to_str().ok());
        let next = next.filter(|next| !next.is_empty()).map(str::to_owned);
        let body = read_body(&url, response, max).await?;
        let read = tokio::task::spawn_blocking(move || read_json(&body.concat())).await;
        let read = read.map_err(|error| error.to_string()).flatten();
        match read {
            Ok(Value::Array(messages)) => Ok((messages, next)),
            Ok(_) => Err(Error::Foreign { url, reason: "it answers with no list".to_owned() }),
            Err(reason) => Err(Error::Foreign { url, reason }),
        }
    }
}
