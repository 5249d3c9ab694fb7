//! Rows that SQL allows and that no process can use, as a database from before the checks at the door may hold them.

/// Values of columns of `picket.sites`.
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

/// The statement that inserts a site for each of `values`, past all triggers; its URL is `url` and the value's place.
pub fn build_insert_sql<'a>(url: &str, values: impl IntoIterator<Item = (&'a str, &'a str)>) -> String {
    let inserts: String = values
        .into_iter()
        .enumerate()
        .map(|(place, (columns, values))| {
            format!(
                "INSERT INTO picket.sites (shard, version, interval_seconds, timeout_ms, url, {columns})
                 VALUES (0, pg_current_xact_id(), 2, 2000, '{url}{place}', {values}) RETURNING id INTO site;
                 UPDATE picket.sites SET shard = picket.shard_of(id) WHERE id = site;
                 PERFORM picket.reconcile_schedules(ARRAY[site]);"
            )
        })
        .collect();
    format!("DO $$ DECLARE site bigint; BEGIN SET LOCAL session_replication_role = replica; {inserts} END $$")
}
