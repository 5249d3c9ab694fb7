//! `picket migrate` on a database that was restored.

use sqlx::{Connection, PgConnection};

use crate::Picket;

#[tokio::test]
async fn migrate_says_that_a_database_comes_from_another_cluster_and_takes_its_rows_over_once() {
    const SAID: &str = "restored from another cluster";
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example"]);
    assert!(!picket.run_ok(&["migrate"]).contains(SAID));
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    sqlx::raw_sql("UPDATE picket.settings SET cluster = 'another'").execute(&mut database).await.unwrap();

    assert!(picket.run_ok(&["migrate"]).contains(SAID));
    assert!(!picket.run_ok(&["migrate"]).contains(SAID));
}
