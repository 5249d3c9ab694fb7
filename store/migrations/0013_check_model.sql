-- Options and assertions of a site, and warnings and details of a result.

ALTER TABLE picket.sites
    ADD COLUMN options jsonb NOT NULL DEFAULT '{}' CONSTRAINT options_are_an_object CHECK (jsonb_typeof(options) = 'object'),
    ADD COLUMN assertions jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT assertions_are_an_object CHECK (jsonb_typeof(assertions) = 'object');
COMMENT ON COLUMN picket.sites.options IS 'How to ask, beyond the other columns; the schema is in proto/schema';
COMMENT ON COLUMN picket.sites.assertions IS 'What a good response is, beyond the other columns; the schema is in proto/schema';

