//! `picket ledger --notifications`: accounts for what each channel was to be told.

use picket_runtime::{clock, options::DurationArg};
use picket_store::{
    Store,
    notifications::{self, LedgerEntry, LedgerReason, LedgerStep, LedgerSum, NotificationLedger},
};

use super::format_time;
use crate::{
    error::{EXIT_NEGATIVE, Error},
    notifier::warn_without_notifier,
    output::{OutputFormat, OutputOptions, TextTable, print_coloured, print_data, text_cell, to_pretty_json},
};

/// Maximum number of listed rows that are unaccounted for.
const MAX_LISTED_ROWS: i64 = 20;

/// Prints the ledger of notifications. The exit code is 1 if a notice is unaccounted for.
pub(super) async fn print_ledger(
    store: &Store,
    since: DurationArg,
    output: OutputOptions,
) -> Result<u8, Error> {
    let now = clock::wall_clock_now();
    let from = now.saturating_sub(since.0);
    let ledger = notifications::read_notification_ledger(store, from, now, MAX_LISTED_ROWS).await?;
    let unaccounted = ledger.unaccounted_total();
    let code = if unaccounted == 0 { 0 } else { EXIT_NEGATIVE };
    if output.output == OutputFormat::Json {
        print_data(&to_pretty_json(&ledger))?;
        return Ok(code);
    }
    let missing = match ledger.unaccounted.is_empty() {
        true => String::new(),
        false => format!("\nThe newest that are unaccounted for:\n{}", missing_table(&ledger.unaccounted)),
    };
    let verdict = match unaccounted {
        0 => "Everything that a channel was to be told".to_owned(),
        some => format!("{some} notices"),
    };
    let verdict = format!(
        "{verdict} from {} to {} is {}.",
        format_time(from),
        format_time(now),
        if unaccounted == 0 { "accounted for" } else { "UNACCOUNTED FOR" }
    );
    let steps = match ledger.steps.is_empty() {
        true => String::new(),
        false => format!("\nBeside these events, while they lasted:\n{}\n", step_table(&ledger.steps)),
    };
    let details = describe_details(&ledger, since);
    print_coloured(&format!("{}{steps}{details}{missing}\n{verdict}\n", sum_table(&ledger.channels)))?;
    warn_without_notifier(store).await?;
    Ok(code)
}

fn sum_table(sums: &[LedgerSum]) -> TextTable {
    let columns = ["CHANNEL", "EXPECTED", "DELIVERED", "SUPPRESSED", "FAILED", "WAITING", "UNACCOUNTED"];
    let mut listing = TextTable::new(columns, "no event was to be told to a channel in that period")
        .align_right([1, 2, 3, 4, 5, 6]);
    for sum in sums {
        let counts = [sum.expected, sum.delivered, sum.suppressed, sum.failed, sum.waiting, sum.unaccounted];
        listing.add_cells(std::iter::once(text_cell(sum.channel.clone())).chain(counts.map(text_cell)));
    }
    listing
}

fn step_table(steps: &[LedgerStep]) -> TextTable {
    let columns = ["CHANNEL", "STEP", "DELIVERED", "SUPPRESSED", "FAILED", "WAITING"];
    let mut listing = TextTable::new(columns, "").align_right([2, 3, 4, 5]);
    for step in steps {
        let counts = [step.delivered, step.suppressed, step.failed, step.waiting];
        listing.add_cells(
            [text_cell(&step.channel), text_cell(&step.step)].into_iter().chain(counts.map(text_cell)),
        );
    }
    listing
}

fn describe_details(ledger: &NotificationLedger, since: DurationArg) -> String {
    let mut text = String::new();
    for LedgerReason { channel, step, state, reason, notices } in &ledger.reasons {
        let step = match step.as_str() {
            "event" => String::new(),
            step => format!(" ({step})"),
        };
        text += &picket_proto::safe_text::sanitize_lines(&format!(
            "{channel}: {notices} {state}, {reason}{step}\n"
        ));
    }
    if !ledger.channels.is_empty() {
        text += &format!(
            "each of them: picket notification notices --since {since} --channel NAME --state STATE\n"
        );
    }
    if ledger.untold > 0 {
        text += &format!("no route told a channel of {} events; see: picket route test\n", ledger.untold);
    }
    text
}

fn missing_table(entries: &[LedgerEntry]) -> TextTable {
    let mut listing = TextTable::new(["RECORDED", "EVENT", "INCIDENT", "CHANNEL"], "").align_right([2]);
    for entry in entries {
        listing.add_row([
            text_cell(format_time(entry.recorded_at.into())),
            text_cell(&entry.event),
            text_cell(entry.incident_id),
            text_cell(entry.channel.clone()),
        ]);
    }
    listing
}
