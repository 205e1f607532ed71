"""The epoch of the queue: so that agents notice when its numbers begin again."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Apply."""
    table = op.create_table(
        "queue_epoch",
        sa.Column("epoch", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("epoch"),
    )
    op.bulk_insert(table, [{"epoch": 1 + secrets.randbelow((1 << 21) - 1)}])


def downgrade() -> None:
    """Take back."""
    op.drop_table("queue_epoch")
