//! Large batches of results.

use crate::results::{database_with_regions, missed_result, now, up_result};

#[tokio::test]
async fn a_large_batch_with_existing_rows_stores_each_row_once() {
    let database = database_with_regions().await;
    let at = now();
    database.insert_results(&[up_result(7, "eu", at), missed_result(8, "eu", at)]).await;

    let rows: Vec<_> = (0..300).map(|site| up_result(site, "eu", at)).collect();
    let written = database.insert_results(&rows).await;

    assert_eq!((written.count_inserted(), written.duplicates), (299, 1));
    assert_eq!(
        database.count_rows("SELECT count(*) FROM picket.check_results WHERE outcome = 'up'").await,
        300
    );
}

#[tokio::test]
async fn a_large_batch_with_a_refused_row_stores_all_others() {
    let database = database_with_regions().await;
    let at = now();
    let mut rows: Vec<_> = (0..300).map(|site| up_result(site, "eu", at)).collect();
    rows[123].scheduled_at = at.saturating_sub(std::time::Duration::from_secs(20 * 86_400));

    let written = database.insert_results(&rows).await;

    assert_eq!((written.count_inserted(), written.refused_by_database), (299, 1));
    assert_eq!(database.list_dead_letters().await.len(), 1);
}
