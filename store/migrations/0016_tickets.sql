-- Tickets: a MAC in each job that its result must carry back, so that a region's prober can publish results of the checks
-- that it was given and of no others. The keys are for coordinators and sinks alone.

-- The identity of this installation, in each job and result and in the metadata of its streams.
ALTER TABLE picket.settings ADD COLUMN installation_id uuid NOT NULL DEFAULT gen_random_uuid();
COMMENT ON COLUMN picket.settings.installation_id IS
    'Identity of this installation, made once; in each job and result, and in the metadata of its streams';

-- Probers of the release before copy no tickets: where there may be some, tickets are not required yet.
ALTER TABLE picket.settings ADD COLUMN require_tickets boolean NOT NULL DEFAULT true;
COMMENT ON COLUMN picket.settings.require_tickets IS
    'Whether sinks refuse results of scheduled and confirming checks that carry no ticket; see docs/upgrade.md';
UPDATE picket.settings SET require_tickets = NOT EXISTS (SELECT FROM picket.sites);

CREATE TABLE picket.ticket_keys (
    key_id smallint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- 32 bytes from three version 4 UUIDs, which hold 366 random bits.
    key bytea NOT NULL
        DEFAULT sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid()))
        CHECK (length(key) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- No ticket of the key is valid for a check that is due later.
    retired_at timestamptz
);
COMMENT ON TABLE picket.ticket_keys IS
    'Keys of the tickets in jobs, for coordinators and sinks; INSERT … DEFAULT VALUES adds one, used half a minute later';
COMMENT ON COLUMN picket.ticket_keys.key_id IS 'The key''s number, part of each ticket';
COMMENT ON COLUMN picket.ticket_keys.key IS 'The key of HMAC-SHA256: 32 random bytes';
COMMENT ON COLUMN picket.ticket_keys.created_at IS 'Coordinators make tickets with it from half a minute later on';
COMMENT ON COLUMN picket.ticket_keys.retired_at IS 'Checks that are due later have no valid ticket of it; null while it is in use';
INSERT INTO picket.ticket_keys DEFAULT VALUES;
