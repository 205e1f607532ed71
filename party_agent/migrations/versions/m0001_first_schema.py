"""The first schema. Programs before it made these tables without a version: what is there stays as it is."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    present = set(sa.inspect(op.get_bind()).get_table_names())
    if "data_sources" not in present:
        op.create_table(
            "data_sources",
            sa.Column("name", sa.String(length=32), nullable=False),
            sa.Column("kind", sa.String(length=16), nullable=False),
            sa.Column("location", sa.Text(), nullable=False),
            sa.Column("relation_kind", sa.String(length=8), nullable=True),
            sa.Column("relation", sa.Text(), nullable=True),
            sa.Column("query_hash", sa.String(length=64), nullable=True),
            sa.Column("secret", sa.Text(), nullable=True),
            sa.Column("id_column", sa.String(length=200), nullable=False),
            sa.Column("label_column", sa.String(length=200), nullable=True),
            sa.Column("date_column", sa.String(length=200), nullable=True),
            sa.Column("roles", sa.JSON(), nullable=False),
            sa.Column("aliases", sa.JSON(), nullable=False),
            sa.Column("dictionary", sa.Text(), nullable=True),
            sa.Column("added", sa.BigInteger(), nullable=False),
            sa.Column("published", sa.BigInteger(), nullable=True),
            sa.Column("published_hash", sa.String(length=64), nullable=True),
            sa.PrimaryKeyConstraint("name"),
        )
    if "peers" not in present:
        op.create_table(
            "peers",
            sa.Column("name", sa.String(length=32), nullable=False),
            sa.Column("identity", sa.String(length=64), nullable=False),
            sa.Column("pinned", sa.String(length=64), nullable=True),
            sa.Column("pinned_at", sa.BigInteger(), nullable=True),
            sa.Column("enrolment", sa.String(length=16), nullable=False),
            sa.PrimaryKeyConstraint("name"),
        )


def downgrade() -> None:
    """Take back."""
    op.drop_table("peers")
    op.drop_table("data_sources")
