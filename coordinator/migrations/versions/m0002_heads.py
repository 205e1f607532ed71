"""Heads of audit logs and receipts for them, on their way between institutions."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "head_notices",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("sender", sa.String(length=32), nullable=False),
        sa.Column("receiver", sa.String(length=32), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("received", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_index("ix_head_notices_sender_receiver", "head_notices", ["sender", "receiver"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_index("ix_head_notices_sender_receiver", table_name="head_notices")
    op.drop_table("head_notices")
