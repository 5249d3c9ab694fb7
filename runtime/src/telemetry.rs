//! Logs: for people on a terminal, JSON lines elsewhere; and an error with all of its causes in one line.

use std::{error::Error, fmt, io::IsTerminal};

use tracing_subscriber::{EnvFilter, fmt::time::UtcTime};

use crate::options::{LogFormat, LogOptions};

/// Starts logging to standard error.
///
/// # Errors
/// When the filter cannot be read; the message names it.
pub fn init(options: &LogOptions) -> Result<(), String> {
    // What libraries say of themselves is for who asks for it by name; the bus tells of connections in our words.
    let quiet = "ractor=warn,async_nats=warn,sqlx=warn";
    let filter = EnvFilter::try_new(format!("{quiet},{}", options.log)).map_err(|why| {
        format!(
            "PICKET_LOG: '{}' is not a filter; allowed: such as 'info,picket_prober=debug' ({why})",
            options.log
        )
    })?;
    let on_terminal = std::io::stderr().is_terminal();
    let format = options.log_format.unwrap_or(if on_terminal { LogFormat::Pretty } else { LogFormat::Json });
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second call, in a test, keeps the first one's subscriber.
    let _ = match format {
        LogFormat::Pretty => {
            builder.with_ansi(on_terminal).with_target(false).with_timer(UtcTime::rfc_3339()).try_init()
        }
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_timer(UtcTime::rfc_3339())
            .try_init(),
    };
    Ok(())
}

/// Shows an error and what caused it, in one line: `could not renew: timed out: …`.
///
/// Our errors' `Display` leaves their source out, so that each cause is printed once, here.
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut shown = self.0.to_string();
        let mut next = self.0.source();
        while let Some(cause) = next {
            let text = cause.to_string();
            // Some libraries do print their source; once is enough.
            if !shown.contains(&text) {
                write!(f, ": {text}")?;
            }
            shown = text;
            next = cause.source();
        }
        Ok(())
    }
}
