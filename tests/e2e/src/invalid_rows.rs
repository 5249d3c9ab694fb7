//! Rows that SQL allows and no process can use. A database older than the constraints may contain
//! such rows.

/// Invalid values of columns of `picket.sites`.
pub const INVALID_VALUES: [(&str, &str); 10] = [
    ("tags", "'{a,NULL}'"),
    ("tags", "'{{a,b},{c,d}}'"),
    ("tags", "'[5:6]={a,b}'"),
    ("regions", "'{{east},{west}}'"),
    ("headers", "'{\"A\": 1e400}'"),
    ("headers", "jsonb_build_object('A', (repeat('[', 200) || repeat(']', 200))::jsonb)"),
    ("headers", "jsonb_build_object('A', repeat('x', 10000000))"),
    ("name", "repeat('n', 2000000)"),
    ("regex", "repeat('r', 200000)"),
    ("status", "repeat('1', 10000000)"),
];

/// Builds a statement that inserts a site for each of `values`, bypassing all triggers. The URL of
/// a site is `url` followed by the index of its value.
pub fn build_insert_sql<'a>(url: &str, values: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let inserts: String = values
        .into_iter()
        .enumerate()
        .map(|(index, (columns, values))| {
            format!(
                "INSERT INTO picket.sites (shard, version, interval_seconds, timeout_ms, url, {columns})
                 VALUES (0, pg_current_xact_id(), 2, 2000, '{url}{index}', {values}) RETURNING id INTO site;
                 UPDATE picket.sites SET shard = picket.shard_of(id) WHERE id = site;
                 PERFORM picket.reconcile_schedules(ARRAY[site]);"
            )
        })
        .collect();
    format!("DO $$ DECLARE site bigint; BEGIN SET LOCAL session_replication_role = replica; {inserts} END $$")
}
