//! `reports`: query times of the `report` views on a database with months of rollups and hours of
//! rows.

use std::{io::Write, time::Duration};

use picket_harness::percentiles::Samples;
use picket_store::{DatabaseOptions, Store};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::Instant;

use crate::{Error, testbed::with_context};

/// Size of the database.
#[derive(clap::Args, Debug)]
pub(crate) struct Options {
    /// Sites, each checked every minute from three regions
    #[arg(long, default_value_t = 5_000)]
    sites: u32,
    /// Whole days of rollups, besides today's
    #[arg(long, default_value_t = 85)]
    days: u32,
    /// Hours of rows
    #[arg(long, default_value_t = 6)]
    hours: u32,
    /// Existing database: filled if empty, otherwise left unchanged; by default a temporary one is
    /// created
    #[arg(long, value_name = "URL")]
    database: Option<String>,
}

const SITE_QUERY_BUDGET: Duration = Duration::from_millis(50);
const FLEET_QUERY_BUDGET: Duration = Duration::from_millis(2_000);
const QUERY_ROUNDS: usize = 5;

/// Queries: name, time budget and statement.
const REPORT_QUERIES: [(&str, Duration, &str); 19] = [
    (
        "a site's days of last month",
        SITE_QUERY_BUDGET,
        "SELECT * FROM report.uptime_daily WHERE site_id = 777 AND day >= {last} AND day < {this}",
    ),
    ("a site's days, all", SITE_QUERY_BUDGET, "SELECT * FROM report.uptime_daily WHERE site_id = 777"),
    ("a site's months", SITE_QUERY_BUDGET, "SELECT * FROM report.uptime_monthly WHERE site_id = 777"),
    (
        "a site's hours of a week",
        SITE_QUERY_BUDGET,
        "SELECT * FROM report.latency_hourly WHERE site_id = 777 AND hour > now() - interval '7 days'",
    ),
    (
        "a site's hours of a month",
        SITE_QUERY_BUDGET,
        "SELECT * FROM report.latency_hourly WHERE site_id = 777 AND hour > now() - interval '31 days'",
    ),
    (
        "a site's checks of an hour",
        SITE_QUERY_BUDGET,
        "SELECT * FROM report.checks WHERE site_id = 777 AND scheduled_at > now() - interval '1 hour'",
    ),
    (
        "a site's checks of a day",
        SITE_QUERY_BUDGET,
        "SELECT * FROM report.checks WHERE site_id = 777 AND scheduled_at > now() - interval '1 day'",
    ),
    (
        "a site's last hundred checks",
        SITE_QUERY_BUDGET,
        "SELECT * FROM report.checks WHERE site_id = 777 AND scheduled_at > now() - interval '1 day'
         ORDER BY scheduled_at DESC LIMIT 100",
    ),
    ("how a site is", SITE_QUERY_BUDGET, "SELECT * FROM report.site_status WHERE site_id = 777"),
    ("a site's certificate", SITE_QUERY_BUDGET, "SELECT * FROM report.certificates WHERE site_id = 777"),
    ("a site's incidents", SITE_QUERY_BUDGET, "SELECT * FROM report.incidents WHERE site_id = 777"),
    ("how the fleet is", FLEET_QUERY_BUDGET, "SELECT * FROM report.site_status"),
    (
        "the fleet's last month",
        FLEET_QUERY_BUDGET,
        "SELECT * FROM report.uptime_monthly WHERE month = {last}",
    ),
    (
        "the fleet's month up to now",
        FLEET_QUERY_BUDGET,
        "SELECT * FROM report.uptime_monthly WHERE month = {this}",
    ),
    (
        "the fleet's days of last month, by site",
        FLEET_QUERY_BUDGET,
        "SELECT site_id, avg(uptime_pct), max(p95_ms) FROM report.uptime_daily WHERE day >= {last} AND day < {this} GROUP BY site_id",
    ),
    (
        "the fleet's days up to now, by region",
        FLEET_QUERY_BUDGET,
        "SELECT day, region, sum(up), sum(down), max(p95_ms) FROM report.uptime_daily WHERE day >= {this} GROUP BY day, region",
    ),
    (
        "the fleet's failures of two months",
        FLEET_QUERY_BUDGET,
        "SELECT * FROM report.failures WHERE day >= {last}",
    ),
    ("the fleet's certificates", FLEET_QUERY_BUDGET, "SELECT * FROM report.certificates"),
    (
        "the fleet's hours of a day",
        FLEET_QUERY_BUDGET,
        "SELECT hour, region, max(p95_ms) FROM report.latency_hourly
         WHERE hour >= now() - interval '1 day' GROUP BY hour, region",
    ),
];

