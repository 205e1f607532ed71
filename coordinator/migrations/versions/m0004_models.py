"""The library of models: records of hashes and opened metrics, and signed events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "models",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("contract_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", _BIG, nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("received", _BIG, nullable=False),
        sa.ForeignKeyConstraint(["contract_hash"], ["contracts.hash"]),
        sa.PrimaryKeyConstraint("hash"),
        sa.UniqueConstraint("contract_hash", "job"),
        sa.UniqueConstraint("contract_hash", "name", "version"),
    )
    op.create_table(
        "model_events",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("sequence", _BIG, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("received", _BIG, nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.hash"]),
        sa.PrimaryKeyConstraint("hash"),
        sa.UniqueConstraint("model", "party", "sequence"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("model_events")
    op.drop_table("models")
