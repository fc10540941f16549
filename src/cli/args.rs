//! Owns the arguments that several verbs share, and the reading of them.
//!
//! Must not know verbs. Invariant: what can't be meant is refused before anything is asked.

use std::{collections::BTreeMap, time::Duration};

use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::de::{DeserializeOwned, IntoDeserializer};

use crate::config;

/// Whether a program reads the result.
#[derive(Debug, Clone, Copy, Args)]
pub struct Json {
    /// Print the daemon's answer as JSON
    #[arg(long)]
    pub json: bool,
}

/// Fields that a record has beside its own.
#[derive(Debug, Clone, Default, Args)]
pub struct SetExtra {
    /// A free field; may be repeated
    #[arg(long = "extra", value_name = "KEY=VALUE", value_parser = parse_entry)]
    pub set: Vec<(String, String)>,
}

/// Free fields to change.
#[derive(Debug, Clone, Default, Args)]
pub struct ChangeExtra {
    /// Those to set
    #[command(flatten)]
    pub set: SetExtra,
    /// A free field to remove; may be repeated
    #[arg(long = "unset-extra", value_name = "KEY")]
    pub unset: Vec<String>,
}

impl ChangeExtra {
    /// Returns the changes as the API takes them: `None` removes.
    pub fn changes(self) -> BTreeMap<String, Option<String>> {
        let set = self.set.set.into_iter().map(|(key, value)| (key, Some(value)));
        self.unset.into_iter().map(|key| (key, None)).chain(set).collect()
    }
}

/// Turns an empty text into none: that is how a field is emptied on a command line.
pub fn emptied(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Reads a length of time that is not nothing.
pub fn parse_positive_duration(text: &str) -> Result<Duration, config::Error> {
    let duration = config::parse_duration(text)?;
    if duration < Duration::from_secs(1) {
        return Err(config::Error::Duration(text.to_owned()));
    }
    Ok(duration)
}

/// Reads a value by its name in the API, so that both have the same names.
pub fn named<T>(names: &'static [&'static str]) -> impl TypedValueParser<Value = T>
where
    T: DeserializeOwned + Clone + Send + Sync + 'static,
{
    PossibleValuesParser::new(names).try_map(|name| {
        T::deserialize(IntoDeserializer::<serde::de::value::Error>::into_deserializer(name))
    })
}

fn parse_entry(text: &str) -> Result<(String, String), &'static str> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write it as KEY=VALUE"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_may_contain_the_sign_that_ends_a_key() {
        assert_eq!(parse_entry("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(parse_entry("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_entry("a").is_err() && parse_entry("=b").is_err());
    }

    #[test]
    fn setting_wins_over_removing_the_same_field() {
        let set = SetExtra { set: vec![("a".to_owned(), "1".to_owned())] };
        let changes = ChangeExtra { set, unset: vec!["a".to_owned(), "b".to_owned()] }.changes();
        assert_eq!(changes["a"].as_deref(), Some("1"));
        assert_eq!(changes["b"], None);
    }

    #[test]
    fn a_ticket_that_has_expired_already_can_not_be_asked_for() {
        assert!(parse_positive_duration("0").is_err());
        assert!(parse_positive_duration("999ms").is_err());
        assert_eq!(parse_positive_duration("1h"), Ok(Duration::from_secs(3_600)));
    }
}
