-- The lab's database and its three roles. As the administrator of PostgreSQL 14 or later, once:
--     psql -X -v ON_ERROR_STOP=1 -f deploy/postgresql/lab.sql
-- No password is written here: set each with psql's \password, which sends and stores a SCRAM verifier only.
--
-- concordat_lab_owner   owns the tables: `concordat init` and `concordat upgrade`, and nothing else
-- concordat_lab         reads and writes rows: `concordat serve` and every other command; cannot change a table
-- concordat_backup      reads: pg_dump

CREATE ROLE concordat_lab_owner LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 5;
CREATE ROLE concordat_lab LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 50;
CREATE ROLE concordat_backup LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE CONNECTION LIMIT 2;

CREATE DATABASE concordat_lab OWNER concordat_lab_owner ENCODING 'UTF8' TEMPLATE template0;
REVOKE ALL ON DATABASE concordat_lab FROM PUBLIC;
GRANT CONNECT ON DATABASE concordat_lab TO concordat_lab, concordat_backup;

\connect concordat_lab

ALTER SCHEMA public OWNER TO concordat_lab_owner;
REVOKE ALL ON SCHEMA public FROM PUBLIC;
GRANT USAGE ON SCHEMA public TO concordat_lab, concordat_backup;
ALTER DEFAULT PRIVILEGES FOR ROLE concordat_lab_owner IN SCHEMA public
    GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO concordat_lab;
ALTER DEFAULT PRIVILEGES FOR ROLE concordat_lab_owner IN SCHEMA public
    GRANT USAGE ON SEQUENCES TO concordat_lab;
ALTER DEFAULT PRIVILEGES FOR ROLE concordat_lab_owner IN SCHEMA public
    GRANT SELECT ON TABLES TO concordat_backup;
ALTER DEFAULT PRIVILEGES FOR ROLE concordat_lab_owner IN SCHEMA public
    GRANT SELECT ON SEQUENCES TO concordat_backup;

-- One that hangs must not hold up everyone: every statement of the lab takes milliseconds.
ALTER ROLE concordat_lab SET statement_timeout = '30s';
ALTER ROLE concordat_lab SET lock_timeout = '10s';
ALTER ROLE concordat_lab SET idle_in_transaction_session_timeout = '60s';
