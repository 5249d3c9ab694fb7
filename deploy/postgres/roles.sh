#!/bin/sh
# Who may use the database: an owner, who migrates, and a user for each kind of process, with no more than it needs.
# Run it once as a superuser, with psql's own variables (PGHOST, PGUSER …) saying where, before `picket migrate`.
# The passwords are read from the environment, so that no command line shows them.
set -eu
: "${PICKET_OWNER_PASSWORD:?}" "${PICKET_COORDINATOR_PASSWORD:?}" "${PICKET_SINK_PASSWORD:?}" \
    "${PICKET_NOTIFIER_PASSWORD:?}" "${PICKET_API_PASSWORD:?}" "${PICKET_REPORT_PASSWORD:?}"

psql --no-password --no-psqlrc --quiet --set ON_ERROR_STOP=1 --dbname "${POSTGRES_DB:-picket}" <<'SQL'
\getenv owner PICKET_OWNER_PASSWORD
\getenv coordinator PICKET_COORDINATOR_PASSWORD
\getenv sink PICKET_SINK_PASSWORD
\getenv notifier PICKET_NOTIFIER_PASSWORD
\getenv api PICKET_API_PASSWORD
\getenv report PICKET_REPORT_PASSWORD
SELECT current_database() AS database \gset

-- The rights of these are given by the migrations.
CREATE ROLE picket_coordinator NOLOGIN;
CREATE ROLE picket_sink NOLOGIN;
CREATE ROLE picket_notifier NOLOGIN;
CREATE ROLE picket_api NOLOGIN;
CREATE ROLE picket_report NOLOGIN;

CREATE ROLE picket LOGIN PASSWORD :'owner';
-- For one function of its schema, which tells coordinators the age of the oldest open transaction.
GRANT pg_read_all_stats TO picket;
ALTER DATABASE :"database" OWNER TO picket;
CREATE ROLE coordinator LOGIN PASSWORD :'coordinator' IN ROLE picket_coordinator;
CREATE ROLE sink LOGIN PASSWORD :'sink' IN ROLE picket_sink;
CREATE ROLE notifier LOGIN PASSWORD :'notifier' IN ROLE picket_notifier;
CREATE ROLE api LOGIN PASSWORD :'api' IN ROLE picket_api;
CREATE ROLE report LOGIN PASSWORD :'report' IN ROLE picket_report;
-- As long as a transaction is open no dead row is removed. A role's settings are not those of its members: each login needs its own.
ALTER ROLE report SET statement_timeout = '5min';
ALTER ROLE report SET idle_in_transaction_session_timeout = '1min';
SQL
