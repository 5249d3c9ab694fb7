-- What live views read.

-- The rights on the objects of this file, beyond the views of schema report.
CREATE FUNCTION picket.grant_live_privileges() RETURNS void
    LANGUAGE plpgsql
    SET search_path = pg_catalog, pg_temp
    AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'picket_api') THEN
        -- Replayed incidents have the ids of their events.
        GRANT EXECUTE ON FUNCTION picket.incident_key TO picket_api;
    END IF;
END $$;
COMMENT ON FUNCTION picket.grant_live_privileges IS
    'The part of picket.grant_roles with the rights of live views; call that function instead';

SELECT picket.grant_roles();
