//! Measurement window: the cost of processes over a span of time, and the outcomes of its ticks.

use std::time::Duration;

use picket_harness::proc;
use sqlx::types::time::OffsetDateTime;
use tokio::time::sleep;

use crate::{
    Error,
    table::Percentiles,
    testbed::{Testbed, with_context},
};

/// Span of time by the database's clock.
pub(crate) struct MeasurementWindow {
    pub(crate) from: OffsetDateTime,
    pub(crate) until: OffsetDateTime,
    /// CPU time in seconds, by process.
    cpu_seconds: Vec<(&'static str, f64)>,
    /// Memory in bytes at the end (PSS), by process.
    pub(crate) memory: Vec<(&'static str, u64)>,
}

/// Statistics of the rows in a window.
pub(crate) struct TickStats {
    pub(crate) rows: i64,
    pub(crate) up: i64,
    pub(crate) missed: i64,
    pub(crate) lateness_ms: Percentiles,
    /// Time from the tick to the commit.
    pub(crate) delay_ms: Percentiles,
}

impl MeasurementWindow {
    /// Observes these processes, given by name and process id, for `length`.
    ///
    /// # Errors
    /// Fails if the database does not answer.
    pub(crate) async fn observe(
        bed: &Testbed,
        parts: &[(&'static str, u32)],
        length: Duration,
    ) -> Result<Self, Error> {
        let cost = || parts.iter().map(|(_, pid)| proc::cpu_seconds(*pid)).collect::<Vec<_>>();
        let (from, before) = (bed.database_now().await?, cost());
        sleep(length).await;
        let (until, after) = (bed.database_now().await?, cost());
        let each = parts.iter().zip(before.iter().zip(&after));
        let cpu = each.map(|((name, _), (before, after))| (*name, after - before)).collect();
        let memory = parts.iter().map(|(name, pid)| (*name, proc::memory_bytes(*pid))).collect();
        Ok(Self { from, until, cpu_seconds: cpu, memory })
    }

    /// Length of the window, in seconds.
    pub(crate) fn length_seconds(&self) -> f64 {
        (self.until - self.from).as_seconds_f64()
    }

    /// CPU time per check in µs, by process. NaN without checks.
    pub(crate) fn cpu_us(&self, checks: i64) -> Vec<(&'static str, f64)> {
        let each = |seconds: f64| if checks > 0 { seconds * 1e6 / checks as f64 } else { f64::NAN };
        self.cpu_seconds.iter().map(|(name, seconds)| (*name, each(*seconds))).collect()
    }

    /// Reads the rows of the window's ticks from a table with the columns of `check_results`.
    ///
    /// # Errors
    /// Fails if the database refuses.
    pub(crate) async fn read_tick_stats(&self, bed: &Testbed, table: &str) -> Result<TickStats, Error> {
        // Looks up the time of each commit once, not once per row.
        let sql = format!(
            "WITH found AS MATERIALIZED (
                 SELECT scheduled_at, lateness_us, outcome, xmin AS written FROM {table}
                 WHERE scheduled_at > $1 AND scheduled_at <= $2 AND kind = 'scheduled'),
             commits AS MATERIALIZED (
                 SELECT written, pg_xact_commit_timestamp(written) AS at FROM found GROUP BY written)
             SELECT count(*), count(*) FILTER (WHERE outcome = 'up'), count(*) FILTER (WHERE outcome = 'missed'),
                    percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY lateness_us / 1e3::float8),
                    percentile_disc(ARRAY[0.5, 0.99, 1]) WITHIN GROUP (ORDER BY
                        extract(epoch FROM at - scheduled_at)::float8 * 1e3)
             FROM found JOIN commits USING (written)"
        );
        type Row = (i64, i64, i64, Option<Vec<f64>>, Option<Vec<f64>>);
        let row: Row = sqlx::query_as(sqlx::AssertSqlSafe(sql))
            .bind(self.from)
            .bind(self.until)
            .fetch_one(&bed.database)
            .await
            .map_err(with_context("rows"))?;
        let spread = |quantiles: Option<Vec<f64>>| match quantiles.as_deref() {
            Some([p50, p99, max]) => Percentiles { p50: *p50, p99: *p99, max: *max },
            _ => Percentiles::default(),
        };
        let (rows, up, missed, lateness, delay) = row;
        Ok(TickStats { rows, up, missed, lateness_ms: spread(lateness), delay_ms: spread(delay) })
    }
}
