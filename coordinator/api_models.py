"""The routes of the library of models: records and signed events, passed through as the text that came in."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import FastAPI, Path, Request

from coordinator.api_bodies import ContractEventBody, Hex32, ModelSubmission
from coordinator.model_registry import ModelRegistry, StoredVersion
from protocols.model_record import ModelRecord, SignedModelEvent


def add_model_routes(app: FastAPI, registry: ModelRegistry) -> None:
    """Add them to the API."""

    @app.post("/v1/models")
    def submit_model(body: ModelSubmission, request: Request) -> dict[str, Any]:
        """Submit a model that the sender trained as label owner."""
        record = ModelRecord.decode(body.record.encode())
        signed = SignedModelEvent.decode(body.event.encode())
        return {"hash": record.hash(), "created": registry.submit_model(request.state.member, record, signed)}

    @app.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        """The models of the sender's contracts."""
        return {"models": [_model(item) for item in registry.models(request.state.member)]}

    @app.get("/v1/models/{digest}")
    def model(digest: Annotated[Hex32, Path()], request: Request) -> dict[str, Any]:
        """One model with its events."""
        return _model(registry.model(digest, request.state.member))

    @app.post("/v1/models/{digest}/events")
    def add_model_event(digest: Annotated[Hex32, Path()], body: ContractEventBody, request: Request) -> dict[str, Any]:
        """Add an event that the sender signed."""
        signed = SignedModelEvent.decode(body.document.encode())
        return {"created": registry.add_model_event(digest, request.state.member, signed)}


def _model(item: StoredVersion) -> dict[str, Any]:
    return {
        "hash": item.record.hash(),
        "record": item.record.encode().decode(),
        "events": [event.encode().decode() for event in item.events],
    }
