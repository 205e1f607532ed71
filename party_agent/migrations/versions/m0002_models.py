"""The library of models: records and signed events."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "models",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("contract_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=64), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("hash"),
        sa.UniqueConstraint("contract_hash", "name", "version"),
        sa.UniqueConstraint("contract_hash", "job"),
    )
    op.create_table(
        "model_events",
        sa.Column("model", sa.String(length=64), nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("document", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["model"], ["models.hash"]),
        sa.PrimaryKeyConstraint("model", "party", "sequence"),
    )


def downgrade() -> None:
    """Take back."""
    op.drop_table("model_events")
    op.drop_table("models")
