-- A database for an agent that is not to keep SQLite in its folder. As the administrator, once an institution:
--     psql -X -v ON_ERROR_STOP=1 -v name=bank -f deploy/postgresql/agent.sql
-- Then \password concordat_agent_bank. It holds peers and settings of data sources: no row, no secret.

\set role concordat_agent_ :name

CREATE ROLE :"role" LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 20;
CREATE DATABASE :"role" OWNER :"role" ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE :"role" FROM PUBLIC;

\connect :"role"

ALTER SCHEMA public OWNER TO :"role";
REVOKE ALL ON SCHEMA public FROM PUBLIC;
