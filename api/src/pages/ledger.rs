//! The ledger: each tick that was due is up, down, missed or in a recorded gap, and nothing is left over.

use std::time::Duration;

use axum::{extract::State, response::Response};
use picket_proto::Timestamp;
use picket_store::ledger::{self, LedgerFilter, LedgerRow};
use serde::Deserialize;

use super::{
    PageError, Visitor,
    fleet::describe_ledger,
    frame::Section,
    input::PageQuery,
    list_page::{Cell, FormField, FormView, ListPage, TableView},
    parts::{Behind, format_count, format_percent},
    render_page,
};
use crate::{charts::format_minute, state::Api, v1::fetch_ledger};

/// Spans to choose from.
const SPANS: [(&str, u64, &str); 4] = [
    ("1h", 3_600, "the last hour"),
    ("6h", 21_600, "the last 6 hours"),
    ("24h", 86_400, "the last 24 hours"),
    ("7d", 604_800, "the last 7 days"),
];

#[derive(Default, Deserialize)]
#[serde(default)]
pub(crate) struct LedgerQuery {
    span: String,
}

/// Shows the account of a span that is closed: its end is the time through which every shard is accounted.
pub(super) async fn show_ledger(
    visitor: Visitor,
    State(api): State<Api>,
    PageQuery(query): PageQuery<LedgerQuery>,
) -> Result<Response, PageError> {
    let filter = LedgerFilter { tags: visitor.access.tag_limit(), ..LedgerFilter::default() };
    let (word, seconds, _) = SPANS.into_iter().find(|(word, ..)| *word == query.span).unwrap_or(SPANS[0]);
    let fail = |error| visitor.fail(error);
    let (now, accounted) = ledger::read_accounted_through(&api.store).await.map_err(fail)?;
    let to = ledger::find_closed_end(now, accounted);
    let from = to.saturating_sub(Duration::from_secs(seconds));
    let read = fetch_ledger(&api, from, to, filter).await;
    let (rows, causes) = read.map_err(|problem| visitor.fail(problem))?;

    let sum = ledger::sum_rows(&rows);
    let mut page = ListPage::new(visitor.frame("Ledger", Section::Ledger), "Ledger", describe_ledger(&sum));
    page.frame.ledger_line = Some(describe_ledger(&sum));
    page.notice = (sum.unaccounted != 0).then(|| {
        format!(
            "{} ticks have neither a row nor a gap. This must not happen: please report it.",
            sum.unaccounted
        )
    });
    page.forms.push(FormView {
        name: "Span",
        prefix: "span",
        action: "/ledger".to_owned(),
        fields: vec![FormField {
            name: "span",
            label: "Span",
            value: word.to_owned(),
            options: SPANS.iter().map(|(word, _, name)| ((*word).to_owned(), (*name).to_owned())).collect(),
            ..FormField::default()
        }],
        button: "Show",
        ..FormView::default()
    });
    page.tables.push(tabulate_ledger(&rows, from, to).with_behind(Behind {
        sql: format!(
            "SELECT region, sum(expected) AS expected, sum(up) AS up, sum(down) AS down, sum(missed) AS missed,\n       \
             sum(gap) AS gap, sum(unaccounted) AS unaccounted\nFROM report.ledger('{from}', '{to}') GROUP BY region;"
        ),
        command: format!("picket ledger --since {word}"),
        curl: format!("curl '{}/api/v1/ledger?from={from}&to={to}'", api.public_url()),
    }));
    page.tables.push(tabulate_causes(&causes).with_behind(Behind {
        sql: format!(
            "SELECT region, cause, count(*) FROM report.checks\nWHERE outcome = 'missed' AND kind = 'scheduled' \
             AND scheduled_at > '{from}' AND scheduled_at <= '{to}'\nGROUP BY region, cause ORDER BY region, count(*) DESC;"
        ),
        ..Behind::default()
    }));
    Ok(render_page(&page))
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn tabulate_ledger(rows: &[LedgerRow], from: Timestamp, to: Timestamp) -> TableView {
    let title = format!("From {} to {} UTC, by region", format_minute(from), format_minute(to));
    let columns = ["Region", "#Due", "#Up", "#Down", "#Missed", "#In gaps", "#Unaccounted", "#Coverage"];
    TableView::new("regions", title, &columns)
        .with_empty("No check was due in this span.", "picket site add https://example.com --interval 30s")
        .with_rows(rows.iter().map(|row| {
            let coverage =
                (row.expected > 0).then(|| (row.up + row.down) as f64 * 100.0 / row.expected as f64);
            let counts = [row.expected, row.up, row.down, row.missed, row.gap, row.unaccounted];
            std::iter::once(Cell::text(&row.region))
                .chain(counts.map(|count| Cell::text(format_count(count))))
                .chain([Cell::text(format_percent(coverage))])
                .collect()
        }))
}

fn tabulate_causes(causes: &[(String, String, i64)]) -> TableView {
    TableView::new("causes", "Why checks were missed", &["Region", "Cause", "#Ticks"])
        .with_empty("None was missed.", "")
        .with_rows(causes.iter().map(|(region, cause, ticks)| {
            vec![Cell::text(region), Cell::text(cause), Cell::text(format_count(*ticks))]
        }))
}
