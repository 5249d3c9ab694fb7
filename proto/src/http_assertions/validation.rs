//! Validation of assertions, and their compilation. Each error names the item.

use std::time::Duration;

use super::{
    ByteRange, CompiledAssertions, CompiledHeader, CompiledJson, ExpectedValue, HeaderAssertion,
    HeaderCondition, HttpAssertions, JsonAssertion, JsonCondition,
};
use crate::{
    Cause, Outcome, ValidationError, header_name::is_header_name, json_path::JsonPath, request::check_range,
};

/// Maximum length of the name of a header, in bytes.
const MAX_HEADER_NAME_BYTES: usize = 128;

impl HttpAssertions {
    /// Validates and compiles all assertions of a check with the timeout `timeout_ms`; `None` if
    /// nothing is asserted. `compile` compiles regexes, for example by a cache.
    ///
    /// # Errors
    /// If an assertion cannot be used. The error names it, as in `assertions.json[0].path`.
    pub fn compile_with<P>(
        &self,
        timeout_ms: i64,
        mut compile: impl FnMut(&str, &str) -> Result<P, ValidationError>,
    ) -> Result<Option<CompiledAssertions<P>>, ValidationError> {
        if self.is_empty() {
            return Ok(None);
        }
        // The cheap fields come first: an invalid one costs no regex compilation.
        self.check_item_counts()?;
        self.check_times(timeout_ms)?;
        self.check_certificate_days()?;
        self.check_causes()?;
        if let Some(range) = self.body_bytes {
            check_byte_range(range)?;
        }
        let headers = compile_items("headers", &self.headers, |field, header| {
            compile_header(field, header, &mut compile)
        })?;
        let json = compile_items("json", &self.json, |field, json| compile_json(field, json, &mut compile))?;
        let mut compile = |field: &str, pattern: &String| compile_regex(field, pattern, &mut compile);
        Ok(Some(CompiledAssertions {
            headers,
            json,
            final_url: self
                .final_url
                .as_ref()
                .map(|pattern| compile("assertions.final_url", pattern))
                .transpose()?,
            regexes: compile_items("regexes", &self.regexes, &mut compile)?,
            not_regexes: compile_items("not_regexes", &self.not_regexes, &mut compile)?,
            body_bytes: self.body_bytes,
            must_fail: self.must_fail.clone(),
            warn_after: self.warn_after_ms.map(to_duration),
            fail_after: self.fail_after_ms.map(to_duration),
            certificate_warn_days: self.certificate_warn_days.unwrap_or(Self::DEFAULT_CERTIFICATE_WARN_DAYS),
            certificate_min_days: self.certificate_min_days,
        }))
    }

    fn check_item_counts(&self) -> Result<(), ValidationError> {
        for (name, count) in [
            ("regexes", self.regexes.len()),
            ("not_regexes", self.not_regexes.len()),
            ("headers", self.headers.len()),
            ("json", self.json.len()),
        ] {
            if count > Self::MAX_ITEMS {
                let allowed = format!("at most {} of them", Self::MAX_ITEMS);
                return Err(ValidationError::new(
                    format!("assertions.{name}"),
                    format_args!("{count} of them"),
                    allowed,
                ));
            }
        }
        Ok(())
    }

    /// Checks both time limits. A limit of at least the timeout would never apply.
    fn check_times(&self, timeout_ms: i64) -> Result<(), ValidationError> {
        for (field, limit) in [
            ("assertions.warn_after_ms", self.warn_after_ms),
            ("assertions.fail_after_ms", self.fail_after_ms),
        ] {
            if let Some(limit) = limit
                && !(1..timeout_ms).contains(&limit)
            {
                let allowed = format!("1 to {}, which is less than timeout_ms", timeout_ms - 1);
                return Err(ValidationError::new(field, limit, allowed));
            }
        }
        match (self.warn_after_ms, self.fail_after_ms) {
            (Some(warn), Some(fail)) if warn >= fail => Err(ValidationError::new(
                "assertions.warn_after_ms",
                warn,
                format!("less than fail_after_ms, which is {fail}"),
            )),
            _ => Ok(()),
        }
    }