#[tokio::main]
pub(crate) async fn run(options: &Options) -> Result<(), Error> {
    let server;
    let url = match &options.database {
        Some(url) => url.clone(),
        None => {
            server = picket_harness::servers::start_postgres().await;
            server.create_database().await
        }
    };
    let mut database = PgConnection::connect(&url).await.map_err(with_context("connect"))?;
    if sqlx::query("SELECT FROM picket.sites LIMIT 1")
        .fetch_optional(&mut database)
        .await
        .ok()
        .flatten()
        .is_none()
    {
        fill_database(&url, options).await?;
    }
    let sizes: String = sqlx::query_scalar(
        "SELECT format('%s rows and %s bytes each in rollups_hourly, %s and %s in check_results, %s in all',
                       (SELECT sum(reltuples)::bigint FROM pg_class WHERE relname LIKE 'rollups_hourly_2%' AND relkind = 'r'),
                       (SELECT round(sum(pg_total_relation_size(oid)) / sum(reltuples)::bigint) FROM pg_class
                        WHERE relname LIKE 'rollups_hourly_2%' AND relkind = 'r' AND reltuples > 0),
                       (SELECT sum(reltuples)::bigint FROM pg_class WHERE relname LIKE 'check_results_2%' AND relkind = 'r' AND reltuples > 0),
                       (SELECT round(sum(pg_total_relation_size(oid)) / sum(reltuples)::bigint) FROM pg_class
                        WHERE relname LIKE 'check_results_2%' AND relkind = 'r' AND reltuples > 0),
                       pg_size_pretty(pg_database_size(current_database())))",
    )
    .fetch_one(&mut database)
    .await
    .map_err(with_context("read sizes"))?;
    print_line(format_args!(
        "{sizes}\n\n| question | rows | median ms | worst ms | allowed ms |\n| --- | --- | --- | --- | --- |"
    ));
    let mut slow = Vec::new();
    for (name, allowed, sql) in REPORT_QUERIES {
        let sql = sql
            .replace("{last}", "(date_trunc('month', now() AT TIME ZONE 'UTC') - interval '1 month')::date")
            .replace("{this}", "date_trunc('month', now() AT TIME ZONE 'UTC')::date");
        let mut times_ms = Vec::new();
        let mut rows = 0;
        for _ in 0..QUERY_ROUNDS {
            let began = Instant::now();
            let result = sqlx::query(AssertSqlSafe(sql.clone())).fetch_all(&mut database).await;
            times_ms.push(began.elapsed().as_secs_f64() * 1_000.0);
            rows = result.map_err(with_context(name))?.len();
        }
        let times_ms = Samples::new(times_ms);
        let at = |share| times_ms.quantile(share).unwrap_or(f64::NAN);
        let (median, worst) = (at(0.5), at(1.0));
        print_line(format_args!("| {name} | {rows} | {median:.1} | {worst:.1} | {} |", allowed.as_millis()));
        if median > allowed.as_secs_f64() * 1_000.0 {
            slow.push(name);
        }
    }
    match slow.is_empty() {
        true => Ok(()),
        false => Err(Error::Failed(format!("too slow: {}", slow.join(", ")))),
    }
}

/// Fills the database with the rows and rollups of months of checks.
async fn fill_database(url: &str, options: &Options) -> Result<(), Error> {
    let began = Instant::now();
    let store = Store::new(&DatabaseOptions { database_url: Some(url.to_owned()) }, "bench", 1)
        .map_err(|error| Error::Failed(error.to_string()))?;
    // 64 is the default number of shards.
    store.migrate(64).await.map_err(|error| Error::Failed(error.to_string()))?;
    let mut database = PgConnection::connect(url).await.map_err(with_context("connect"))?;
    let sites = include_str!("reports/sites.sql")
        .replace("{sites}", &options.sites.to_string())
        .replace("{days}", &options.days.to_string());
    run_script(&mut database, "make sites", sites).await?;
    for back in (0..=options.days).rev() {
        let day = include_str!("reports/day.sql").replace("{back}", &back.to_string());
        run_script(&mut database, "fill a day", day).await?;
        if back % 10 == 0 {
            print_line(format_args!("{back} days to go, after {} s", began.elapsed().as_secs()));
        }
    }
    for back in (1..=options.hours).rev() {
        let rows = include_str!("reports/rows.sql").replace("{back}", &back.to_string());
        run_script(&mut database, "fill an hour", rows).await?;
    }
    run_script(&mut database, "analyze", "VACUUM ANALYZE".to_owned()).await?;
    print_line(format_args!(
        "{} sites in three regions, {} days of rollups, {} hours of rows: filled in {} s",
        options.sites,
        options.days,
        options.hours,
        began.elapsed().as_secs()
    ));
    Ok(())
}

async fn run_script(database: &mut PgConnection, doing: &'static str, sql: String) -> Result<(), Error> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(database).await.map_err(with_context(doing))?;
    Ok(())
}

fn print_line(line: std::fmt::Arguments<'_>) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}
