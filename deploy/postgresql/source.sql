-- A role that reads the columns which an institution lets its agent see, and nothing else. In the institution's
-- own warehouse, as its administrator:
--     psql -X -v ON_ERROR_STOP=1 -d warehouse -v schema=risk -v table=loans -v columns='id, y, term' \
--         -f deploy/postgresql/source.sql
-- Then \password concordat_reader. For further tables: the last two statements again.

CREATE ROLE concordat_reader LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 8;
ALTER ROLE concordat_reader SET default_transaction_read_only = on;
ALTER ROLE concordat_reader SET idle_in_transaction_session_timeout = '15min';

GRANT USAGE ON SCHEMA :"schema" TO concordat_reader;
GRANT SELECT (:columns) ON :"schema".:"table" TO concordat_reader;
