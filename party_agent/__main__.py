"""`concordat-party`: the commands of one institution."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from protocols.errors import ConcordatError, DataError, LocalProtocolError, PeerAbortedError, TransportError
from protocols.session import Progress

if TYPE_CHECKING:
    from party_agent.model import OwnModel
    from party_agent.stages import Reader, Seat
    from party_agent.store import Folder
    from party_agent.transport import RelayChannel
    from protocols.binning.prebins import FeatureKind
    from protocols.contract import JobKind

app = typer.Typer(
    help="Concordat, the commands of one institution (bank, bureau, tax office, ...).",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

EXIT_REFUSED = 1
EXIT_INTERNAL = 70
_LOG_FILE = "log.jsonl"
_ERROR_FILE = "error.json"


@app.callback()
def _commands() -> None:
    """Rows, keys and the own part of a model never leave this institution's folder."""


FolderOption = Annotated[Path, typer.Option(help="This institution's folder: identity, certificate, contract, model.")]
NameOption = Annotated[str, typer.Option(help="This institution's name in the contract.")]
RelayOption = Annotated[str, typer.Option(help="The coordinator's relay, host:port.")]
OwnDataOption = Annotated[Path | None, typer.Option("--data", help="Own data: CSV or Parquet.")]
SourceOption = Annotated[str | None, typer.Option(help="A registered source (`data add`), instead of --data.")]
HomeOption = Annotated[Path | None, typer.Option(help="The agent's own folder, where it is not the job's.")]
IdOption = Annotated[str, typer.Option("--id", help="Name of the id column.")]
ConnectOption = Annotated[float, typer.Option(help="Seconds to wait for the relay and all peers.")]
SilenceOption = Annotated[float, typer.Option(help="Seconds of a peer's silence that end the job.")]


@app.command()
def job(
    folder: FolderOption,
    name: NameOption,
    relay: RelayOption,
    data: OwnDataOption = None,
    id_column: IdOption = "id",
    label: Annotated[str | None, typer.Option(help="Name of the label column, at the label owner.")] = None,
    source: SourceOption = None,
    home: HomeOption = None,
    split_seed: Annotated[
        int | None, typer.Option(help="Simulations only: draws which rows train. Never a key, a mask or a nonce.")
    ] = None,
    connect_timeout_s: ConnectOption = 60.0,
    silence_timeout_s: SilenceOption = 900.0,
) -> None:
    """Take part in the training job whose signed contract and document lie in the folder."""
    from party_agent.job import TrainingJob
    from protocols.contract import JobKind

    def run(seat: Seat) -> None:
        TrainingJob(seat, _reader(seat, source, data, id_column, label)).run()

    _take_part(
        folder,
        home or folder,
        name,
        relay,
        JobKind.TRAIN,
        run,
        split_seed,
        connect_timeout_s,
        silence_timeout_s,
    )


@app.command()
def score(
    folder: FolderOption,
    name: NameOption,
    relay: RelayOption,
    data: OwnDataOption = None,
    id_column: IdOption = "id",
    source: SourceOption = None,
    home: HomeOption = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of the training job whose model is used, where it is not the job's.")
    ] = None,
    ids: Annotated[
        Path | None,
        typer.Option(help="At the label owner: score only the ids in this file (default: all of its data)."),
    ] = None,
    connect_timeout_s: ConnectOption = 60.0,
    silence_timeout_s: SilenceOption = 900.0,
) -> None:
    """Take part in scoring ids by the masked protocol; the label owner gets `scored.csv` in its folder."""
    from party_agent.dataset import read_ids
    from party_agent.scoring import ScoringJob
    from party_agent.store import Folder
    from protocols.contract import JobKind

    def run(seat: Seat) -> None:
        def rows(own: OwnModel) -> Reader:
            return _reader(seat, source, data, id_column, model_columns=own.kinds)

        asked = None if ids is None else lambda: read_ids(ids, id_column)[0]
        ScoringJob(seat, Folder(model or folder), rows, asked).run()

    _take_part(
        folder,
        home or folder,
        name,
        relay,
        JobKind.SCORE,
        run,
        None,
        connect_timeout_s,
        silence_timeout_s,
        model,
    )


def _reader(
    seat: Seat,
    source: str | None,
    data: Path | None,
    id_column: str,
    label: str | None = None,
    model_columns: Mapping[str, FeatureKind] | None = None,
) -> Reader:
    """Reads own rows: of a registered source as the contract names it, or of a file.

    Raises: DataError: FILE_MISSING: neither was named.
    """
    from party_agent.contracted import contracted_reader
    from party_agent.dataset import read_table

    if source is not None:
        return contracted_reader(seat.home.path, source, seat.agreement.contract, seat.name, model_columns)
    if data is None:
        raise DataError("FILE_MISSING", "neither a file nor a source was named", "give --data or --source")
    return lambda recipe: read_table(data, id_column, label, recipe, seat.name, model_columns)


@app.command(hidden=True)
def twin(
    out: Annotated[Path, typer.Option(help="Folder of a finished simulation.")],
    sources: Annotated[Path, typer.Option(help="JSON: party -> file, id and label column, own section of the recipe.")],
) -> None:
    """Simulations only: fit the pooled twin, print the differences, render the shared report."""
    from party_agent.pooled_twin import compare

    try:
        _say({"parity": compare(out, json.loads(sources.read_text(encoding="utf-8")))})
    except ConcordatError as error:
        _refuse(error)


