//! `picket migrate` on a database that was restored.

use sqlx::{Connection, PgConnection};

use crate::Picket;

#[tokio::test]
async fn migrate_reports_a_database_of_another_cluster_and_adopts_its_rows_once() {
    const SAID: &str = "restored from another cluster";
    let picket = Picket::new().await;
    picket.run_ok(&["site", "add", "https://shop.example"]);
    assert!(!picket.run_ok(&["migrate"]).contains(SAID));
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    sqlx::raw_sql("UPDATE picket.settings SET cluster = 'another'").execute(&mut database).await.unwrap();

    assert!(picket.run_ok(&["migrate"]).contains(SAID));
    assert!(!picket.run_ok(&["migrate"]).contains(SAID));
}

#[tokio::test]
async fn migrate_refuses_a_database_with_other_migrations_in_one_message() {
    let picket = Picket::new().await;
    let mut database = PgConnection::connect(&picket.database_url).await.unwrap();
    let other = "UPDATE public._sqlx_migrations SET checksum = sha384('other'), description = 'other' WHERE version = 1";
    sqlx::raw_sql(other).execute(&mut database).await.unwrap();

    let refused = picket.run_rejected(&["migrate"]);

    assert_eq!(refused.lines().count(), 1, "{refused}");
    assert!(refused.contains("its migration 1 is 'other', not 'sites'"), "{refused}");
    assert_eq!(picket.run_rejected(&["status"]), refused);
}
