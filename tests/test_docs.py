"""What the pages promise: commands, options, files, links, error codes, words of the statement."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

import coordinator.__main__
import party_agent.__main__
from protocols import pair_masks, statement
from protocols.binning import messages as binning
from protocols.disclosure import Nature
from protocols.logistic import messages as logistic
from protocols.moments import messages as moments
from protocols.psi import messages as psi
from protocols.rows import messages as rows
from protocols.scoring import messages as scoring
from tests.simulator import Job

ROOT = Path(__file__).parents[1]
PACKAGES = ("protocols", "party_agent", "coordinator")
SOURCES = sorted(
    path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name != "concordat_pb2.py"
)
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
AHEAD: set[Path] = set()  # pages whose commands are not on the command line yet
coordinator.__main__.mount_commands()
party_agent.__main__.mount_commands()
APPS = {"concordat": coordinator.__main__.app, "concordat-party": party_agent.__main__.app}
TABLES = (
    psi.STEPS,
    psi.KKRT_STEPS,
    rows.STEPS,
    binning.STEPS,
    logistic.STEPS,
    moments.SCREEN_STEPS,
    moments.FIT_STEPS,
    scoring.VALIDATE_STEPS,
    statement.STEPS,
)

CODE = re.compile(r"[A-Z][A-Z0-9]*(?:_[A-Z0-9]+)+")
NOT_CODES = {
    "GRPC_VERBOSITY",
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "SQLITE_FULL",
}  # of the environment, of SQLite
MENTIONED = {"CONCORDAT_DATA"}  # in a page of errors, and no error


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def strings(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func).rpartition(".")[2], node


# -- commands ----------------------------------------------------------------------------------------------------------


Words = tuple[str, ...]


@cache
def options_of(app: typer.Typer) -> dict[Words, set[str]]:
    """Words of each command, such as ('simulate',), -> its options."""
    found: dict[Words, set[str]] = {}

    def walk(command: Any, words: Words) -> None:
        if hasattr(command, "commands"):
            for name, below in command.commands.items():
                walk(below, (*words, name))
        else:
            found[words] = {option for parameter in command.params for option in parameter.opts}

    walk(typer.main.get_command(app), ())
    return found


def command_lines(page: str) -> list[list[str]]:
    """Words of every command of ours in code blocks and code spans, without comments, paths and prompts."""
    blocks = re.findall(r"^```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", page, flags=re.MULTILINE | re.DOTALL))
    lines = [line for block in blocks for line in block.splitlines()] + spans
    words = [line.split("#")[0].replace(".venv/bin/", "").split() for line in lines]
    return [line for line in words if line and line[0] in {*APPS, "make", "python"}]


@pytest.mark.parametrize("page", [page for page in PAGES if page not in AHEAD], ids=shown)
def test_every_command_that_a_page_names_exists_with_its_options(page: Path) -> None:
    for line in command_lines(page.read_text(encoding="utf-8")):
        if line[0] == "make" and len(line) > 1 and "=" not in line[1]:
            assert re.search(rf"^{line[1]}:", text("Makefile"), re.MULTILINE), line
        if line[0] in APPS and len(line) > 1 and re.fullmatch(r"[a-z]+", line[1]):
            known = options_of(APPS[line[0]])
            words = max((w for w in known if tuple(line[1:][: len(w)]) == w), key=len, default=())
            assert words or any(w[0] == line[1] for w in known), line
            assert {word for word in line if word.startswith("--")} <= known.get(words, set()), line
        if line[:2] == ["python", "-m"] and line[2] != "pytest":
            assert (ROOT / f"{line[2].replace('.', '/')}.py").is_file(), line


def test_the_readme_names_the_commands_that_a_user_needs() -> None:
    lines = command_lines(text("README.md"))
    assert ["make", "demo"] in lines
    assert ["make", "test"] in lines
    named = {line[1] for line in lines if line[0] == "concordat" and len(line) > 1}
    assert {"simulate", "recipe", "score"} <= named


def test_every_option_that_the_readme_names_belongs_to_a_command() -> None:
    known = {option for app in APPS.values() for options in options_of(app).values() for option in options}
    named = set(re.findall(r"`(--[a-z][a-z-]*)", text("README.md")))
    assert named
    assert named <= known


# -- files and links ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=shown)
def test_every_link_of_a_page_leads_to_a_file(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("http://", "https://", "#")):
            assert (page.parent / target.partition("#")[0]).exists(), target


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md", "docs/architecture.md", "docs/adr"])
def test_every_path_of_the_repository_that_a_page_names_exists(page: str) -> None:
    pages = sorted((ROOT / page).glob("*.md")) if (ROOT / page).is_dir() else [ROOT / page]
    assert pages
    for one in pages:
        named = re.findall(
            r"\b((?:protocols|party_agent|coordinator|tests|docs|benchmarks)/[\w/.-]*\w)", one.read_text("utf-8")
        )
        for path in named:
            beside_the_page = (one.parent / path).exists() or path in {"coordinator/twin.txt"}
            assert (ROOT / path).exists() or beside_the_page, f"{one.name}: {path}"


def test_every_module_in_the_tree_of_the_architecture_page_exists() -> None:
    block = text("docs/architecture.md").split("## Tree")[1].split("```")[1]
    names = re.findall(r"\b[a-z_]+\.py\b", block)
    assert len(names) > 25
    everywhere = {path.name for path in [*SOURCES, *(ROOT / "tests").rglob("*.py")]}
    assert set(names) <= everywhere


def test_every_file_of_the_result_that_the_readme_explains_is_one_that_a_party_writes() -> None:
    table = text("README.md").split("What lies in `result`:")[1].split("\n\n")[1]
    files = {Path(name).name for name in re.findall(r"`([\w/]+\.\w+)`", table)}
    written = {value for path in SOURCES for value in strings(path)}
    assert len(files) > 10
    assert files <= written


# -- errors ------------------------------------------------------------------------------------------------------------


def raised_codes() -> set[str]:
    codes = {value for path in SOURCES for value in strings(path) if CODE.fullmatch(value)}
    for path in SOURCES:
        for name, call in calls(path):
            first = call.args[0] if call.args else None
            if (
                name.endswith("Error")
                and isinstance(first, ast.Constant)
                and re.fullmatch("[A-Z]{3,}", str(first.value))
            ):
                codes.add(str(first.value))
    return codes - NOT_CODES


def documented_codes() -> set[str]:
    """Codes in the first cell of a row."""
    cells = [line.split("|")[1] for line in text("docs/errors.md").splitlines() if line.startswith("|")]
    return {code for cell in cells for code in re.findall(r"`([A-Z][A-Z0-9_]+)`", cell)}


def test_every_error_code_that_the_code_raises_is_in_the_table_of_errors() -> None:
    missing = sorted(raised_codes() - documented_codes())
    assert not missing, f"give each a row in docs/errors.md: {missing}"


def test_every_error_code_in_the_table_of_errors_is_raised_somewhere() -> None:
    beginnings = {
        part.value
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.JoinedStr)
        for part in node.values[:1]
        if isinstance(part, ast.Constant) and re.fullmatch(r"[A-Z_]+_", str(part.value))
    }
    words = {value for path in SOURCES for value in strings(path)}
    unknown = {code for code in documented_codes() - words if not code.startswith(tuple(beginnings))}
    assert not unknown


@pytest.mark.parametrize("page", ["README.md", "SECURITY.md", "docs/protocols/channels.md", "docs/adr"])
def test_a_page_names_no_error_code_that_does_not_exist(page: str) -> None:
    pages = (ROOT / page).glob("*.md") if (ROOT / page).is_dir() else [ROOT / page]
    named = {code for one in pages for code in re.findall(r"`([A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+)`", one.read_text("utf-8"))}
    assert named - MENTIONED <= documented_codes()


def test_every_row_of_the_table_of_errors_says_who_acts_or_where() -> None:
    for line in text("docs/errors.md").splitlines():
        if re.match(r"\| `[A-Z]", line):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            assert all(cells), line


# -- what each party learns --------------------------------------------------------------------------------------------


def opened_texts() -> set[str]:
    """Every text of an opened line that a message class or a role can produce, from the source."""
    found: set[str] = set()
    for path in SOURCES:
        for name, call in calls(path):
            if name not in {"Learned", "_part", "_opened"} or not call.args:
                continue
            masked = any(ast.unparse(argument) == "Nature.MASKED" for argument in call.args)
            if isinstance(call.args[0], ast.Constant) and isinstance(call.args[0].value, str) and not masked:
                found.add(call.args[0].value)
    return found


def table_of_lines() -> set[str]:
    """The third cell of the tables 'line of the statement' in SECURITY.md."""
    rows_ = [line.strip("|").split("|") for line in text("SECURITY.md").splitlines() if line.startswith("|")]
    return {cells[2].strip() for cells in rows_ if len(cells) >= 4}


def test_every_line_that_can_open_is_in_the_table_of_who_learns_what() -> None:
    texts = opened_texts()
    assert len(texts) > 25
    assert not texts - table_of_lines()


def test_the_table_of_who_learns_what_has_no_line_that_cannot_open() -> None:
    rest = table_of_lines() - opened_texts()
    assert {line for line in rest if line and line != "line of the statement" and set(line) != {"-"}} == set()


def test_every_line_that_opened_in_a_whole_job_is_in_the_table(job: Job) -> None:
    lines = [line for ledger in job.stages.ledgers.values() for line in ledger.lines()]
    opened = {line.what for line in lines if line.nature == Nature.OPENED.value}
    assert len(opened) > 10
    assert opened <= table_of_lines()


def test_with_one_provider_parts_open_and_with_more_only_sums(job_of: Callable[[int], Job]) -> None:
    alone, together = (
        {
            line.what
            for ledger in job_of(k).stages.ledgers.values()
            for line in ledger.lines()
            if line.nature == "opened"
        }
        for k in (1, 2)
    )
    only_alone = {line.split("|")[3].strip() for line in text("SECURITY.md").splitlines() if "`k = 1` only |" in line}
    assert only_alone & alone
    assert not only_alone & together


def test_every_message_of_every_protocol_is_on_a_page() -> None:
    pages = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "protocols").glob("*.md"))
    names = {step.message.__name__ for table in TABLES for step in table} | {pair_masks.PairSeed.__name__}
    assert {name for name in names if f"`{name}`" not in pages} == set()


# -- words -------------------------------------------------------------------------------------------------------------

TERMS = (
    "样本对齐", "隐私求交", "分箱", "证据权重", "信息价值", "评分卡", "同态加密", "纵向联邦学习", "label owner",
    "feature provider", "co-holder", "coordinator", "dealer", "residual", "partial logit", "share", "mask", "blind",
    "ledger", "statement", "label budget", "gradient budget",
)  # fmt: skip


@pytest.mark.parametrize("term", TERMS)
def test_the_glossary_has_the_word(term: str) -> None:
    rows_ = [line.split("|")[1:3] for line in text("docs/glossary.md").splitlines() if line.startswith("|")]
    assert any(term in cell for cells in rows_ for cell in cells)


def test_no_word_of_the_glossary_is_defined_twice() -> None:
    words = [line.split("|")[1].strip() for line in text("docs/glossary.md").splitlines() if line.startswith("| ")]
    words = [word for word in words if word != "word"]
    assert len(words) > 60
    assert sorted(words) == sorted(set(words))


def test_pages_speak_of_label_owner_and_provider_not_of_guest_and_host() -> None:
    for path in [*(ROOT / "docs" / "protocols").glob("*.md"), ROOT / "docs" / "architecture.md", ROOT / "SECURITY.md"]:
        assert not re.search(r"\b(guest|active party|passive party)\b", path.read_text(encoding="utf-8")), path


def test_decision_records_are_numbered_without_a_gap_and_say_what_they_cost() -> None:
    records = sorted((ROOT / "docs" / "adr").glob("*.md"))
    assert [int(path.name[:4]) for path in records] == list(range(1, len(records) + 1))
    for path in records:
        record = path.read_text(encoding="utf-8")
        assert record.startswith(f"# {int(path.name[:4])}. ")
        assert all(f"**{part}" in record for part in ("Context", "Decision", "Consequences")), path
        assert len(record.split()) < 600


def test_scores_of_the_example_in_the_readme_are_the_sums_it_shows() -> None:
    page = text("README.md")
    base = int(re.search(r"base of (\d+) points", page)[1])  # type: ignore[index]
    points = {label: int(value) for label, value in re.findall(r"\| ([^|]+?) \| ([+-]\d+) ", page)}
    low, high = points["utilisation up to 50 %"], points["utilisation over 50 %"]
    scores = [base + high + points["3 or more"], base + high + points["no late payment"]]
    scores.append(base + low + points["1 or 2 late payments"])
    assert all(f"**{score}**" in page for score in scores)
