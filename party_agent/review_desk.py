"""The modeller's desk in a review, as files in the job's own folder: what she sees, what she asks, what became of it.

`review/bins.json` is what the job shows; `review/ask.json` is one wish, put there by `concordat-party bins`, which runs
beside the job on the same machine and as the same user; `review/answer.json` is what became of the last wish. A wish
stays until it is answered, so that a job that breaks off finds it again.
"""

from __future__ import annotations

import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from party_agent.store import Folder, folder_unusable
from protocols.binning.review import Accept, Change, View, Wish
from protocols.errors import ConcordatError, DataError, TransportError

REVIEW_FOLDER = "review"
BINS_FILE, ASK_FILE, ANSWER_FILE = "bins.json", "ask.json", "answer.json"
TURN_S = 1.0  # a party that still thinks says so this often
POLL_S = 0.1
MOST_BYTES = 64 << 10
_NUMBER = re.compile(r"[0-9a-f]{16}")
STALE_S = 3600  # after its end, what still says that it is open belongs to a job that broke off


@dataclass(frozen=True)
class Ask:
    """A wish as it lies in the folder. number: tells one from the next."""

    number: str
    wish: Wish


class FileDesk:
    """`protocols.binning.review.Desk` in the folder of a job.

    Args: job: its name; minutes: how long the review may take, from now.
    """

    def __init__(self, folder: Folder, job: str, party: str, minutes: float) -> None:
        self._folder = Folder(folder.path / REVIEW_FOLDER)
        self._folder.clear_parts()
        self._job = job
        self._party = party
        self._ends = time.monotonic() + 60 * minutes
        self._told_end: float | None = None  # Unix time, as first told
        self._ask: Ask | None = None
        self._shown: dict[str, Any] = {}

    # -- for the protocol

    def next(self, *, wait: bool) -> Wish | None:
        """See `Desk.next`."""
        deadline = time.monotonic() + TURN_S
        while True:
            self._ask = self._read()
            if self._ask is not None:
                return self._ask.wish
            if not wait or time.monotonic() >= deadline:
                return None
            time.sleep(POLL_S)

    def answer(self, refusal: ConcordatError | None, notes: Sequence[str] = ()) -> None:
        """See `Desk.answer`."""
        ask = self._ask or self._read()  # of an attempt that broke off, perhaps
        self._ask = None
        if ask is not None:
            self._settle(ask.number, refusal, notes)

    def show(self, view: View) -> None:
        """See `Desk.show`."""
        document = {
            "job": self._job,
            "party": self._party,
            "open": True,
            "ends_at": self._end(view.seconds_left),
            "waiting": list(view.waiting),
            **shown_bins(view),
        }
        if document != self._shown:
            self._folder.write_json(BINS_FILE, document)
            self._shown = document

    def seconds_left(self) -> int:
        """See `Desk.seconds_left`."""
        return int(self._ends - time.monotonic())

    def words(self, waiting: Sequence[str], seconds_left: int) -> str:
        """See `Desk.words`."""
        if not waiting:
            return "all parties have accepted the bins"
        until = time.strftime("%H:%M", time.localtime(self._end(seconds_left)))
        return f"waiting for review at {', '.join(waiting)} until {until}"

    def close(self) -> None:
        """The review has ended: what is asked from now on comes too late."""
        self._folder.write_json(BINS_FILE, {**self._shown, "open": False})
        ask = self._read()
        if ask is not None:
            self._settle(ask.number, not_open())

    # -- files

    def _end(self, seconds_left: int) -> float:
        """When the review ends, Unix seconds; told anew only if it has moved by more than a message takes."""
        ends = time.time() + seconds_left
        if self._told_end is None or abs(ends - self._told_end) > 60:
            self._told_end = round(ends)
        return self._told_end

    def _read(self) -> Ask | None:
        path = self._folder.path / ASK_FILE
        try:
            data = path.read_bytes() if path.exists() else None
        except FileNotFoundError:
            return None  # taken back between the two
        except OSError as error:
            raise folder_unusable() from error
        if data is None:
            return None
        try:
            return read_ask(data)
        except DataError as error:
            self._settle("", error)
            return None

    def _settle(self, number: str, refusal: ConcordatError | None, notes: Sequence[str] = ()) -> None:
        error = None if refusal is None else {k: getattr(refusal, k) for k in ("code", "message", "remedy")}
        self._folder.write_json(ANSWER_FILE, {"number": number, "error": error, "notes": list(notes)})
        (self._folder.path / ASK_FILE).unlink(missing_ok=True)


def read_ask(data: bytes) -> Ask:
    """The wish in `data`, which may be anything.

    Raises: DataError: ASK_MALFORMED.
    """
    try:
        document = json.loads(data) if len(data) <= MOST_BYTES else {}
        number, act, feature, given = (document[key] for key in ("number", "act", "feature", "given"))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _ask_malformed() from error
    sound = isinstance(number, str) and _NUMBER.fullmatch(number) is not None
    if not sound or act not in ("accept", "change") or not isinstance(feature, str) or not isinstance(given, dict):
        raise _ask_malformed()
    return Ask(number, Accept() if act == "accept" else Change(feature, given))


