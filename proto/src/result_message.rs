//! Decodes messages with results, and compares each result with the subject of its message.
//!
//! A prober can publish only on subjects of its own region, so the subject is authoritative.

use crate::{
    CheckKind, CheckResult, RegionName, Shard, ValidationError, bundle, result::ResultError,
    subject::ResultSubject,
};

/// Reasons why a message, or a result in it, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ResultMessageError {
    /// The subject is none of results.
    #[error(transparent)]
    Subject(#[from] ValidationError),
    /// The bundle is longer than any that Picket writes.
    #[error("more than {} results in one message", bundle::MAX_ACCEPTED_RESULTS)]
    TooManyResults,
    /// The bytes are not a result that this version can use.
    #[error(transparent)]
    Result(#[from] ResultError),
    /// The result contradicts itself or its subject.
    #[error("{0}")]
    Contradiction(String),
}

impl ResultMessageError {
    /// Kind of the error in a word, for metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Subject(_) => "subject",
            Self::TooManyResults => "bundle",
            Self::Result(ResultError::Json(_)) => "json",
            Self::Result(ResultError::Unsupported(_)) => "unsupported",
            Self::Result(ResultError::Details(_)) => "details",
            Self::Contradiction(_) => "contradiction",
        }
    }
}

/// Parses the subject of a message. Counts the results of a bundle before one is decoded, so that
/// one message cannot occupy a reader for long.
///
/// # Errors
/// If the subject is none of results, or a bundle has too many of them.
pub fn parse_source(subject: &str, payload: &[u8]) -> Result<ResultSubject, ResultMessageError> {
    let source = ResultSubject::parse(subject)?;
    match source {
        ResultSubject::Bundle(_) if bundle::has_too_many_results(payload) => {
            Err(ResultMessageError::TooManyResults)
        }
        source => Ok(source),
    }
}

/// Decodes a result from a message with the subject `source`.
///
/// # Errors
/// If the bytes are not a result, or the result contradicts itself or the subject.
pub fn decode_result(source: &ResultSubject, payload: &[u8]) -> Result<CheckResult, ResultMessageError> {
    let result = CheckResult::decode(payload)?;
    let checked = check_cause(&result).and_then(|()| match source {
        ResultSubject::Site(region, shard) => check_site_result(&result, region, Some(*shard)),
        ResultSubject::Bundle(region) => check_site_result(&result, region, None),
        ResultSubject::Adhoc(region) => check_adhoc_result(&result, region),
    });
    checked.map_err(ResultMessageError::Contradiction)?;
    Ok(result)
}

fn check_cause(result: &CheckResult) -> Result<(), String> {
    match result.cause.filter(|cause| !cause.explains_outcome(result.outcome)) {
        Some(cause) => Err(format!("cause: '{cause}' does not explain '{}'", result.outcome)),
        None => Ok(()),
    }
}

/// Compares a result with its subject. The subject of a bundle names no shard.
fn check_site_result(result: &CheckResult, region: &RegionName, shard: Option<Shard>) -> Result<(), String> {
    check_region(result, region)?;
    if result.site_id.is_none() {
        return Err("site_id: there is none".to_owned());
    }
    if result.kind == CheckKind::Adhoc {
        return Err("kind: 'adhoc' on the subject of a scheduled check".to_owned());
    }
    if let Some(shard) = shard.filter(|shard| result.shard != Some(*shard)) {
        let named = result.shard.map_or_else(|| "none".to_owned(), |shard| shard.to_string());
        return Err(format!("shard: {named}, but the subject says {shard}"));
    }
    Ok(())
}

fn check_adhoc_result(result: &CheckResult, region: &RegionName) -> Result<(), String> {
    check_region(result, region)?;
    if result.kind != CheckKind::Adhoc {
        return Err(format!("kind: '{}' on the subject of an ad-hoc check", result.kind));
    }
    Ok(())
}

fn check_region(result: &CheckResult, region: &RegionName) -> Result<(), String> {
    if result.region != *region {
        return Err(format!("region: '{}', but the subject says '{region}'", result.region));
    }
    Ok(())
}
