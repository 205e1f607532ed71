"""alembic's entry: runs the migrations on the connection that `party_agent.agent_store` hands over."""

from __future__ import annotations

from alembic import context

from party_agent.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
