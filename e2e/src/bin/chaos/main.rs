//! Random faults at random times on the whole system, for as long as one likes; what was done comes from a seed alone.
//!
//! Ends with the table of faults, and with exit code 1 if any tick is unaccounted for or has two rows.

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

/// Injures the whole system at random, and then asks the ledger.
#[derive(Parser)]
struct Options {
    /// How long
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(2..=600))]
    minutes: u64,
    /// What the injuries are drawn from; the same gives the same [default: drawn]
    #[arg(long)]
    seed: Option<u64>,
    /// Only print what would be done
    #[arg(long)]
    dry_run: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let options = Options::parse();
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..1_000_000));
    let injuries = plan_faults(seed, Duration::from_secs(options.minutes * 60));
    print_line(&format!(
        "{} injuries in {} minutes; again with: --minutes {} --seed {seed}",
        injuries.len(),
        options.minutes,
        options.minutes
    ));
    if options.dry_run {
        injuries.iter().for_each(|injury| print_line(&format_fault(injury)));
        return ExitCode::SUCCESS;
    }
    let mut world = ChaosStack::start(seed).await;
    let from = world.now_sql();
    let memory_before = world.memory_by_kind();
    let began = Instant::now();
    let mut moments: Vec<(Duration, bool, usize)> = injuries
        .iter()
        .enumerate()
        .flat_map(|(number, injury)| [(injury.begins_at, false, number), (injury.ends_at, true, number)])
        .collect();
    moments.sort();
    let mut spans: Vec<(String, String)> = vec![(String::new(), String::new()); injuries.len()];
    for (at, ends, number) in moments {
        sleep_until(began + at).await;
        let injury = injuries[number];
        if ends {
            world.end_fault(injury.fault).await;
            spans[number].1 = world.now_sql();
        } else {
            print_line(&format_fault(&injury));
            spans[number].0 = world.now_sql();
            world.begin_fault(injury.fault).await;
        }
    }
    sleep_until(began + Duration::from_secs(options.minutes * 60)).await;
    print_line("waiting until all is well again, and the ledger is closed");
    world.wait_served().await;
    let memory_after = world.memory_by_kind();
    let total = print_account(&world, &injuries, &spans, &from).await;
    for (name, before) in &memory_before {
        print_line(&format!(
            "memory of {name}: {before} MiB before, {} MiB after",
            memory_after.get(name).unwrap_or(&0)
        ));
    }
    let code =
        if total.unaccounted == 0 && total.doubled == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    world.stop().await;
    code
}

/// Prints the table: the ticks from each injury to the next one.
async fn print_account(
    world: &ChaosStack,
    injuries: &[PlannedFault],
    spans: &[(String, String)],
    from: &str,
) -> TickAccount {
    let to = world.now_sql();
    let total =
        TickAccount::for_span(&world.stack, from, &to, spans.last().map_or(from, |(_, ended)| ended)).await;
    let mut table = build_table(&["AT", "FAULT", "INJURY", "FOR"], 1);
    for (number, injury) in injuries.iter().enumerate() {
        let (began, ended) = &spans[number];
        let until = spans.get(number + 1).map_or(&to, |(next, _)| next);
        let account = TickAccount::for_span(&world.stack, began, until, ended).await;
        let lasted = (injury.ends_at - injury.begins_at).as_secs();
        let [at, fault, words, lasted] = [
            format_clock(injury.begins_at),
            injury.fault.matrix_id().to_owned(),
            injury.fault.describe(),
            format!("{lasted} s"),
        ];
        table.add_row([vec![at, fault, words, lasted], account_cells(&account)].concat());
    }
    table.add_row(
        [vec![String::new(), String::new(), "all".to_owned(), String::new()], account_cells(&total)].concat(),
    );
    print_line(&table.to_string());
    total
}

fn format_fault(injury: &PlannedFault) -> String {
    let lasts = (injury.ends_at - injury.begins_at).as_secs();
    format!(
        "{}  {:<4} {}, for {lasts} s",
        format_clock(injury.begins_at),
        injury.fault.matrix_id(),
        injury.fault.describe()
    )
}

fn format_clock(at: Duration) -> String {
    format!("{:02}:{:02}", at.as_secs() / 60, at.as_secs() % 60)
}

#[expect(clippy::print_stdout, reason = "it talks to a person")]
pub(crate) fn print_line(text: &str) {
    println!("{text}");
}
