//! A program on the notifier's machine as a channel: never by a shell, in a clean environment, and
//! only where the operator allows it.

mod output;
mod process_group;
mod variables;

use std::{path::Path, process::Stdio, time::Duration};

use picket_proto::ValidationError;
use serde::{Deserialize, Serialize};
use tokio::{
    io::AsyncWriteExt,
    process::{ChildStdin, Command},
    time::{Instant, timeout_at},
};
use tracing::debug;

pub use self::variables::EXEC_VARIABLES;
use self::{output::Output, process_group::ProcessGroup};
use super::settings::MAX_TIMEOUT_MS;
use crate::{
    attempt::{Attempt, AttemptOutcome},
    message::Message,
    template::{self, Markup, render_or_else},
    text::{Layout, Plain, title_line},
};

const DEFAULT_TIMEOUT_MS: u64 = 15_000;
const MIN_TIMEOUT_MS: u64 = 100;
const MAX_ARGUMENTS: usize = 64;
const MAX_ARGUMENT_BYTES: usize = 4_096;
/// Maximum size of a variable: the kernel limits each, and all together.
const MAX_VARIABLE_BYTES: usize = 32 << 10;
/// Exit code `EX_TEMPFAIL` of sysexits.h.
const EXIT_TEMPORARY: i32 = 75;
/// Where programs are found by the program.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Settings of a channel that runs a program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecSettings {
    /// Absolute path of the program on the notifier's machine.
    pub program: String,
    /// Arguments, each as it is: there is no shell.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Maximum time that the program may run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Template of `PICKET_TITLE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// Template of `PICKET_BODY`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

impl ExecSettings {
    /// Checks all settings. The program itself is on another machine.
    ///
    /// # Errors
    /// If a setting cannot be used; the error names the setting.
    pub fn check(&self) -> Result<(), ValidationError> {
        let is_text = |text: &str| text.len() <= MAX_ARGUMENT_BYTES && !text.contains('\0');
        if !Path::new(&self.program).is_absolute() || !is_text(&self.program) {
            let allowed = "the absolute path of a program, such as /usr/local/bin/notify";
            return Err(ValidationError::new("program", &self.program, allowed));
        }
        if self.args.len() > MAX_ARGUMENTS {
            let given = format_args!("{} of them", self.args.len()).to_string();
            return Err(ValidationError::new("args", given, format!("at most {MAX_ARGUMENTS}")));
        }
        if let Some(bad) = self.args.iter().find(|argument| !is_text(argument)) {
            let allowed = format!("arguments of at most {MAX_ARGUMENT_BYTES} bytes without NUL");
            return Err(ValidationError::new("args", bad, allowed));
        }
        if let Some(millis) = self.timeout_ms
            && !(MIN_TIMEOUT_MS..=MAX_TIMEOUT_MS).contains(&millis)
        {
            let allowed = format!("{MIN_TIMEOUT_MS} to {MAX_TIMEOUT_MS}");
            return Err(ValidationError::new("timeout_ms", millis, allowed));
        }
        for (field, source, markup) in
            [("title", &self.title, Markup::Line), ("body", &self.body, Markup::Plain)]
        {
            source.as_deref().map_or(Ok(()), |source| template::check_template(field, source, markup))?;
        }
        Ok(())
    }

    fn timeout(&self) -> Duration {
        let millis = self.timeout_ms.unwrap_or(DEFAULT_TIMEOUT_MS);
        Duration::from_millis(millis.clamp(MIN_TIMEOUT_MS, MAX_TIMEOUT_MS))
    }
}

/// Runs programs, if the operator allows it.
#[derive(Clone, Copy, Debug)]
pub struct ExecRunner {
    /// True if the notifier was started with `--allow-exec`.
    pub is_allowed: bool,
}

impl ExecRunner {
    /// Runs the program with `message`: the whole as JSON on standard input, and the most important
    /// fields in variables.
    pub async fn run(&self, settings: &ExecSettings, message: &Message) -> Attempt {
        if !self.is_allowed {
            let why = "channels of kind exec are not allowed here: start the notifier with --allow-exec";
            return failing(why);
        }
        // A row that was not checked must not name a program of the working directory.
        if let Err(refusal) = settings.check() {
            return Attempt::new(AttemptOutcome::Refused, None, &refusal.to_string());
        }
        let (command, note) = build_command(settings, message);
        let run = run_to_end(command, message, settings.timeout()).await;
        judge_run(run, settings.timeout()).with_note(note.as_deref())
    }
}

