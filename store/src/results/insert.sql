-- $1 to $22 are the columns of check_results, $23 to $44 of adhoc_results, $45 to $47 of
-- dead_letters.
-- One statement is one transaction in one round trip. unnest() is called in the select list and not
-- in FROM, where each array would first be written to a tuple store: 2.9 µs per row instead of 3.7.
-- Without conflicts, the common case, DO UPDATE costs the same as DO NOTHING.
WITH checks AS (
    INSERT INTO picket.check_results AS kept (
        scheduled_at, site_id, region_id, kind, lateness_us, tls_expires_at, outcome, cause, dns_us, connect_us, tls_us,
        first_byte_us, transfer_us, total_us, body_bytes, http_status, redirects, regex_matched, http_version,
        remote_addr, prober, message)
    SELECT
        unnest($1::timestamptz[]), unnest($2::bigint[]), unnest($3::smallint[]), unnest($4::text[])::picket.kind,
        unnest($5::integer[]), unnest($6::timestamptz[]), unnest($7::text[])::picket.outcome,
        unnest($8::text[])::picket.cause, unnest($9::integer[]), unnest($10::integer[]), unnest($11::integer[]),
        unnest($12::integer[]), unnest($13::integer[]), unnest($14::integer[]), unnest($15::integer[]),
        unnest($16::smallint[]), unnest($17::smallint[]), unnest($18::boolean[]), unnest($19::text[]),
        unnest($20::text[]), unnest($21::text[]), unnest($22::text[])
    -- A real result replaces a missed one; nothing replaces a real result.
    ON CONFLICT (scheduled_at, site_id, region_id, kind) DO UPDATE SET
        lateness_us = excluded.lateness_us, tls_expires_at = excluded.tls_expires_at, outcome = excluded.outcome,
        cause = excluded.cause, dns_us = excluded.dns_us, connect_us = excluded.connect_us, tls_us = excluded.tls_us,
        first_byte_us = excluded.first_byte_us, transfer_us = excluded.transfer_us, total_us = excluded.total_us,
        body_bytes = excluded.body_bytes, http_status = excluded.http_status, redirects = excluded.redirects,
        regex_matched = excluded.regex_matched, http_version = excluded.http_version,
        remote_addr = excluded.remote_addr, prober = excluded.prober, message = excluded.message
    WHERE kept.outcome = 'missed' AND excluded.outcome <> 'missed'
    RETURNING outcome, cause, site_id, region_id, scheduled_at, kind, message
),
adhoc AS (
    INSERT INTO picket.adhoc_results (
        requested_at, started_at, id, region, url, tls_expires_at, outcome, cause, dns_us, connect_us, tls_us,
        first_byte_us, transfer_us, total_us, body_bytes, http_status, redirects, regex_matched, http_version,
        remote_addr, prober, message)
    SELECT
        unnest($23::timestamptz[]), unnest($24::timestamptz[]), unnest($25::text[]), unnest($26::text[]),
        unnest($27::text[]), unnest($28::timestamptz[]), unnest($29::text[])::picket.outcome,
        unnest($30::text[])::picket.cause, unnest($31::integer[]), unnest($32::integer[]), unnest($33::integer[]),
        unnest($34::integer[]), unnest($35::integer[]), unnest($36::integer[]), unnest($37::integer[]),
        unnest($38::smallint[]), unnest($39::smallint[]), unnest($40::boolean[]), unnest($41::text[]),
        unnest($42::text[]), unnest($43::text[]), unnest($44::text[])
    ON CONFLICT DO NOTHING
    RETURNING outcome, cause
),
dead AS (
    INSERT INTO picket.dead_letters (subject, reason, payload)
    SELECT unnest($45::text[]), unnest($46::text[]), unnest($47::text[])
)
-- Counts of new rows; the caller knows the total.
SELECT outcome::text, cause::text, count(*), NULL::bigint AS site_id, NULL::smallint AS region_id,
       NULL::timestamptz AS scheduled_at, NULL::text AS kind, NULL::text AS message
FROM checks GROUP BY 1, 2
UNION ALL
SELECT outcome::text, cause::text, count(*), NULL, NULL, NULL, NULL, NULL FROM adhoc GROUP BY 1, 2
UNION ALL
-- Results that may affect incidents: all results of sites that fail now or were not fully up
-- before. Confirmations are included because they are no ticks, so that no later lookup could find
-- them.
SELECT outcome::text, cause::text, 0, site_id, region_id, scheduled_at, kind::text, message
FROM checks
WHERE outcome <> 'missed'
  AND (kind = 'confirm' OR site_id IN (SELECT site_id FROM picket.site_states)
       OR site_id IN (SELECT site_id FROM checks WHERE outcome = 'down'))
