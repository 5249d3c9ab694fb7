//! Chaos run: random faults at random times on the whole system, for any duration. The faults
//! follow from a seed alone.
//!
//! Prints the table of faults at the end. Exits with 1 if any tick is unaccounted for or has two
//! rows, or if any event was not told.

mod chaos_stack;
mod fault_plan;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use picket_e2e::fault_test::{TickAccount, account_cells, build_table};
use tokio::time::{Instant, sleep_until};

use crate::{
    chaos_stack::ChaosStack,
    fault_plan::{PlannedFault, plan_faults},
};

pub(crate) const REGIONS: [&str; 3] = ["east", "north", "west"];

/// Injects random faults into the whole system and verifies the ledger
#[derive(Parser)]
struct Options {
    /// Duration of the run, in minutes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=600))]
    minutes: u64,
    /// Seed of the fault plan; the same seed gives the same plan [default: random]
    #[arg(long)]
    seed: Option<u64>,
    /// Print the plan only
    #[arg(long)]
    dry_run: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let faults = plan_faults(seed, Duration::from_secs(options.minutes * 60));
    print_line(&format!(
        "{} faults in {} minutes; repeat with: --minutes {} --seed {seed}",
        faults.len(),
        options.minutes,
        options.minutes
    ));
    if options.dry_run {
        faults.iter().for_each(|planned| print_line(&format_fault(planned)));
        return ExitCode::SUCCESS;
    }
    let mut world = ChaosStack::start(seed).await;
    let from = world.now_sql();
    let memory_before = world.memory_by_kind();
    let began = Instant::now();
    let mut moments: Vec<(Duration, bool, usize)> = faults
        .iter()
        .enumerate()
        .flat_map(|(number, planned)| [(planned.begins_at, false, number), (planned.ends_at, true, number)])
        .collect();
    // Starts (`false`) sort before ends (`true`), so a fault without duration starts before it
    // ends.
    moments.sort();
    let mut spans: Vec<(String, String)> = vec![(String::new(), String::new()); faults.len()];
    for (at, ends, number) in moments {
        sleep_until(began + at).await;
        let planned = faults[number];
        if ends {
            world.end_fault(planned.fault).await;
            spans[number].1 = world.now_sql();
        } else {
            print_line(&format_fault(&planned));
            spans[number].0 = world.now_sql();
            world.begin_fault(planned.fault).await;
        }
    }
    sleep_until(began + Duration::from_secs(options.minutes * 60)).await;
    print_line("waiting for recovery and for the ledger to close");
    world.wait_served().await;
    let memory_after = world.memory_by_kind();
    let total = print_account(&world, &faults, &spans, &from).await;
    for (name, before) in &memory_before {
        print_line(&format!(
            "memory of {name}: {before} MiB before, {} MiB after",
            memory_after.get(name).unwrap_or(&0)
        ));
    }
    let told = world.account_notifications().await;
    print_line(&format!(
        "notifications: {} events for programs, {} received, {} suppressed; {} messages to people; {} unaccounted for",
        told.events, told.received, told.suppressed, told.people, told.unaccounted
    ));
    let is_told = told.unaccounted == 0 && told.received == told.events - told.suppressed;
    let is_complete = total.unaccounted == 0 && total.doubled == 0 && is_told;
    let code = if is_complete { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    world.stop().await;
    code
}

/// Prints the table: the ticks from the start of each fault to the start of the next one.
async fn print_account(
    world: &ChaosStack,
    faults: &[PlannedFault],
    spans: &[(String, String)],
    from: &str,
) -> TickAccount {
    let to = world.now_sql();
    let total =
        TickAccount::for_span(&world.stack, from, &to, spans.last().map_or(from, |(_, ended)| ended)).await;
    let mut table = build_table(&["AT", "FAULT", "DESCRIPTION", "FOR"], 1);
    for (number, planned) in faults.iter().enumerate() {
        let (began, ended) = &spans[number];
        let until = spans.get(number + 1).map_or(&to, |(next, _)| next);
        let account = TickAccount::for_span(&world.stack, began, until, ended).await;
        let lasted = (planned.ends_at - planned.begins_at).as_secs();
        let [at, fault, description, lasted] = [
            format_clock(planned.begins_at),
            planned.fault.matrix_id().to_owned(),
            planned.fault.describe(),
            format!("{lasted} s"),
        ];
        table.add_row([vec![at, fault, description, lasted], account_cells(&account)].concat());
    }
    table.add_row(
        [vec![String::new(), String::new(), "all".to_owned(), String::new()], account_cells(&total)].concat(),
    );
    print_line(&table.to_string());
    total
}

fn format_fault(planned: &PlannedFault) -> String {
    let lasts = (planned.ends_at - planned.begins_at).as_secs();
    format!(
        "{}  {:<4} {}, for {lasts} s",
        format_clock(planned.begins_at),
        planned.fault.matrix_id(),
        planned.fault.describe()
    )
}

fn format_clock(at: Duration) -> String {
    format!("{:02}:{:02}", at.as_secs() / 60, at.as_secs() % 60)
}

#[expect(clippy::print_stdout, reason = "the output is for a person")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}