def _ask_malformed() -> DataError:
    return DataError("ASK_MALFORMED", "the request is not one of `concordat-party bins`", "use that command")


def shown_bins(view: View) -> dict[str, Any]:
    """What a party knows of the bins: its own by name and, at the label owner, the providers' by alias."""
    table, changed = view.table, view.changed
    own = [
        {
            "name": feature.name,
            "alias": feature.alias,
            "iv": feature.iv / 1000,
            "changed_by": changed.get(feature.name),
            "cuts_sent": sorted({edge for binning in view.sent.get(feature.name, ()) for edge in binning.edges}),
            "groups_sent": sorted({group for b in view.sent.get(feature.name, ()) for group in b.categories}),
            "bins": [
                {"label": label, "rows": rows, "bads": bads, "woe": woe / 10_000}
                for label, rows, bads, woe in zip(
                    feature.labels(6), feature.rows, feature.bads, feature.woe, strict=True
                )
            ],
        }
        for feature in table.features
    ]
    peers = []
    for party, known in table.peers.items():
        for peer in known:
            counted = table.counted[peer.alias]
            peers.append(
                {
                    "alias": peer.alias,
                    "party": party,
                    "iv": peer.iv / 1000,
                    "changed_by": changed.get(peer.alias),
                    "ordered_prebins": counted.ordered_bins,
                    "prebins": [
                        {"rows": rows, "bads": bads, "bin": merged}
                        for rows, bads, merged in zip(counted.rows, counted.bads, counted.merge_map, strict=True)
                    ],
                    "bins": [
                        {"rows": rows, "bads": bads, "woe": woe / 10_000}
                        for rows, bads, woe in zip(peer.rows, peer.bads, peer.woe, strict=True)
                    ],
                }
            )
    budget = {"label_budget": table.label_budget, "label_cost": table.label_cost} if peers else {}
    return {"features": own, "providers": peers, **budget}


# -- for the command


def find_review(folder: Path, job: str | None) -> Path:
    """The folder `review` of a job: of an agent, or of a party in a simulation.

    Raises: DataError: REVIEW_NOT_OPEN: none is open; JOB_UNKNOWN: several are, and `job` does not say which.
    """
    if job is not None:
        places = [folder / "jobs" / Path(job).name / REVIEW_FOLDER, folder / REVIEW_FOLDER]
    else:
        places = [folder / REVIEW_FOLDER, *sorted((folder / "jobs").glob(f"*/{REVIEW_FOLDER}"))]
    found = [place for place in places if (place / BINS_FILE).is_file()]
    found = [place for place in found if _is_open(read_bins(place), job)]
    if not found:
        raise not_open()
    if len(found) > 1:
        raise DataError("JOB_UNKNOWN", "several jobs here wait for a review", "name one with --job")
    return found[0]


def _is_open(document: Mapping[str, Any], job: str | None) -> bool:
    return document["open"] and time.time() < document["ends_at"] + STALE_S and job in (None, document["job"])


def read_bins(review: Path) -> dict[str, Any]:
    """What the job shows.

    Raises: DataError: MODEL_UNREADABLE.
    """
    return Folder(review).read_json(BINS_FILE)


def ask(review: Path, act: str, feature: str, given: Mapping[str, Any], wait_s: float) -> list[str]:
    """Put a wish into the folder and wait for the job's answer; its notes.

    Raises: DataError: REVIEW_BUSY: another wish waits there. TransportError: REVIEW_NO_ANSWER. ConcordatError: the
        refusal, with its own code.
    """
    folder, number = Folder(review), secrets.token_hex(8)
    document = {"number": number, "act": act, "feature": feature, "given": dict(given)}
    part = folder.write(f"ask-{number}.json", json.dumps(document, ensure_ascii=False).encode())
    try:
        os.link(part, review / ASK_FILE)
    except FileExistsError as error:
        raise DataError(
            "REVIEW_BUSY", "another request waits for its answer", "ask again when that one has been answered"
        ) from error
    except OSError as error:
        raise folder_unusable() from error
    finally:
        part.unlink(missing_ok=True)
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        answer = _answer(review)
        if answer.get("number") == number:
            refusal = answer["error"]
            if refusal is not None:
                raise ConcordatError(refusal["code"], refusal["message"], refusal["remedy"])
            return [str(note) for note in answer["notes"]]
        time.sleep(POLL_S)
    if _number(review) == number:
        (review / ASK_FILE).unlink(missing_ok=True)
    raise TransportError(
        "REVIEW_NO_ANSWER",
        "the job did not answer in time",
        "see whether the job still runs, and look at the bins again",
    )


def _number(review: Path) -> object:
    """Of the wish that waits."""
    try:
        return Folder(review).read_json(ASK_FILE).get("number")
    except DataError:
        return None


def _answer(review: Path) -> dict[str, Any]:
    try:
        return Folder(review).read_json(ANSWER_FILE)
    except DataError:
        return {}


def not_open() -> DataError:
    """There is nothing to review."""
    return DataError(
        "REVIEW_NOT_OPEN",
        "no job here waits for a review of its bins",
        "a job waits between binning and training if its recipe says review_minutes under [binning]",
    )
