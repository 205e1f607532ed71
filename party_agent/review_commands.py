"""`concordat-party bins`: look at the bins of a job that waits for a review, change some, and accept."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from party_agent.agent_commands import JsonOption, _refusing, _say
from party_agent.dataset import column_name
from party_agent.review_desk import ask, find_review, read_bins
from protocols.binning.review_owner import unknown_feature
from protocols.errors import DataError

bins_app = typer.Typer(help="Bins of a job before training: look, change, accept.", no_args_is_help=True)

FolderOption = Annotated[Path, typer.Option(help="This institution's folder, or that of a simulation's party.")]
JobOption = Annotated[str | None, typer.Option(help="The job, where several wait.")]
WaitOption = Annotated[float, typer.Option(help="Seconds to wait for the job's answer.")]


@bins_app.callback()
def _commands() -> None:
    """A job waits between binning and training where its recipe says review_minutes under [binning]."""


@bins_app.command("show")
def show(
    folder: FolderOption,
    job: JobOption = None,
    feature: Annotated[str | None, typer.Option(help="Only this one, by name or alias.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Own bins by name; at the label owner also those of the providers, by alias with the counts of pre-bins."""
    with _refusing(as_json):
        document = read_bins(find_review(folder, job))
        if feature is not None:
            own = [item for item in document["features"] if feature in (item["name"], item["alias"])]
            peers = [item for item in document["providers"] if item["alias"] == feature]
            if not own and not peers:
                raise unknown_feature()
            document |= {"features": own, "providers": peers}
        _say(as_json, document, _text(document))


@bins_app.command("change")
def change(
    feature: Annotated[str, typer.Argument(help="Own column; at the label owner also an alias of a provider.")],
    folder: FolderOption,
    job: JobOption = None,
    splits: Annotated[str | None, typer.Option(help="Own cut points: 30,45,60.")] = None,
    groups: Annotated[
        str | None, typer.Option(help='Own groups of categories: "A,B;C", or JSON: [["A","B"],["C"]].')
    ] = None,
    method: Annotated[str | None, typer.Option(help="chimerge, optimal or quantile.")] = None,
    trend: Annotated[str | None, typer.Option(help="Of the bad rate, with the method optimal.")] = None,
    max_bins: Annotated[int | None, typer.Option(help="Most bins.")] = None,
    min_bin_share: Annotated[float | None, typer.Option(help="Least share of the training rows of a bin.")] = None,
    missing: Annotated[str | None, typer.Option(help="own, nearest or riskiest.")] = None,
    missing_with: Annotated[str | None, typer.Option(help="The value whose bin missing shares.")] = None,
    special: Annotated[str | None, typer.Option(help="own, nearest or riskiest.")] = None,
    special_with: Annotated[str | None, typer.Option(help="The value whose bin special values share.")] = None,
    wait_s: WaitOption = 120.0,
    as_json: JsonOption = False,
) -> None:
    """Bin one feature anew; a provider's costs label counts of the budget. What is not named stays as it was."""
    with _refusing(as_json):
        wishes = {
            "splits": None if splits is None else _numbers(splits),
            "groups": None if groups is None else _groups(groups),
            "method": method,
            "trend": trend,
            "max_bins": max_bins,
            "min_bin_share": min_bin_share,
            "missing": missing,
            "missing_with": None if missing_with is None else _special(missing_with),
            "special": special,
            "special_with": None if special_with is None else _special(special_with),
        }
        given = {key: value for key, value in wishes.items() if value is not None}
        if not given:
            raise DataError(
                "CHANGE_EMPTY", "the request says nothing that is to change", "name --splits, --max-bins, ..."
            )
        review = find_review(folder, job)
        feature = column_name(feature)
        notes = ask(review, "change", feature, given, wait_s)
        document = read_bins(review)
        shown = {
            key: [item for item in document[key] if feature in (item.get("name"), item["alias"])]
            for key in ("features", "providers")
        }
        _say(as_json, {"notes": notes, **shown}, "\n".join([*notes, _text({**document, **shown})]))


@bins_app.command("accept")
def accept(
    folder: FolderOption, job: JobOption = None, wait_s: WaitOption = 120.0, as_json: JsonOption = False
) -> None:
    """Agree to the bins as they are; the job goes on when all parties have, or when time is up."""
    with _refusing(as_json):
        ask(find_review(folder, job), "accept", "", {}, wait_s)
        _say(as_json, {"accepted": True}, "Accepted. The job goes on when all parties have accepted.")


def _numbers(text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise _option("--splits takes numbers with commas between them") from error


def _groups(text: str) -> list[list[str]]:
    if not text.lstrip().startswith("["):
        return [[name.strip() for name in group.split(",")] for group in text.split(";")]
    try:
        groups: list[list[str]] = json.loads(text)
    except ValueError as error:
        raise _option("--groups takes names with commas, groups with semicolons between them, or JSON") from error
    return groups


def _special(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _option(sentence: str) -> DataError:
    return DataError("OPTION_INVALID", sentence, "see `concordat-party bins change --help`")


def _text(document: dict[str, Any]) -> str:
    """Tables for a terminal."""
    until = time.strftime("%H:%M", time.localtime(document["ends_at"]))
    waiting = ", ".join(document["waiting"]) or "nobody"
    lines = [f"Job {document['job']}: waits for {waiting}, until {until}."]
    if document["providers"]:
        left = document["label_budget"] - document["label_cost"]
        lines.append(f"Label counts left for further versions: {left:.1f} of {document['label_budget']:.1f}.")
    for item in document["features"]:
        lines += ["", _head(item["name"], item), *_bin_lines(item["bins"])]
        if item["cuts_sent"]:
            lines.append(f"  cut points sent before: {', '.join(map(repr, item['cuts_sent']))}")
        if item["groups_sent"]:
            lines.append(f"  groups sent before: {'; '.join(','.join(group) for group in item['groups_sent'])}")
    for item in document["providers"]:
        lines += ["", _head(f"{item['alias']} of {item['party']}", item), *_bin_lines(item["bins"])]
        counts = [f"{b['rows']}/{b['bads']}:{b['bin'] + 1}" for b in item["prebins"]]
        lines.append(f"  pre-bins (rows/bads:bin), the first {item['ordered_prebins']} in order: {' '.join(counts)}")
    return "\n".join(lines)


def _head(name: str, item: dict[str, Any]) -> str:
    changed = f", changed by {item['changed_by']}" if item["changed_by"] else ""
    return f"{name}  IV {item['iv']:.3f}{changed}"


def _bin_lines(bins: list[dict[str, Any]]) -> list[str]:
    lines = [f"  {'bin':<4}{'rows':>8}{'bads':>8}{'bad rate':>10}{'WOE':>9}"]
    for number, item in enumerate(bins, 1):
        bads = item["bads"]
        counts = f"{'?':>8}{'?':>10}" if bads is None else f"{bads:>8}{bads / item['rows']:>10.2%}"
        lines.append(f"  {number:<4}{item['rows']:>8}{counts}{item['woe']:>9.4f}  {item.get('label', '')}".rstrip())
    return lines
