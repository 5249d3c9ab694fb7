//! Databases whose migrations are not those of this build.

use picket_store::{Error, MIGRATOR};
use sqlx::{Executor, PgPool};

use crate::{new_database, open_store};

/// Records migrations as a development build left them that had another chain.
const OTHER_CHAIN: &str = "
    CREATE SCHEMA picket;
    CREATE TABLE public._sqlx_migrations (
        version bigint PRIMARY KEY, description text NOT NULL, installed_on timestamptz NOT NULL DEFAULT now(),
        success boolean NOT NULL, checksum bytea NOT NULL, execution_time bigint NOT NULL);
    INSERT INTO public._sqlx_migrations (version, description, success, checksum, execution_time)
    SELECT version, CASE version WHEN 1 THEN 'sites and schedules' ELSE 'other' END, true, sha384(version::text::bytea), 0
    FROM generate_series(1, 26) AS version";

#[tokio::test]
async fn a_database_with_another_chain_of_migrations_is_refused_and_unchanged() {
    let url = picket_harness::servers::shared_postgres().await.create_database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    pool.execute(OTHER_CHAIN).await.unwrap();
    let store = open_store(&url);

    for refused in [
        store.check_schema().await.unwrap_err(),
        store.migrate(64).await.unwrap_err(),
        store.check_usable().await.unwrap_err(),
    ] {
        assert!(matches!(refused, Error::SchemaIncompatible { version: 1, .. }), "{refused:?}");
        assert!(!refused.may_recover(), "waiting cannot help");
        let text = refused.to_string();
        for part in [
            "migration 1 is 'sites and schedules', not 'sites'",
            "'picket export'",
            "(by default .picket)",
            "'picket nats adopt'",
        ] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    let applied: i64 =
        sqlx::query_scalar("SELECT count(*) FROM public._sqlx_migrations").fetch_one(&pool).await.unwrap();
    assert_eq!(applied, 26);
}

#[tokio::test]
async fn migrations_of_a_later_build_are_the_same_chain() {
    let database = new_database().await;
    let later =
        "INSERT INTO public._sqlx_migrations (version, description, success, checksum, execution_time)
                 VALUES (9999, 'later', true, sha384('later'), 0)";
    database.pool.execute(later).await.unwrap();

    database.store.check_schema().await.unwrap();
}

#[test]
fn every_migration_is_in_the_list_of_migrations() {
    let list = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/README.md")).unwrap();
    for migration in MIGRATOR.iter() {
        let name = format!("{:04}_{}.sql", migration.version, migration.description.replace(' ', "_"));
        assert!(list.contains(&format!("| `{name}` |")), "{name}");
    }
}

/// The last file of the first set. A file of the set defines nothing that another one defines.
const FIRST_SET: i64 = 12;

/// A later file may replace a function, a view or an index, with a comment above the statement that
/// says why, or create it again after it renamed the former one.
#[test]
fn each_object_of_the_schema_is_created_by_one_statement() {
    let object_of = |statement: &str| {
        let words = statement.split([' ', '(']).filter(|word| !["UNIQUE", "BEFORE", "AFTER"].contains(word));
        words.take(2).collect::<Vec<_>>().join(" ")
    };
    let mut created = std::collections::BTreeMap::<String, usize>::new();
    for migration in MIGRATOR.iter() {
        let mut line_above = "";
        for line in migration.sql.as_str().lines() {
            if line.starts_with("CREATE OR REPLACE ") {
                let may_replace = migration.version > FIRST_SET && line_above.starts_with("-- ");
                assert!(may_replace, "migration {} {}: {line}", migration.version, migration.description);
            } else if let Some((renamed, _)) = line.split_once(" RENAME TO ") {
                created.remove(&object_of(renamed.trim_start_matches("ALTER ")));
            } else if let Some(index) = line.strip_prefix("DROP ") {
                let may_drop = migration.version > FIRST_SET && line_above.starts_with("-- ");
                assert!(may_drop && index.starts_with("INDEX "), "migration {}: {line}", migration.version);
                created.remove(object_of(&index.replace("picket.", "")).trim_end_matches(';'));
            } else if let Some(object) = line.strip_prefix("CREATE ") {
                *created.entry(object_of(object)).or_default() += 1;
            }
            line_above = line;
        }
    }
    let tables = created.keys().filter(|object| object.starts_with("TABLE picket.")).count();
    assert!(tables > 20, "only {tables} tables found: {created:?}");
    created.retain(|_, count| *count > 1);
    assert_eq!(created, [].into());
}
