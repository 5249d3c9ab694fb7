//! Logs: text on a terminal, JSON lines elsewhere. Also formats an error with all its causes in one
//! line.

use std::{
    error::Error,
    fmt,
    io::{self, IsTerminal, Write},
};

use picket_proto::safe_text;
use tracing_subscriber::{EnvFilter, fmt::time::UtcTime};

use crate::{
    options::{LogFormat, LogOptions},
    secrets,
};

/// Starts logging to standard error.
///
/// # Errors
/// Fails if the filter is invalid. The message names the filter.
pub fn init_logging(options: &LogOptions) -> Result<(), String> {
    // Logs of libraries below `warn` are off unless the filter names them. The bus logs connection
    // events itself.
    let quiet = "ractor=warn,async_nats=warn,sqlx=warn";
    let filter = EnvFilter::try_new(format!("{quiet},{}", options.log)).map_err(|why| {
        format!(
            "PICKET_LOG: '{}' is not a filter; allowed: such as 'info,picket_prober=debug' ({why})",
            options.log
        )
    })?;
    let on_terminal = std::io::stderr().is_terminal();
    let format = options.log_format.unwrap_or(if on_terminal { LogFormat::Pretty } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_env_filter(filter);
    // A second call, as in tests, leaves the first subscriber in place.
    let _ = match format {
        LogFormat::Pretty => {
            let builder = builder.with_writer(|| SanitizingWriter::for_terminal(io::stderr()));
            builder.with_ansi(on_terminal).with_target(false).with_timer(UtcTime::rfc_3339()).try_init()
        }
        LogFormat::Json => builder
            .with_writer(|| SanitizingWriter::for_json(io::stderr()))
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_timer(UtcTime::rfc_3339())
            .try_init(),
    };
    Ok(())
}

/// Log writer that passes text, colours and line feeds only, even if a logged text from outside
/// contains control characters, and redacts the values of secrets.
pub struct SanitizingWriter<W> {
    inner: W,
    sanitize: fn(&str) -> std::borrow::Cow<'_, str>,
}

impl<W> SanitizingWriter<W> {
    /// For lines read by people.
    pub fn for_terminal(inner: W) -> Self {
        Self { inner, sanitize: safe_text::sanitize_coloured }
    }

    /// For JSON lines.
    pub fn for_json(inner: W) -> Self {
        Self { inner, sanitize: safe_text::sanitize_json }
    }
}

impl<W: Write> Write for SanitizingWriter<W> {
    /// Expects whole events, as the formatter writes them.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        self.inner.write_all((self.sanitize)(&secrets::redact(&text)).as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

/// Displays an error and its causes in one line: `could not renew: timed out: …`.
///
/// `Display` of Picket's errors leaves the source out, so that each cause is printed once, here.
pub struct ErrorChain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for ErrorChain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut shown = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries include the source in their message; each cause is printed once.
            if !shown.contains(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            next = cause.source();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use tracing_subscriber::{Layer, layer::SubscriberExt};

    use super::*;

    #[derive(Clone, Default)]
    struct Shared(Arc<Mutex<Vec<u8>>>);

    impl Write for Shared {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Logs a hostile text as a field and as a message, and returns the output.
    fn logged(json: bool, writer: fn(Shared) -> SanitizingWriter<Shared>) -> String {
        let shared = Shared::default();
        let to = shared.clone();
        let make = move || writer(to.clone());
        let layer = tracing_subscriber::fmt::layer().with_ansi(!json);
        let layer = match json {
            true => layer.json().with_writer(make).boxed(),
            false => layer.with_writer(make).boxed(),
        };
        let hostile = "\x1b]0;title\x07\u{202e}\u{9b}2J\nforged";
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::warn!(site = %hostile, debug = ?hostile, "{hostile}");
        });
        let bytes = shared.0.lock().clone();
        String::from_utf8(bytes).unwrap_or_default()
    }

    #[test]
    fn foreign_text_in_a_log_is_sanitized() {
        let pretty = logged(false, SanitizingWriter::for_terminal);
        let json = logged(true, SanitizingWriter::for_json);

        for (log, strangers) in [(&pretty, "title"), (&json, "title")] {
            assert!(log.contains(strangers), "{log:?}");
            assert!(!log.contains(['\x07', '\u{202e}', '\u{9b}']) && !log.contains("\x1b]"), "{log:?}");
        }
        assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json:?}");
    }
}
