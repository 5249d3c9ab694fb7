-- Placeholder until the incidents are merged: only what reports read.
CREATE TABLE picket.incidents (
    incident_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    site_id bigint NOT NULL,
    opened_at timestamptz NOT NULL,
    closed_at timestamptz,
    cause picket.cause,
    message text,
    first_failure_at timestamptz,
    regions text[]
);

CREATE TABLE picket.maintenance (
    site_id bigint,
    tag text,
    starts_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL
);

CREATE VIEW report.incidents AS
SELECT incident.incident_id, incident.site_id, site.site, site.url, incident.opened_at, incident.closed_at,
       coalesce(incident.closed_at, now()) - incident.opened_at AS duration, incident.first_failure_at,
       incident.cause, incident.message, incident.regions
FROM picket.incidents AS incident LEFT JOIN picket.known_sites AS site ON site.id = incident.site_id;

COMMENT ON VIEW report.incidents IS 'placeholder';
COMMENT ON COLUMN report.incidents.incident_id IS 'placeholder';
COMMENT ON COLUMN report.incidents.site_id IS 'placeholder';
COMMENT ON COLUMN report.incidents.site IS 'placeholder';
COMMENT ON COLUMN report.incidents.url IS 'placeholder';
COMMENT ON COLUMN report.incidents.opened_at IS 'placeholder';
COMMENT ON COLUMN report.incidents.closed_at IS 'placeholder';
COMMENT ON COLUMN report.incidents.duration IS 'placeholder';
COMMENT ON COLUMN report.incidents.first_failure_at IS 'placeholder';
COMMENT ON COLUMN report.incidents.cause IS 'placeholder';
COMMENT ON COLUMN report.incidents.message IS 'placeholder';
COMMENT ON COLUMN report.incidents.regions IS 'placeholder';
