-- Options and assertions of a site, its type, and warnings and details of a result.

-- A value that is added cannot be used before the transaction ends. No statement of this file uses
-- one. Processes do so later: each of a build that knows the values requires this file.
ALTER TYPE picket.cause ADD VALUE 'unexpected_response' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'header' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'certificate' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'slow' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'overdue' BEFORE 'expired';
ALTER TYPE picket.cause ADD VALUE 'unsupported';
ALTER TYPE picket.cause ADD VALUE 'secret_unavailable';
ALTER TYPE picket.cause ADD VALUE 'source_unavailable';
ALTER TYPE picket.cause ADD VALUE 'other';

CREATE TYPE picket.warning AS ENUM ('slow', 'certificate', 'domain', 'loss');

-- Columns that may be null and have no default change no row. Sinks of the release before name the
-- columns that they write, and so leave these null.
ALTER TABLE picket.check_results
    ADD COLUMN warnings picket.warning[],
    ADD COLUMN details jsonb;
ALTER TABLE picket.adhoc_results
    ADD COLUMN warnings picket.warning[],
    ADD COLUMN details jsonb;
COMMENT ON COLUMN picket.check_results.warnings IS
    'Properties of an up result that need attention; null for none';
COMMENT ON COLUMN picket.check_results.details IS
    'Observations that depend on the type of check; null for plain HTTP';

ALTER TABLE picket.sites
    ADD COLUMN options jsonb NOT NULL DEFAULT '{}' CONSTRAINT options_are_an_object CHECK (jsonb_typeof(options) = 'object'),
    ADD COLUMN assertions jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT assertions_are_an_object CHECK (jsonb_typeof(assertions) = 'object');
COMMENT ON COLUMN picket.sites.options IS 'How to ask, beyond the other columns; the schema is in proto/schema';
COMMENT ON COLUMN picket.sites.assertions IS 'What a good response is, beyond the other columns; the schema is in proto/schema';
