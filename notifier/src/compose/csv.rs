//! The items of a digest as a table, for channels with attachments.

use picket_proto::Timestamp;

use crate::message::Item;

/// All items as CSV (RFC 4180).
pub(super) fn write_csv(items: &[Item]) -> String {
    let mut csv = "verdict,name,url,cause,explanation,regions,opened_at,closed_at,tags\r\n".to_owned();
    for item in items {
        let time = |at: Option<Timestamp>| at.map(|at| at.to_string()).unwrap_or_default();
        let fields = [
            item.verdict.as_word().to_owned(),
            item.name.clone(),
            item.url.clone().unwrap_or_default(),
            item.cause.clone().unwrap_or_default(),
            item.explanation.clone().unwrap_or_default(),
            item.regions.join(" "),
            time(Some(item.opened_at)),
            time(item.closed_at),
            item.tags.join(" "),
        ];
        csv.push_str(&fields.map(|field| quote_csv(&field)).join(","));
        csv.push_str("\r\n");
    }
    csv
}

/// A field of CSV. A spreadsheet takes a text that begins with one of these characters for a formula.
fn quote_csv(field: &str) -> String {
    let guard = if field.starts_with(['=', '+', '-', '@', '\t', '\r']) { "'" } else { "" };
    format!("\"{guard}{}\"", field.replace('"', "\"\""))
}