    fn check_certificate_days(&self) -> Result<(), ValidationError> {
        if let Some(days) = self.certificate_warn_days {
            check_range("assertions.certificate_warn_days", days, 0, Self::MAX_CERTIFICATE_DAYS)?;
        }
        let Some(min) = self.certificate_min_days else { return Ok(()) };
        check_range("assertions.certificate_min_days", min, 1, Self::MAX_CERTIFICATE_DAYS)?;
        match self.certificate_warn_days {
            Some(warn) if warn != 0 && min >= warn => Err(ValidationError::new(
                "assertions.certificate_min_days",
                min,
                format!("less than certificate_warn_days, which is {warn}"),
            )),
            _ => Ok(()),
        }
    }

    fn check_causes(&self) -> Result<(), ValidationError> {
        for (index, cause) in self.must_fail.iter().enumerate() {
            let is_repeated = self.must_fail[..index].contains(cause);
            if !Self::can_fail_with(*cause) || is_repeated {
                let causes: Vec<&str> = Cause::ALL_VALUES
                    .iter()
                    .filter(|cause| Self::can_fail_with(**cause))
                    .map(|cause| cause.as_str())
                    .collect();
                let allowed = format!("each of these at most once: {}", causes.join(", "));
                return Err(ValidationError::new(format!("assertions.must_fail[{index}]"), cause, allowed));
            }
        }
        Ok(())
    }

    /// Returns true if an HTTP check can be `down` with `cause` by itself.
    fn can_fail_with(cause: Cause) -> bool {
        cause.outcome() == Some(Outcome::Down) && !matches!(cause, Cause::UnexpectedResponse | Cause::Overdue)
    }
}

/// Compiles each item of the list `name` with the field of the item.
fn compile_items<T, R>(
    name: &str,
    items: &[T],
    mut compile: impl FnMut(&str, &T) -> Result<R, ValidationError>,
) -> Result<Vec<R>, ValidationError> {
    items
        .iter()
        .enumerate()
        .map(|(index, item)| compile(&format!("assertions.{name}[{index}]"), item))
        .collect()
}

fn compile_regex<P>(
    field: &str,
    pattern: &str,
    mut compile: impl FnMut(&str, &str) -> Result<P, ValidationError>,
) -> Result<P, ValidationError> {
    // An empty regex matches everything, so it is a slip.
    match pattern.is_empty() {
        true => Err(ValidationError::new(field, pattern, "a regular expression of at least one character")),
        false => compile(field, pattern),
    }
}

/// Checks that exactly one of `conditions` is given, and returns its name.
fn check_single_condition<'a>(
    field: &str,
    conditions: &[(&'a str, bool)],
) -> Result<&'a str, ValidationError> {
    let given: Vec<&str> =
        conditions.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect();
    match given.as_slice() {
        [only] => Ok(only),
        _ => {
            let names: Vec<&str> = conditions.iter().map(|(name, _)| *name).collect();
            let value = if given.is_empty() { "(no condition)".to_owned() } else { given.join(", ") };
            Err(ValidationError::new(field, value, format!("exactly one of {}", names.join(", "))))
        }
    }
}

/// Refuses `false` in a condition that has an opposite.
fn check_flag(field: &str, name: &str, flag: Option<bool>, opposite: &str) -> Result<(), ValidationError> {
    match flag {
        Some(false) => {
            Err(ValidationError::new(format!("{field}.{name}"), false, format!("true; {opposite}")))
        }
        _ => Ok(()),
    }
}

fn compile_header<P>(
    field: &str,
    header: &HeaderAssertion,
    mut compile: impl FnMut(&str, &str) -> Result<P, ValidationError>,
) -> Result<CompiledHeader<P>, ValidationError> {
    let HeaderAssertion { name, regex, not_regex, absent } = header;
    if !is_header_name(name) || name.len() > MAX_HEADER_NAME_BYTES {
        let allowed = format!("a header name as in RFC 9110 of at most {MAX_HEADER_NAME_BYTES} bytes");
        return Err(ValidationError::new(format!("{field}.name"), name, allowed));
    }
    check_single_condition(
        field,
        &[("regex", regex.is_some()), ("not_regex", not_regex.is_some()), ("absent", absent.is_some())],
    )?;
    check_flag(field, "absent", *absent, "a header that must be present has the regex '.*'")?;
    let condition = match (regex, not_regex) {
        (Some(regex), _) => {
            HeaderCondition::Matches(compile_regex(&format!("{field}.regex"), regex, &mut compile)?)
        }
        (_, Some(regex)) => {
            HeaderCondition::MatchesNot(compile_regex(&format!("{field}.not_regex"), regex, &mut compile)?)
        }
        (None, None) => HeaderCondition::Absent,
    };
    Ok(CompiledHeader { name: name.to_ascii_lowercase(), condition })
}

