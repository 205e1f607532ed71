"""Rules that no single module can keep: what may import what, what may not be there, and pages that match tables."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from protocols import statement
from protocols.binning import messages as binning
from protocols.logistic import messages as logistic
from protocols.moments import messages as moments
from protocols.psi import messages as psi
from protocols.roles import Role
from protocols.rows import messages as rows
from protocols.scoring import messages as scoring
from protocols.session import Step

ROOT = Path(__file__).parents[1]
PACKAGES = ("protocols", "party_agent", "coordinator")
GENERATED = {"concordat_pb2.py"}
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py") if path.name not in GENERATED)
PURE = [path for path in SOURCES if path.is_relative_to(ROOT / "protocols")]
OUTSIDE = {
    "asyncio", "glob", "grpc", "multiprocessing", "os", "pathlib", "random", "secrets", "shutil", "signal",
    "socket", "ssl", "subprocess", "tempfile", "threading", "time", "urllib",
}  # fmt: skip
QUEUES = {"envelope.py", "linked_channel.py"}  # frames between the threads of a transport wait in a queue
FILES = {"audit_files.py"}  # the audit log on disk, of both sides (ADR 16)
SERIALISERS = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def imports(path: Path) -> Iterator[str]:
    """Every module that a file names in an import, wherever in the file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""


def calls(path: Path) -> Iterator[str]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)


def ids(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_packages_are_there() -> None:
    assert len(PURE) > 30
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(PACKAGES)


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_party_and_coordinator_import_protocols_and_never_each_other(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    named = {module.split(".")[0] for module in imports(path)}
    allowed = {"protocols": {"protocols"}, "party_agent": {"protocols", "party_agent"}, "coordinator": set(PACKAGES)}
    if path.name not in SIMULATION:
        allowed["coordinator"] = {"protocols", "coordinator"}
    assert named & {*PACKAGES, "tests", "benchmarks"} <= allowed[package]


# A simulation plays every party on one machine and reads what all of them wrote: it alone may know both sides.
SIMULATION = {"simulate.py", "parity.py", "__main__.py"}


@pytest.mark.parametrize("path", PURE, ids=ids)
def test_protocols_touch_no_socket_file_clock_process_or_randomness_of_their_own(path: Path) -> None:
    if path.name in FILES:
        return
    allowed = {"threading"} if path.name in QUEUES else set()
    assert not {module.split(".")[0] for module in imports(path)} & OUTSIDE - allowed
    reached = {call for call in calls(path) if call == "open" or call.startswith(("np.random", "numpy.random", "os."))}
    assert not reached


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_nothing_is_pickled_and_nothing_is_asserted(path: Path) -> None:
    assert not {module.split(".")[0] for module in imports(path)} & SERIALISERS
    assert not {"eval", "exec", "compile", "__import__"} & set(calls(path))
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(tree(path)))
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
            assert isinstance(node.value, ast.Constant)
            assert node.value.value is False


@pytest.mark.parametrize("path", SOURCES, ids=ids)
def test_no_error_is_swallowed_unnamed_and_no_file_is_a_drawer(path: Path) -> None:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None
    assert path.stem not in {"utils", "base", "manager", "common", "helpers"}


# -- pages -------------------------------------------------------------------------------------------------------------

PAGES: dict[str, tuple[Step, ...]] = {
    "kkrt": psi.KKRT_STEPS,
    "rows": rows.STEPS,
    "binning": (*binning.STEPS, *binning.REVIEW_STEPS),
    "logistic": logistic.STEPS,
    "moments": (*moments.SCREEN_STEPS, *moments.FIT_STEPS, *moments.INFLATION_STEPS),
    "scoring": (*scoring.VALIDATE_STEPS, *statement.STEPS),
}
SEATS = {
    Role.LABEL_OWNER: "A",
    Role.CO_HOLDER: "H_1",
    Role.PROVIDER: "H_j",
    Role.PARTY: "P",
    Role.COORDINATOR: "C",
}


@pytest.mark.parametrize("page", list(PAGES))
def test_every_step_of_a_table_is_on_its_page_with_its_number_sender_and_receiver(page: str) -> None:
    lines = (ROOT / "docs" / "protocols" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    table = [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines if line.startswith("|")]
    on_page = {(number, way.strip("`"), message.strip("`")) for number, way, message, *_ in table if len(_) == 1}
    for step in PAGES[page]:
        assert (step.number, f"{SEATS[step.sender]} -> {SEATS[step.to]}", step.message.__name__) in on_page


@pytest.mark.parametrize("page", list(PAGES))
def test_no_page_has_a_step_that_is_in_no_table(page: str) -> None:
    lines = (ROOT / "docs" / "protocols" / f"{page}.md").read_text(encoding="utf-8").splitlines()
    table = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    on_page = {row[2].strip("`") for row in table if len(row) == 4 and "->" in row[1]}
    assert on_page == {step.message.__name__ for step in PAGES[page]}


@pytest.mark.parametrize("path", PURE, ids=ids)
def test_a_protocol_reads_no_clock(path: Path) -> None:
    assert not [call for call in calls(path) if call.rpartition(".")[2] in {"now", "today", "utcnow"}]


def test_no_web_application_reports_to_anyone() -> None:
    """FastAPI can send traces to wherever an environment variable points: every application switches that off."""
    made = [
        node
        for path in SOURCES
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "FastAPI"
    ]
    assert len(made) >= 2
    off = {"tracing": False, "metrics": False, "logs": False, "auto_configure": False}
    for node in made:
        given = {keyword.arg: keyword.value for keyword in node.keywords}
        assert "telemetry" in given
        assert ast.literal_eval(given["telemetry"]) == off


BELONG_TO = {"google": "protobuf", "grpc": "grpcio", "sklearn": "scikit-learn"}  # modules of another name
COME_WITH = {"starlette": "fastapi", "markupsafe": "jinja2"}  # packages that a dependency is built on and gives out
OF_AN_EXTRA = {"flwr": "flower", "sklearn": "notebook", "matplotlib": "notebook"}


def test_every_package_that_is_imported_is_a_dependency_of_the_installation_that_imports_it() -> None:
    """What only a test tool brings along is missing on the machine of a user."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[\[<>=!~ ;]", requirement)[0].lower() for requirement in requirements}

    core = names(project["dependencies"])
    for path in SOURCES:
        for module in {name.split(".")[0] for name in imports(path)} - sys.stdlib_module_names - {*PACKAGES, ""}:
            package = BELONG_TO.get(module, COME_WITH.get(module, module))
            if module in OF_AN_EXTRA:
                assert package in names(project["optional-dependencies"][OF_AN_EXTRA[module]])
                assert "notebook" in path.parts or path.name in ("flower_app.py", "superlink.py"), path
            else:
                assert package in core, f"{path}: {module}"