def _take_part(
    folder_path: Path,
    home: Path,
    name: str,
    relay: str,
    kind: JobKind,
    run: Callable[[Seat], None],
    split_seed: int | None,
    connect_timeout_s: float,
    silence_timeout_s: float,
    model: Path | None = None,
) -> None:
    """Accept the job, connect, run, and end with the one code that the job has for everybody."""
    from party_agent.policy import OWN_COLUMNS_FILE, accept, keep_own_section
    from party_agent.row_choice import seeded_rows
    from party_agent.stages import Seat
    from party_agent.store import FileNonces, Folder, Log
    from party_agent.transport import RelayChannel, TlsFiles, load_identity
    from protocols.contract import JobKind

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # whoever started this process ends it in order
    folder: Folder | None = None
    channel: RelayChannel | None = None
    try:
        folder = Folder(folder_path)
        (folder.path / _ERROR_FILE).unlink(missing_ok=True)
        log = Log(folder.path / _LOG_FILE)
        identity = load_identity(home / "identity.pem")
        agreement = accept(
            name,
            kind,
            _read(folder.path / "contract.json"),
            _read(folder.path / "job.json"),
            int(time.time()),
            FileNonces(folder.path / "nonces.txt"),
        )
        if kind is JobKind.TRAIN:
            keep_own_section(home, folder, name)
        agreement = agreement.with_own_columns(name, (model or folder.path) / OWN_COLUMNS_FILE)
        tls = home / "tls"
        _say({"stage": "connect", "what": "started", "done": 0, "total": 0})
        channel = RelayChannel(
            relay,
            TlsFiles(tls / "ca.pem", tls / f"{name}.pem", tls / f"{name}.key"),
            me=name,
            identity=identity,
            peers=agreement.contract.peers(name),
            contract_hash=agreement.contract.hash(),
            job=agreement.job.job,
            attempt=agreement.job.attempt,
            roles=agreement.contract.roles(),
            connect_timeout_s=connect_timeout_s,
            receive_timeout_s=silence_timeout_s,
        )
        run(
            Seat(
                name=name,
                agreement=agreement,
                identity=identity,
                channel=channel,
                home=Folder(home),
                folder=folder,
                log=log,
                on_stage=_progress(channel.check),
                row_choice=os.urandom if split_seed is None else seeded_rows(split_seed),
            )
        )
        channel.close()
        log.write("job ended", code="OK")
    except KeyboardInterrupt:
        _fail(folder, channel, TransportError("INTERRUPTED", "the process was ended by a signal", "run the job again"))
    except ConcordatError as error:
        _fail(folder, channel, error)
    except Exception as error:
        _fail(folder, channel, _internal(error))
    _say({"finished": True})


def _fail(folder: Folder | None, channel: RelayChannel | None, error: ConcordatError) -> NoReturn:
    """Tell the peers, unless one of them told us; keep what ended the job in the own folder, and say it."""
    from party_agent.store import Log

    if channel is not None:
        if not isinstance(error, PeerAbortedError):
            settled = channel.abort(error.code)
            if settled != error.code:
                error = PeerAbortedError(settled, "the job was ended by a peer")
        channel.close()
    if folder is not None:
        with contextlib.suppress(ConcordatError):  # a folder that cannot be written may be why the job ended
            folder.write_json(_ERROR_FILE, {"code": error.code, "message": error.message, "remedy": error.remedy})
            Log(folder.path / _LOG_FILE).write("job ended", code=error.code)
    _refuse(error)


def _internal(error: Exception) -> LocalProtocolError:
    """What may be said about a bug: its kind and place. The exception's own text may hold anything."""
    place = error.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = f" at {Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno}" if place else ""
    return LocalProtocolError("INTERNAL_ERROR", f"{type(error).__name__}{where}", "report this code and place as a bug")


def _progress(check: Callable[[], None]) -> Callable[[str, Progress], None]:
    """Say each step on standard output, and notice an abort while computing."""

    def on_stage(stage: str, progress: Progress) -> None:
        check()
        _say({"stage": stage, "what": progress.what, "done": progress.done, "total": progress.total})

    return on_stage


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise TransportError(
            "JOB_UNKNOWN", f"{path.name} is not in this institution's folder", "ask the coordinator for it"
        ) from error


def _refuse(error: ConcordatError) -> NoReturn:
    told = isinstance(error, PeerAbortedError)
    _say({"error": {"code": error.code, "message": error.message, "remedy": error.remedy, "told_by_peer": told}})
    raise typer.Exit(EXIT_INTERNAL if error.code == "INTERNAL_ERROR" else EXIT_REFUSED)


def _say(document: dict[str, object]) -> None:
    try:
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:  # nobody listens any more; whether the job goes on is for the relay's stream to decide
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


_PROCESSES = frozenset({"job", "score", "twin"})


def main() -> None:
    """Entry point. A job's process, which the agent starts, does not load the commands that people use."""
    if len(sys.argv) < 2 or sys.argv[1] not in _PROCESSES:
        mount_commands()
    app()


def _institution(folder: Path) -> str:
    from party_agent.agent_store import read_settings

    return read_settings(folder).name


def _send_to_catalogue(folder: Path, document: bytes) -> None:
    """Hand a signed catalogue entry to the lab."""
    from party_agent.catalogue import SignedEntry
    from party_agent.enrolment import lab_client

    with lab_client(folder) as lab:
        lab.publish(SignedEntry.decode(document).entry.dataset, document.decode())


def mount_commands() -> None:
    """Add the commands that people use to those of a job's process."""
    from party_agent import (
        agent_commands,
        audit_commands,
        data_commands,
        enrolment_commands,
        model_commands,
        review_commands,
    )

    app.add_typer(enrolment_commands.app)
    app.add_typer(data_commands.data_app(_institution, _send_to_catalogue), name="data")
    app.add_typer(agent_commands.app)
    app.add_typer(audit_commands.audit_app, name="audit")
    app.add_typer(model_commands.model_app, name="model")
    app.add_typer(review_commands.bins_app, name="bins")


if __name__ == "__main__":
    main()
