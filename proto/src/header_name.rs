//! Names of headers that a site may set.

use crate::ValidationError;

/// Headers that belong to the connection and not to the request, or that name the requested host.
const RESERVED_HEADERS: [&str; 10] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Returns true if `name` is the name of a header as in RFC 9110.
pub(crate) fn is_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    !name.is_empty() && name.bytes().all(is_token)
}

/// Refuses names that differ only in case: they are one header.
pub(crate) fn check_distinct_names<'a>(
    field: &str,
    names: impl Iterator<Item = &'a String> + Clone,
) -> Result<(), ValidationError> {
    for (index, name) in names.clone().enumerate() {
        if names.clone().take(index).any(|other| other.eq_ignore_ascii_case(name)) {
            return Err(ValidationError::new(field, name, "each header once, in any case"));
        }
    }
    Ok(())
}

/// Refuses a name that is no header name, or that is not the site's to set.
pub(crate) fn check_header_name(field: &str, name: &str) -> Result<(), ValidationError> {
    if !is_header_name(name) {
        return Err(ValidationError::new(field, name, "a header name as in RFC 9110"));
    }
    if RESERVED_HEADERS.iter().any(|reserved| reserved.eq_ignore_ascii_case(name)) {
        return Err(ValidationError::new(field, name, "no header of the connection or of the host"));
    }
    Ok(())
}
