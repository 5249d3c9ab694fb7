//! Random faults at random times on the whole system, for as long as one likes; what was done comes from a seed alone.
//!
//! Ends with the table of faults, and with exit code 1 if any tick is unaccounted for or has two rows.

mod plan;
mod world;

use std::{process::ExitCode, time::Duration};

use clap::Parser;
use picket_e2e::drill::{Account, cells, table};
use tokio::time::{Instant, sleep_until};

use crate::{
    plan::{Injury, plan},
    world::World,
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
    let injuries = plan(seed, Duration::from_secs(options.minutes * 60));
    say(&format!(
        "{} injuries in {} minutes; again with: --minutes {} --seed {seed}",
        injuries.len(),
        options.minutes,
        options.minutes
    ));
    if options.dry_run {
        injuries.iter().for_each(|injury| say(&line(injury)));
        return ExitCode::SUCCESS;
    }
    let mut world = World::start(seed).await;
    let from = world.now();
    let memory_before = world.memory();
    let began = Instant::now();
    let mut moments: Vec<(Duration, bool, usize)> = injuries
        .iter()
        .enumerate()
        .flat_map(|(number, injury)| [(injury.begins, false, number), (injury.ends, true, number)])
        .collect();
    moments.sort();
    let mut spans: Vec<(String, String)> = vec![(String::new(), String::new()); injuries.len()];
    for (at, ends, number) in moments {
        sleep_until(began + at).await;
        let injury = injuries[number];
        if ends {
            world.end(injury.what).await;
            spans[number].1 = world.now();
        } else {
            say(&line(&injury));
            spans[number].0 = world.now();
            world.begin(injury.what).await;
        }
    }
    sleep_until(began + Duration::from_secs(options.minutes * 60)).await;
    say("waiting until all is well again, and the ledger is closed");
    world.healed().await;
    let memory_after = world.memory();
    let total = account(&world, &injuries, &spans, &from).await;
    for (name, before) in &memory_before {
        say(&format!(
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
async fn account(world: &World, injuries: &[Injury], spans: &[(String, String)], from: &str) -> Account {
    let to = world.now();
    let total = Account::of(&world.stack, from, &to, spans.last().map_or(from, |(_, ended)| ended)).await;
    let mut table = table(&["AT", "FAULT", "INJURY", "FOR"], 1);
    for (number, injury) in injuries.iter().enumerate() {
        let (began, ended) = &spans[number];
        let until = spans.get(number + 1).map_or(&to, |(next, _)| next);
        let account = Account::of(&world.stack, began, until, ended).await;
        let lasted = (injury.ends - injury.begins).as_secs();
        let [at, fault, words, lasted] = [
            clock(injury.begins),
            injury.what.fault().to_owned(),
            injury.what.words(),
            format!("{lasted} s"),
        ];
        table.add_row([vec![at, fault, words, lasted], cells(&account)].concat());
    }
    table.add_row(
        [vec![String::new(), String::new(), "all".to_owned(), String::new()], cells(&total)].concat(),
    );
    say(&table.to_string());
    total
}

fn line(injury: &Injury) -> String {
    let lasts = (injury.ends - injury.begins).as_secs();
    format!("{}  {:<4} {}, for {lasts} s", clock(injury.begins), injury.what.fault(), injury.what.words())
}

fn clock(at: Duration) -> String {
    format!("{:02}:{:02}", at.as_secs() / 60, at.as_secs() % 60)
}

#[expect(clippy::print_stdout, reason = "it talks to a person")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}