fn compile_json<P>(
    field: &str,
    json: &JsonAssertion,
    mut compile: impl FnMut(&str, &str) -> Result<P, ValidationError>,
) -> Result<CompiledJson<P>, ValidationError> {
    let path = JsonPath::parse(&format!("{field}.path"), &json.path, &mut compile)?;
    let name = check_single_condition(
        field,
        &[
            ("equals", json.equals.is_some()),
            ("not_equals", json.not_equals.is_some()),
            ("less_than", json.less_than.is_some()),
            ("greater_than", json.greater_than.is_some()),
            ("matches", json.matches.is_some()),
            ("exists", json.exists.is_some()),
            ("absent", json.absent.is_some()),
            ("min_length", json.min_length.is_some()),
            ("max_length", json.max_length.is_some()),
        ],
    )?;
    check_flag(field, "exists", json.exists, "a value that must not exist has the condition absent")?;
    check_flag(field, "absent", json.absent, "a value that must exist has the condition exists")?;
    let condition_field = format!("{field}.{name}");
    let condition = if let Some(value) = &json.equals {
        JsonCondition::Equals(parse_expected(&condition_field, value)?)
    } else if let Some(value) = &json.not_equals {
        JsonCondition::NotEquals(parse_expected(&condition_field, value)?)
    } else if let Some(limit) = json.less_than {
        JsonCondition::LessThan(check_finite(&condition_field, limit)?)
    } else if let Some(limit) = json.greater_than {
        JsonCondition::GreaterThan(check_finite(&condition_field, limit)?)
    } else if let Some(pattern) = &json.matches {
        JsonCondition::Matches(compile_regex(&condition_field, pattern, &mut compile)?)
    } else if let Some(length) = json.min_length {
        JsonCondition::MinLength(length)
    } else if let Some(length) = json.max_length {
        JsonCondition::MaxLength(length)
    } else if json.absent.is_some() {
        JsonCondition::Absent
    } else {
        JsonCondition::Exists
    };
    Ok(CompiledJson { path, condition })
}

fn parse_expected(field: &str, value: &serde_json::Value) -> Result<ExpectedValue, ValidationError> {
    let allowed = format!("a JSON value of at most {} bytes", HttpAssertions::MAX_VALUE_BYTES);
    ExpectedValue::from_value(value)
        .ok()
        .filter(|expected| expected.text.len() <= HttpAssertions::MAX_VALUE_BYTES)
        .ok_or_else(|| ValidationError::new(field, value, allowed))
}

/// Refuses numbers that JSON does not have. A YAML file may contain them.
fn check_finite(field: &str, number: f64) -> Result<f64, ValidationError> {
    match number.is_finite() {
        true => Ok(number),
        false => Err(ValidationError::new(field, number, "a finite number")),
    }
}

fn check_byte_range(ByteRange { min, max }: ByteRange) -> Result<(), ValidationError> {
    const FIELD: &str = "assertions.body_bytes";
    for (name, limit) in [("min", min), ("max", max)] {
        if let Some(limit) = limit
            && limit > HttpAssertions::MAX_BODY_BYTES
        {
            let allowed = format!("0 to {}", HttpAssertions::MAX_BODY_BYTES);
            return Err(ValidationError::new(format!("{FIELD}.{name}"), limit, allowed));
        }
    }
    match (min, max) {
        (None, None) => Err(ValidationError::new(FIELD, "{}", "min, max, or both")),
        (Some(min), Some(max)) if min > max => {
            Err(ValidationError::new(format!("{FIELD}.min"), min, format!("at most max, which is {max}")))
        }
        _ => Ok(()),
    }
}

fn to_duration(ms: i64) -> Duration {
    Duration::from_millis(ms.unsigned_abs())
}
