//! `picket check`: requests an ad-hoc check from probers.

mod adhoc;
mod explanation;

use clap::{ArgMatches, Args};
use picket_proto::{CheckRequest, CheckResult, Outcome, RegionName};
use picket_runtime::{
    adhoc::{RegionReply, reply_limit},
    process::EXIT_UNREACHABLE,
};

use crate::{
    connect::{self, NatsArgs},
    error::{EXIT_NEGATIVE, Error},
    output::{
        OutputFormat, OutputOptions, TextTable, format_ms, print_coloured, print_data, print_error,
        status_cell, text_cell, to_pretty_json,
    },
    site_args::CheckOptions,
};

/// Options of `picket check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
Exit codes: 0 up in every region, 1 down in a region, 3 no answer from a region or the check was missed.

Examples:
  picket check https://example.com
  picket check https://example.com/health --region eu-west --timeout 5s
  picket check https://example.com/health --regex ok --explain")]
pub(crate) struct AdhocCheckOptions {
    /// URL to check (http or https)
    url: String,
    /// Region to check from; may be repeated [default: every region with active probers]
    #[arg(long = "region", value_name = "REGION", value_parser = connect::parse_region)]
    regions: Vec<RegionName>,
    /// Show each assertion with its result, the expected and the found response
    #[arg(long)]
    explain: bool,
    // Before the groups, whose headings would apply to it.
    #[command(flatten)]
    output: OutputOptions,
    #[command(flatten)]
    check: CheckOptions,
    #[command(flatten)]
    nats: NatsArgs,
}

/// Runs the check and prints the results. The exit code depends on the outcomes.
pub(crate) async fn run(options: AdhocCheckOptions, matches: &ArgMatches) -> Result<u8, Error> {
    let mut request = CheckRequest::new(options.url);
    request.explain = options.explain;
    options.check.apply_to(&mut request)?;
    let limit = reply_limit(request.validate()?.timeout);
    let bus = options.nats.connect(matches).await?;
    let mut regions = options.regions;
    regions.sort();
    regions.dedup();
    let answers = adhoc::request_checks(&bus.client, &request, &regions, limit).await?;
    if answers.is_empty() {
        return Err(Error::Unreachable(
            "no prober answered; is one running? 'picket probers' lists them".to_owned(),
        ));
    }
    if options.output.output == OutputFormat::Json {
        let results: Vec<&CheckResult> = answers.iter().filter_map(|(_, answer)| answer.result()).collect();
        print_data(&to_pretty_json(&results))?;
    } else {
        print_coloured(&build_table(&answers).to_string())?;
        if options.explain {
            let results = answers.iter().filter_map(|(_, answer)| answer.result());
            print_coloured(&explanation::build_table(results).to_string())?;
        }
    }
    for (region, answer) in &answers {
        if let Some(message) = answer.error_message(region) {
            print_error(message);
        }
    }
    Ok(exit_code(&answers))
}

fn exit_code(answers: &[(String, RegionReply)]) -> u8 {
    let outcome = |answer: &RegionReply| answer.result().map(|result| result.outcome);
    let outcomes: Vec<_> = answers.iter().map(|(_, answer)| outcome(answer)).collect();
    match () {
        () if outcomes.contains(&Some(Outcome::Down)) => EXIT_NEGATIVE,
        () if outcomes.iter().all(|outcome| *outcome == Some(Outcome::Up)) => 0,
        () => EXIT_UNREACHABLE,
    }
}

fn build_table(answers: &[(String, RegionReply)]) -> TextTable {
    let columns = [
        "REGION",
        "PROBER",
        "OUTCOME",
        "STATUS",
        "DNS",
        "CONNECT",
        "TLS",
        "FIRST BYTE",
        "TRANSFER",
        "TOTAL MS",
        "ADDRESS",
        "WARNINGS",
        "CAUSE",
    ];
    let mut listing = TextTable::new(columns, "").align_right([3, 4, 5, 6, 7, 8, 9]);
    for (region, answer) in answers {
        let Some(result) = answer.result() else {
            let nothing = || text_cell(None::<&str>);
            listing.add_row([
                text_cell(region),
                nothing(),
                status_cell("no answer"),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
                nothing(),
            ]);
            continue;
        };
        let timing = &result.timing;
        listing.add_row([
            text_cell(result.region.as_str()),
            text_cell(&result.prober),
            status_cell(result.outcome.as_str()),
            text_cell(result.http_status),
            text_cell(format_ms(timing.dns_us)),
            text_cell(format_ms(timing.connect_us)),
            text_cell(format_ms(timing.tls_us)),
            text_cell(format_ms(timing.first_byte_us)),
            text_cell(format_ms(timing.transfer_us)),
            text_cell(format_ms(timing.total_us)),
            text_cell(result.remote_addr.clone()),
            text_cell(join_warnings(result)),
            text_cell(format_cause(result)),
        ]);
    }
    listing
}

/// The kinds of a result's warnings; `None` without warnings.
pub(crate) fn join_warnings(result: &CheckResult) -> Option<String> {
    let kinds: Vec<&str> = result.warnings.iter().map(|warning| warning.as_str()).collect();
    (!kinds.is_empty()).then(|| kinds.join(","))
}

/// Cause and message as a single text.
fn format_cause(result: &CheckResult) -> Option<String> {
    match (result.cause, &result.message) {
        (Some(cause), Some(message)) => Some(format!("{cause}: {message}")),
        (Some(cause), None) => Some(cause.to_string()),
        (None, message) => message.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(outcome: Outcome) -> (String, RegionReply) {
        let json = format!(
            r#"{{"v":1,"id":"a","kind":"adhoc","region":"eu","prober":"p","url":"http://x/","scheduled_at":
            "2026-11-20T12:00:00.000000Z","outcome":"{outcome}","cause":"tls","message":"expired","http_status":200,
            "timing":{{"connect_us":1234,"total_us":56789}},"remote_addr":"127.0.0.1:443"}}"#
        );
        ("eu".to_owned(), RegionReply::Result(Box::new(serde_json::from_str(&json).unwrap())))
    }

    #[test]
    fn a_down_region_outweighs_a_region_without_an_answer() {
        let silent = || ("us".to_owned(), RegionReply::TimedOut);

        assert_eq!(exit_code(&[answer(Outcome::Up), answer(Outcome::Up)]), 0);
        assert_eq!(exit_code(&[answer(Outcome::Up), silent()]), EXIT_UNREACHABLE);
        assert_eq!(exit_code(&[answer(Outcome::Missed)]), EXIT_UNREACHABLE);
        assert_eq!(exit_code(&[silent(), answer(Outcome::Down)]), EXIT_NEGATIVE);
    }

    #[test]
    fn a_warning_of_an_up_result_is_in_its_line() {
        let (region, reply) = answer(Outcome::Up);
        let RegionReply::Result(mut result) = reply else { unreachable!() };
        result.warnings = vec![picket_proto::Warning::Slow, picket_proto::Warning::Certificate];

        let text = build_table(&[(region, RegionReply::Result(result))]).to_string();

        assert!(text.lines().next().unwrap().contains("WARNINGS"), "{text}");
        assert!(text.contains("slow,certificate"), "{text}");
    }

    #[test]
    fn each_region_has_a_line_with_phases_and_cause() {
        let text =
            build_table(&[answer(Outcome::Down), ("us".to_owned(), RegionReply::NoResponders)]).to_string();

        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        for part in ["eu", "down", "200", "1.2", "56.8", "127.0.0.1:443", "tls: expired"] {
            assert!(lines[1].contains(part), "{text}");
        }
        assert!(lines[2].contains("no answer"), "{text}");
    }
}
