"""The agent's database: what one institution keeps beside its files. No secret, no id, no value of a row is in it.

Times are Unix seconds, UTC; hashes are small hexadecimal digits. The schema is made by `party_agent/migrations`, never
by `create_all`; `SCHEMA` is its latest revision.
"""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, ForeignKey, MetaData, String, Table, Text, UniqueConstraint

SCHEMA = "0002"
metadata = MetaData()

# One row a member of the lab. identity: as the lab last told it; pinned: as it was compared out of band, or NULL.
peers = Table(
    "peers",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("identity", String(64), nullable=False),
    Column("pinned", String(64)),
    Column("pinned_at", BigInteger),
    Column("enrolment", String(16), nullable=False),
)

# One row a data source (party_agent/source.py). location: a path, or a URL without its password; relation: a table, or
# the path of a query; secret: env:NAME or file:PATH, where the password is to be found, never the password.
data_sources = Table(
    "data_sources",
    metadata,
    Column("name", String(32), primary_key=True),
    Column("kind", String(16), nullable=False),
    Column("location", Text, nullable=False),
    Column("relation_kind", String(8)),
    Column("relation", Text),
    Column("query_hash", String(64)),
    Column("secret", Text),
    Column("id_column", String(200), nullable=False),
    Column("label_column", String(200)),
    Column("date_column", String(200)),
    Column("roles", JSON, nullable=False),
    Column("aliases", JSON, nullable=False),
    Column("dictionary", Text),
    Column("added", BigInteger, nullable=False),
    Column("published", BigInteger),
    Column("published_hash", String(64)),
)

# The library of models. One row a version: its record, as `protocols/model_record.py` encodes it; hash: of these bytes.
models = Table(
    "models",
    metadata,
    Column("hash", String(64), primary_key=True),
    Column("contract_hash", String(64), nullable=False),
    Column("name", String(64), nullable=False),
    Column("version", BigInteger, nullable=False),
    Column("job", String(64), nullable=False),
    Column("record", Text, nullable=False),
    UniqueConstraint("contract_hash", "name", "version"),
    UniqueConstraint("contract_hash", "job"),
)

# One row a signed event on a model.
model_events = Table(
    "model_events",
    metadata,
    Column("model", ForeignKey("models.hash"), primary_key=True),
    Column("party", String(32), primary_key=True),
    Column("sequence", BigInteger, primary_key=True),
    Column("document", Text, nullable=False),
)
