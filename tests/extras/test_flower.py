"""Flower as launcher: a job through a real federation, and what a hostile app gets of an agent."""

from __future__ import annotations

import http.client
import json
import os
import pwd
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="Flower is in an environment of its own: make test-extras")

from tests.extras.conftest import ENVIRONMENT, NAMES, NODE_USER, ROOT, Federation, online, start_supernode, until
from tests.small_consortium import concordat
from tests.walkthrough import jobs

pytestmark = [pytest.mark.process, pytest.mark.timeout(290)]


def _model(folder: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((folder / "model.json").read_bytes())
    return document


def test_telemetry_update_check_and_installation_at_run_time_are_off() -> None:
    assert len(ENVIRONMENT) == 3
    code = (
        "import flwr.supercore.telemetry as t, flwr.supercore.constant as c, os;"
        "from flwr.superlink.cli.flower_superlink import _runtime_dependency_install_default as d;"
        "print(t.FLWR_TELEMETRY_ENABLED, os.environ[c.FLWR_DISABLE_UPDATE_CHECK], d())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.split() == ["0", "1", "False"]


def test_a_job_launched_through_flower_gives_the_model_of_a_simulation(federation: Federation, tmp_path: Path) -> None:
    walk, root = federation.walk, federation.root
    (root / "recipe.toml").write_text("[keys]\nbits = 2048\n", encoding="utf-8")
    digest, document, settings = (root / "contract.txt").read_text(), root / "job.json", root / "run.toml"
    request = ["jobs", "request", digest[:12], "--recipe", str(root / "recipe.toml"), "--out", str(document)]
    job = str(walk.run("bank", "concordat-party", *request, "--folder", str(walk.folder("bank")))["job"])
    assert all(not jobs(walk, name) for name in NAMES)  # signed, and told to nobody
    subprocess.run(
        [sys.executable, "-m", "coordinator.superlink", "run", "--document", str(document), "--out", str(settings),
         "--nodes", "2", "--watch-s", "200", "--every-s", "2"],
        check=True, timeout=60,
    )  # fmt: skip
    rounds = federation.rounds(federation.run(root / "app", settings), 240)
    assert [len(told["nodes"]) for told in rounds] == [len(NAMES)] * len(rounds)
    answers = list(rounds[0]["nodes"].values())
    assert rounds[0]["round"] == "launch"
    assert answers == [{"job": job, "attempt": 1, "state": "handed", "code": ""}] * len(NAMES)
    assert {answer["state"] for answer in rounds[-1]["nodes"].values()} == {"finished"}
    out = tmp_path / "out"
    assert concordat(federation.consortium.arguments(out), out).returncode == 0
    for name in NAMES:
        folder = walk.folder(name) / "jobs" / job
        assert (folder / "job.json").read_bytes() == document.read_bytes()
        theirs = {item["binning"]["feature"]: item for item in _model(out / name)["features"]}
        ours = {item["binning"]["feature"]: item for item in _model(folder)["features"]}
        assert set(ours) == set(theirs)
        for feature, item in ours.items():
            assert all(item[key] == theirs[feature][key] for key in ("binning", "merge_map", "woe", "iv", "rows"))
            assert abs(item["weight"] - theirs[feature]["weight"]) <= 1e-4


def test_a_hostile_app_reads_nothing_of_the_agents(federation: Federation) -> None:
    if not federation.users:
        pytest.skip("another user's process needs root to be started")
    root, folder = federation.root, federation.walk.folder("bureau")
    agent = federation.walk.daemons[NAMES.index("bureau") + 1]
    app = root / "hostile"
    for side in ("client", "server"):
        (app / "hostile").mkdir(parents=True, exist_ok=True)
        (app / "hostile" / f"{side}_app.py").write_bytes(
            (ROOT / "tests/extras" / f"hostile_{side}_app.py").read_bytes()
        )
    (app / "hostile" / "__init__.py").write_text("")
    (app / "pyproject.toml").write_text(
        '[project]\nname = "hostile"\nversion = "1.0.0"\ndescription = "x"\nlicense = "Apache-2.0"\ndependencies = []\n'
        '[tool.flwr.app]\npublisher = "x"\n[tool.flwr.app.components]\nserverapp = "hostile.server_app:app"\n'
        'clientapp = "hostile.client_app:app"\n[tool.flwr.app.config]\nfolder = ""\npid = 0\n'
    )
    (root / "hostile.toml").write_text(f'folder = "{folder}"\npid = {agent.pid}\n')
    before = sorted(path.name for path in folder.iterdir())
    [told] = federation.rounds(federation.run(app, root / "hostile.toml"), 90)
    answers = [json.loads(text) for text in told["told"]]
    assert len(answers) == len(NAMES)
    for answer in answers:
        assert answer["uid"] == pwd.getpwnam(NODE_USER).pw_uid
        assert answer["own"] > 20  # it ran, and read what is its own
        assert answer["got"] == []
    assert agent.poll() is None
    assert sorted(path.name for path in folder.iterdir()) == before
    assert folder.stat().st_mode & 0o777 == 0o700


def test_the_same_attempts_by_the_agents_own_user_find_everything(federation: Federation, tmp_path: Path) -> None:
    """So that the test above could fail."""
    code = (
        "import sys; from tests.extras.hostile_client_app import loot;"
        "print(sum(line.startswith('read') for line in loot(sys.argv[1], 2**22 + 1, sys.argv[2])['got']))"
    )
    folder, token = tmp_path / "bank", tmp_path / "token"
    token.write_text("x")
    federation.walk.run("bank", "concordat-party", "init", "--folder", str(folder), "--name", "bank")
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(token)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        cwd=ROOT,
    )
    assert int(done.stdout) >= 2


def test_parties_reach_the_fleet_and_nothing_else_of_the_superlink(federation: Federation) -> None:
    trusted = ssl.create_default_context(cafile=str(federation.root / "operator" / "ca.pem"))

    def status(port: int, path: str) -> int:
        connection = http.client.HTTPSConnection("127.0.0.1", port, context=trusted, timeout=10)
        connection.request("POST", path, b"{}", {"Content-Type": "application/json"})
        answer = connection.getresponse().status
        connection.close()
        return answer

    closed = ("/v1/control/start-run", "/v1/control/list-runs", "/v1/runtime/pull-messages", "/docs", "/openapi.json")
    tricks = ("/v1/fleet/../control/list-runs", "/v1/fleet/%2e%2e/control/list-runs", "//v1/control/list-runs")
    for path in (*closed, *tricks):
        assert status(federation.gate_port, path) == 404, path
    assert status(federation.link_port, "/v1/control/list-runs") != 404
    assert status(federation.gate_port, "/v1/fleet/pull-messages") in (400, 401, 403, 415, 422)


def test_a_supernode_whose_key_nobody_registered_stays_out(federation: Federation) -> None:
    stranger = federation.launcher("stranger")
    user = ["--user", NODE_USER] if federation.users else []
    own = federation.root / "stranger"
    federation.walk.run("bank", "concordat-party", "init", "--folder", str(own), "--name", "bank")
    prepare = ["flower", "prepare", "--launcher", str(stranger), *user]
    federation.walk.run("bank", "concordat-party", *prepare, "--folder", str(own))
    authority = stranger / "ca.pem"
    authority.write_bytes((federation.root / "operator" / "ca.pem").read_bytes())
    authority.chmod(0o644)
    process = start_supernode(federation, "stranger", stranger)
    until(lambda: process.poll() is not None, 60, "the stranger's end")
    assert process.returncode != 0
    assert "No SuperNode found with the given public key" in federation.log("superlink")
    assert len(online(federation)) == len(NAMES)
