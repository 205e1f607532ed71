"""The first schema."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_BIG = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """Apply."""
    op.create_table(
        "catalogue",
        sa.Column("owner", sa.String(length=32), nullable=False),
        sa.Column("dataset", sa.String(length=128), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("published", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("owner", "dataset"),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("issued", _BIG, nullable=False),
        sa.Column("expires", _BIG, nullable=False),
        sa.Column("revoked", _BIG, nullable=True),
        sa.PrimaryKeyConstraint("serial"),
    )
    op.create_index(op.f("ix_certificates_name"), "certificates", ["name"], unique=False)
    op.create_table(
        "contracts",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("proposer", sa.String(length=32), nullable=False),
        sa.Column("received", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("hash"),
    )
    op.create_table(
        "institutions",
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("identity", sa.String(length=64), nullable=False),
        sa.Column("serial", sa.String(length=64), nullable=False),
        sa.Column("certificate_expires", _BIG, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("joined", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("name"),
        sa.UniqueConstraint("identity"),
    )
    op.create_table(
        "invitations",
        sa.Column("token_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("created", _BIG, nullable=False),
        sa.Column("expires", _BIG, nullable=False),
        sa.Column("used", _BIG, nullable=True),
        sa.Column("used_for", sa.String(length=64), nullable=True),
        sa.PrimaryKeyConstraint("token_hash"),
    )
    op.create_index(op.f("ix_invitations_name"), "invitations", ["name"], unique=False)
    op.create_table(
        "nonces",
        sa.Column("nonce", sa.String(length=128), nullable=False),
        sa.Column("expires", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("nonce"),
    )
    op.create_index(op.f("ix_nonces_expires"), "nonces", ["expires"], unique=False)
    op.create_table(
        "requests",
        sa.Column("number", _BIG, autoincrement=True, nullable=False),
        sa.Column("receiver", sa.String(length=32), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("reference", sa.String(length=64), nullable=False),
        sa.Column("attempt", _BIG, nullable=False),
        sa.Column("code", sa.String(length=48), nullable=True),
        sa.Column("at", _BIG, nullable=False),
        sa.PrimaryKeyConstraint("number"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_requests_receiver_number", "requests", ["receiver", "number"], unique=False)
    op.create_table(
        "contract_events",
        sa.Column("hash", sa.String(length=64), nullable=False),
        sa.Column("contract_hash", sa.String(length=64), nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("sequence", _BIG, nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("received", _BIG, nullable=False),
        sa.ForeignKeyConstraint(
            ["contract_hash"],
            ["contracts.hash"],
        ),
        sa.PrimaryKeyConstraint("hash"),
        sa.UniqueConstraint("contract_hash", "party", "sequence"),
    )
    op.create_index(op.f("ix_contract_events_contract_hash"), "contract_events", ["contract_hash"], unique=False)
    op.create_table(
        "contract_members",
        sa.Column("contract_hash", sa.String(length=64), nullable=False),
        sa.Column("name", sa.String(length=32), nullable=False),
        sa.Column("signature", sa.String(length=128), nullable=True),
        sa.Column("signed", _BIG, nullable=True),
        sa.ForeignKeyConstraint(
            ["contract_hash"],
            ["contracts.hash"],
        ),
        sa.PrimaryKeyConstraint("contract_hash", "name"),
    )
    op.create_table(
        "jobs",
        sa.Column("document_hash", sa.String(length=64), nullable=False),
        sa.Column("job", sa.String(length=64), nullable=False),
        sa.Column("attempt", _BIG, nullable=False),
        sa.Column("contract_hash", sa.String(length=64), nullable=False),
        sa.Column("kind", sa.String(length=16), nullable=False),
        sa.Column("document", sa.LargeBinary(), nullable=False),
        sa.Column("submitter", sa.String(length=32), nullable=False),
        sa.Column("submitted", _BIG, nullable=False),
        sa.Column("expires", _BIG, nullable=False),
        sa.Column("state", sa.String(length=16), nullable=False),
        sa.Column("code", sa.String(length=48), nullable=True),
        sa.Column("ended", _BIG, nullable=True),
        sa.ForeignKeyConstraint(
            ["contract_hash"],
            ["contracts.hash"],
        ),
        sa.PrimaryKeyConstraint("document_hash"),
        sa.UniqueConstraint("job", "attempt"),
    )
    op.create_index(op.f("ix_jobs_contract_hash"), "jobs", ["contract_hash"], unique=False)
    op.create_index(op.f("ix_jobs_job"), "jobs", ["job"], unique=False)
    op.create_index(op.f("ix_jobs_state"), "jobs", ["state"], unique=False)
    op.create_table(
        "job_reports",
        sa.Column("number", _BIG, autoincrement=True, nullable=False),
        sa.Column("document_hash", sa.String(length=64), nullable=False),
        sa.Column("party", sa.String(length=32), nullable=False),
        sa.Column("stage", sa.String(length=48), nullable=False),
        sa.Column("code", sa.String(length=48), nullable=True),
        sa.Column("received", _BIG, nullable=False),
        sa.ForeignKeyConstraint(
            ["document_hash"],
            ["jobs.document_hash"],
        ),
        sa.PrimaryKeyConstraint("number"),
    )
    op.create_index(op.f("ix_job_reports_document_hash"), "job_reports", ["document_hash"], unique=False)


def downgrade() -> None:
    """Take back."""
    op.drop_index(op.f("ix_job_reports_document_hash"), table_name="job_reports")
    op.drop_table("job_reports")
    op.drop_index(op.f("ix_jobs_state"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_job"), table_name="jobs")
    op.drop_index(op.f("ix_jobs_contract_hash"), table_name="jobs")
    op.drop_table("jobs")
    op.drop_table("contract_members")
    op.drop_index(op.f("ix_contract_events_contract_hash"), table_name="contract_events")
    op.drop_table("contract_events")
    op.drop_index("ix_requests_receiver_number", table_name="requests")
    op.drop_table("requests")
    op.drop_index(op.f("ix_nonces_expires"), table_name="nonces")
    op.drop_table("nonces")
    op.drop_index(op.f("ix_invitations_name"), table_name="invitations")
    op.drop_table("invitations")
    op.drop_table("institutions")
    op.drop_table("contracts")
    op.drop_index(op.f("ix_certificates_name"), table_name="certificates")
    op.drop_table("certificates")
    op.drop_table("catalogue")
