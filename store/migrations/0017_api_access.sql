-- Access to the API: tokens, sessions of browsers, and one-time links to sign in.

-- Secrets are kept as their SHA-256. Each has 190 random bits, which no search finds, so that a slow
-- hash would protect nothing more.
CREATE TABLE picket.api_tokens (
    token_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Null for a token that does not expire.
    expires_at timestamptz,
    -- Written at most once a minute; null before the first use.
    last_used_at timestamptz,
    -- Null for a valid token.
    revoked_at timestamptz,
    name text NOT NULL CONSTRAINT token_name_length CHECK (length(name) BETWEEN 1 AND 100),
    secret_hash bytea NOT NULL UNIQUE CONSTRAINT token_secret_is_hashed CHECK (octet_length(secret_hash) = 32),
    scopes text[] NOT NULL
        CONSTRAINT token_scopes CHECK (cardinality(scopes) BETWEEN 1 AND 4 AND scopes <@ ARRAY['read', 'write', 'check', 'admin']),
    -- Only sites with at least one of these tags; null for all sites.
    tags text[] CONSTRAINT token_tags CHECK (cardinality(tags) BETWEEN 1 AND 50),
    -- An administrator makes tokens, so a limit of tags would limit nothing.
    CONSTRAINT admin_has_no_tags CHECK (tags IS NULL OR 'admin' <> ALL (scopes))
);
CREATE UNIQUE INDEX api_tokens_name ON picket.api_tokens (name) WHERE revoked_at IS NULL;
COMMENT ON TABLE picket.api_tokens IS 'Tokens of the API, revoked and expired ones too; picket token manages them';

-- A session has the rights that its person had at sign-in. It ends with its token, 12 hours after
-- its last use, and 7 days after sign-in.
CREATE TABLE picket.sessions (
    session_hash bytea PRIMARY KEY CONSTRAINT session_secret_is_hashed CHECK (octet_length(session_hash) = 32),
    -- The token that signed in; null for a link or another sign-in.
    token_id bigint REFERENCES picket.api_tokens ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    -- Written at most once a minute.
    last_used_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL,
    name text NOT NULL CONSTRAINT session_name_length CHECK (length(name) BETWEEN 1 AND 320),
    scopes text[] NOT NULL
        CONSTRAINT session_scopes CHECK (cardinality(scopes) BETWEEN 1 AND 4 AND scopes <@ ARRAY['read', 'write', 'check', 'admin']),
    tags text[] CONSTRAINT session_tags CHECK (cardinality(tags) BETWEEN 1 AND 50)
);
CREATE INDEX sessions_expires_at ON picket.sessions (expires_at);
CREATE INDEX sessions_token ON picket.sessions (token_id);
COMMENT ON TABLE picket.sessions IS 'Sessions of browsers; the API deletes expired ones';

CREATE TABLE picket.sign_in_links (
    link_hash bytea PRIMARY KEY CONSTRAINT link_secret_is_hashed CHECK (octet_length(link_hash) = 32),
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz NOT NULL
);
COMMENT ON TABLE picket.sign_in_links IS 'Links that sign in once, as an administrator; the API deletes used and expired ones';

-- The rights on the objects of this file.
CREATE FUNCTION picket.grant_api_access_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_api') THEN
        -- The scopes and the secret of a token never change.
        GRANT INSERT (name, secret_hash, scopes, tags, expires_at), UPDATE (last_used_at, revoked_at)
            ON picket.api_tokens TO picket_api;
        GRANT INSERT (session_hash, token_id, name, scopes, tags, expires_at), UPDATE (last_used_at), DELETE
            ON picket.sessions TO picket_api;
        GRANT INSERT (link_hash, expires_at), DELETE ON picket.sign_in_links TO picket_api;
        -- Without require_tickets: who holds this role's login must not make sinks accept forged results.
        GRANT UPDATE (retention_days, rollup_hours_days, rollup_days_days, min_interval, max_interval, lease_time, ledger_grace,
                batch_delay, stream_replicas, results_max_bytes, public_url)
            ON picket.settings TO picket_api;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_api_access_privileges IS
    'The part of picket.grant_roles with the rights on tokens, sessions, links and settings; call that function instead';

SELECT picket.grant_roles();
