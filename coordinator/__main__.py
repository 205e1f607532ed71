"""`concordat`: the commands of the lab operator."""

from __future__ import annotations

import json
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from coordinator import simulate as simulation
from coordinator.demo import write_demo
from coordinator.progress import SCORE_STAGES, Display, stages_of
from coordinator.simulate import Outcome, PartyInput, Simulation
from coordinator.summary import print_summary
from protocols.errors import ConcordatError, DataError
from protocols.recipe import Recipe, load_recipe
from protocols.recipe_text import default_recipe_text

app = typer.Typer(
    help="Concordat: a joint credit scorecard, while every row stays with its owner.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

OutOption = Annotated[Path, typer.Option(help="Folder for the results: report.html, report.json, one folder a party.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]
EXIT_REFUSED = 1
EXIT_INTERRUPTED = 130
_PARTY = re.compile(r"([a-z][a-z0-9_-]{0,31})=(.+)")


@app.callback()
def _commands() -> None:
    """The coordinator never holds a row, a bin or a coefficient."""


@app.command()
def simulate(
    out: OutOption,
    party: Annotated[
        list[str], typer.Option(help="NAME=FILE (CSV or Parquet), once a party; the first is the label owner.")
    ],
    id_column: Annotated[str, typer.Option("--id", help="Name of the id column, in every file.")] = "id",
    label: Annotated[str, typer.Option(help="Name of the label column in the first file: 1 = bad, 0 = good.")] = "y",
    recipe: Annotated[Path | None, typer.Option(help="Parameters, TOML; see `concordat recipe`.")] = None,
    check_parity: Annotated[
        bool, typer.Option("--check-parity", help="Also fit the pooled twin on plaintext and report the differences.")
    ] = False,
    connect_timeout_s: Annotated[float, typer.Option(help="Seconds to wait for every party to connect.")] = 60.0,
    as_json: JsonOption = False,
) -> None:
    """Run the whole job on this machine, one process a party, and write the reports to --out."""
    names: list[str] = []
    try:
        inputs = _inputs(party, id_column, label)
        names = [item.name for item in inputs]
        rules = Recipe() if recipe is None else _load(recipe)
        rules.check_parties(names)
        consortium = Simulation.create(out, inputs, rules)
        with Display(consortium.parties.all, quiet=as_json, stages=stages_of(rules)) as display:
            outcome = simulation.train(
                consortium, rules.sample.seed, display.on_event, connect_timeout_s=connect_timeout_s
            )
        if outcome.code == "OK" and check_parity:
            simulation.check_parity(consortium)
    except ConcordatError as error:
        _refuse(error, names, as_json)
    except KeyboardInterrupt:
        _refuse(simulation.interrupted(), names, as_json)
    if outcome.code != "OK":
        _failed(outcome, as_json)
    report = json.loads((out / "report.json").read_bytes())
    if as_json:
        _print_json(_brief(report, out, outcome))
    else:
        print_summary(report, out, outcome)


@app.command()
def resume(
    out: Annotated[Path, typer.Option(help="Folder of a simulation that broke off.")],
    seed: Annotated[int | None, typer.Option(help="The seed that its recipe had, if any.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Go on with a simulation that broke off, from the last stage that every party had finished."""
    names: Sequence[str] = ()
    try:
        consortium = Simulation.load(out)
        names = consortium.parties.all
        with Display(names, quiet=as_json) as display:
            outcome = simulation.train(consortium, seed, display.on_event, resume=True)
    except ConcordatError as error:
        _refuse(error, names, as_json)
    except KeyboardInterrupt:
        _refuse(simulation.interrupted(), names, as_json)
    if outcome.code != "OK":
        _failed(outcome, as_json)
    report = json.loads((out / "report.json").read_bytes())
    if as_json:
        _print_json(_brief(report, out, outcome))
    else:
        print_summary(report, out, outcome)


@app.command()
def score(
    out: Annotated[Path, typer.Option(help="Folder of a finished simulation.")],
    ids: Annotated[
        Path | None, typer.Option(help="File with the ids to be scored (default: all of the label owner's data).")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Score ids with the model of a simulation, by the masked protocol between the parties' processes."""
    names: Sequence[str] = ()
    try:
        consortium = Simulation.load(out)
        names = consortium.parties.all
        with Display(consortium.parties.all, quiet=as_json, stages=SCORE_STAGES) as display:
            outcome = simulation.score(consortium, ids, display.on_event)
    except ConcordatError as error:
        _refuse(error, names, as_json)
    except KeyboardInterrupt:
        _refuse(simulation.interrupted(), names, as_json)
    if outcome.code != "OK":
        _failed(outcome, as_json)
    folder = out / consortium.parties.label_owner
    counts = json.loads((folder / "scored.json").read_bytes())
    if as_json:
        _print_json({"ok": True, "scores": str(folder / "scored.csv"), **counts})
    else:
        typer.echo(f"{counts['scored']:,} of {counts['asked']:,} ids were scored: {folder / 'scored.csv'}")


@app.command()
def demo(
    out: OutOption = Path("build/demo"),
    seed: Annotated[int, typer.Option(help="Seed of the made-up consortium.")] = 2024,
    as_json: JsonOption = False,
) -> None:
    """Make a seeded consortium (bank, credit bureau, tax office) and run the whole job on it."""
    data = out / "data"
    data.mkdir(parents=True, exist_ok=True)
    write_demo(data, seed)
    if not as_json:
        typer.echo(f"A made-up consortium is in {data}: about 6,000 enterprises each, at three institutions.\n")
    simulate(
        out=out / "result",
        party=[f"{name}={data / f'{name}.csv'}" for name in ("bank", "bureau", "tax")],
        recipe=data / "recipe.toml",
        check_parity=True,
        as_json=as_json,
    )


@app.command("recipe")
def print_recipe() -> None:
    """Print every parameter with its default and what it does, as TOML."""
    typer.echo(default_recipe_text(), nl=False)


def _load(path: Path) -> Recipe:
    try:
        return load_recipe(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError("FILE_MISSING", f"the recipe {path} cannot be read", "name an existing TOML file") from error


def _inputs(parties: list[str], id_column: str, label: str) -> list[PartyInput]:
    inputs: list[PartyInput] = []
    for text in parties:
        found = _PARTY.fullmatch(text)
        if found is None:
            raise DataError(
                "PARTY_INVALID", "--party is not NAME=FILE", "write for instance --party bank=bank.csv (small letters)"
            )
        inputs.append(PartyInput(found[1], Path(found[2]), id_column, label if not inputs else None))
    names = [item.name for item in inputs]
    if len(inputs) < 2 or len(set(names)) != len(names) or "coordinator" in names:
        raise DataError(
            "PARTY_INVALID",
            "a job needs a label owner and at least one feature provider, with names that differ",
            "give --party twice or more; 'coordinator' is taken",
        )
    return inputs


def _brief(report: dict[str, Any], out: Path, outcome: Outcome) -> dict[str, Any]:
    return {
        "ok": True,
        "report": str(out / "report.html"),
        "alignment": report["alignment"],
        "training": report["training"],
        "metrics": report["metrics"],
        "keys": report["keys"],
        "parity": report["parity"],
        "seconds": round(outcome.seconds, 1),
        "relayed_bytes": outcome.relayed_bytes,
    }


def _failed(outcome: Outcome, as_json: bool) -> NoReturn:
    """A job that ended for all parties with one code: say it, why, and what each party ended with."""
    first = outcome.first
    if as_json:
        parties = {name: error["code"] for name, error in outcome.errors.items()}
        _print_json({"ok": False, "error": first, "parties": parties})
    else:
        typer.echo(f"{first['code']}: {first['message']}.\nRemedy: {first['remedy']}.", err=True)
        for name, error in outcome.errors.items():
            typer.echo(f"  {name} ended with {error['code']}", err=True)
    raise typer.Exit(_exit_code(outcome.code))


def _refuse(error: ConcordatError, parties: Sequence[str], as_json: bool) -> NoReturn:
    """Nothing was started for any of `parties`, or all of it was over."""
    if as_json:
        words = {"code": error.code, "message": error.message, "remedy": error.remedy}
        _print_json({"ok": False, "error": words, "parties": dict.fromkeys(parties, error.code)})
    else:
        typer.echo(f"{error.code}: {error.message}.\nRemedy: {error.remedy}.", err=True)
    raise typer.Exit(_exit_code(error.code))


def _exit_code(code: str) -> int:
    return EXIT_INTERRUPTED if code == simulation.INTERRUPTED else EXIT_REFUSED


def _print_json(document: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=1) + "\n")


def main() -> None:
    """Entry point."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the job in order, as Ctrl-C does
    if len(sys.argv) < 2 or sys.argv[1] not in _ON_ONE_MACHINE:
        mount_commands()
    app()


_ON_ONE_MACHINE = frozenset({"simulate", "resume", "score", "demo", "recipe"})


def mount_commands() -> None:
    """The commands of a lab between institutions; a simulation does not load what they need."""
    from coordinator import audit_commands, job_commands, lab_commands, model_commands

    app.add_typer(lab_commands.app)
    app.add_typer(job_commands.job_app, name="job")
    app.add_typer(model_commands.app)
    app.add_typer(audit_commands.audit_app, name="audit")


if __name__ == "__main__":
    main()