fn build_command(settings: &ExecSettings, message: &Message) -> (Command, Option<String>) {
    let title = render_or_else(settings.title.as_deref(), "title", Markup::Line, message, title_line);
    let body = render_or_else(settings.body.as_deref(), "body", Markup::Plain, message, |message| {
        Layout::new(message, &Plain).fit_text(MAX_VARIABLE_BYTES, str::len, &Plain)
    });
    let first = message.items.first();
    let id = first.and_then(|item| item.incident_id).map(|id| id.to_string());
    let link = message.link.as_deref().or(first.and_then(|item| item.link.as_deref()));
    let mut command = Command::new(&settings.program);
    command
        .args(&settings.args)
        .env_clear()
        .env("PATH", PATH)
        .env("LANG", "C.UTF-8")
        .current_dir("/")
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let (id_text, severity, purpose) =
        (message.id.to_string(), word_of(&message.severity), word_of(&message.purpose));
    let values: [Option<&str>; EXEC_VARIABLES.len()] = [
        Some(&id_text),
        Some(&title.text),
        Some(&body.text),
        Some(&severity),
        Some(&purpose),
        first.map(|item| item.name.as_str()),
        first.and_then(|item| item.url.as_deref()),
        id.as_deref(),
        link,
    ];
    for ((name, _), value) in EXEC_VARIABLES.iter().zip(values) {
        // Always set, so that a program can rely on it.
        command.env(name, clean_variable(value.unwrap_or_default()));
    }
    let notes: Vec<String> = [title.note, body.note].into_iter().flatten().collect();
    (command, (!notes.is_empty()).then(|| notes.join("; ")))
}

fn word_of(value: &impl Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
}

/// Without NUL, which ends a variable, and within the kernel's limit.
fn clean_variable(value: &str) -> String {
    let end = value.floor_char_boundary(MAX_VARIABLE_BYTES);
    value[..end].replace('\0', " ")
}

/// The end of a program.
enum Run {
    /// It could not be started.
    NotStarted(std::io::Error),
    Exited {
        status: std::process::ExitStatus,
        output: String,
    },
    TimedOut {
        output: String,
    },
}

async fn run_to_end(mut command: Command, message: &Message, limit: Duration) -> Run {
    let deadline = Instant::now() + limit;
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(why) => return Run::NotStarted(why),
    };
    // Ends the program and its children also if the notifier gives up the attempt.
    let mut group = ProcessGroup::led_by(child.id());
    let input = serde_json::to_vec(message).unwrap_or_default();
    let writing = write_input(child.stdin.take(), input);
    let output = Output::of(child.stdout.take(), child.stderr.take());
    let waiting = async { tokio::join!(writing, child.wait()).1 };
    match timeout_at(deadline, waiting).await {
        Ok(Ok(status)) => {
            group.release();
            Run::Exited { status, output: output.finish().await }
        }
        Ok(Err(why)) => Run::NotStarted(why),
        Err(_) => {
            group.kill();
            Run::TimedOut { output: output.finish().await }
        }
    }
}

/// Writes the message. A program that does not read it is no failure.
async fn write_input(stdin: Option<ChildStdin>, input: Vec<u8>) {
    let Some(mut stdin) = stdin else { return };
    if let Err(error) = stdin.write_all(&input).await {
        debug!(%error, "the program of a channel did not read its input");
    }
}

fn judge_run(run: Run, limit: Duration) -> Attempt {
    let retry = |text: &str, status| {
        let outcome =
            AttemptOutcome::Retry { retry_after: None, is_channel_failing: false, receiver_ref: None };
        Attempt::new(outcome, status, text)
    };
    let (status, output) = match run {
        // It may be installed later.
        Run::NotStarted(why) => return failing(&format!("the program could not be started: {why}")),
        Run::TimedOut { output } => {
            let text = format!("killed after {limit:?}{}", quote_output(&output));
            return retry(&text, None);
        }
        Run::Exited { status, output } => (status, output),
    };
    let code = status.code().and_then(|code| u16::try_from(code).ok());
    let text = format!("{status}{}", quote_output(&output));
    match status.code() {
        Some(0) => Attempt::new(AttemptOutcome::Delivered { receiver_ref: None }, code, &text),
        Some(EXIT_TEMPORARY) => retry(&text, code),
        Some(_) => Attempt::new(AttemptOutcome::Refused, code, &text),
        // Killed by a signal, such as for lack of memory: not the program's judgement.
        None => retry(&text, None),
    }
}

fn quote_output(output: &str) -> String {
    match output.trim() {
        "" => String::new(),
        output => format!(": {output}"),
    }
}

fn failing(why: &str) -> Attempt {
    let outcome = AttemptOutcome::Retry { retry_after: None, is_channel_failing: true, receiver_ref: None };
    Attempt::new(outcome, None, why)
}

#[cfg(test)]
mod tests;
