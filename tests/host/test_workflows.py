""".github/workflows: what can be said of them without the service that runs them. (`make lint` runs actionlint.)"""

import re
import subprocess

import pytest
import yaml
from targets import ROOT

FILES = sorted((ROOT / ".github/workflows").glob("*.yml"))
assert [f.name for f in FILES] == ["ci.yml", "release.yml"]


def load(name):
    found = yaml.safe_load((ROOT / ".github/workflows" / name).read_text())
    return found | {"on": found.pop(True)}  # YAML 1.1 reads `on` as a boolean


def steps(workflow):
    return [step for job in workflow["jobs"].values() for step in job.get("steps", [])]


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.name)
def test_what_a_workflow_names_is_there(file):
    workflow = load(file.name)
    assert "://" not in file.read_text()
    for step in steps(workflow):
        assert ("uses" in step) != ("run" in step), step
        assert "uses" not in step or re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v\d+)", step["uses"]), step
        for path in re.findall(r"(?:tests|tools|\.ci)/[\w./-]+", step.get("run", "")):
            assert (ROOT / path).exists(), path
        for target in re.findall(r"^make (\S+)", step.get("run", ""), re.M):
            done = subprocess.run(["make", "-n", target], cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
    assert all("timeout-minutes" in job for job in workflow["jobs"].values() if "uses" not in job)


def test_only_a_tag_publishes_what_all_systems_have_passed():
    ci, release = load("ci.yml"), load("release.yml")
    assert release["on"] == {"push": {"tags": ["v*"]}} and "tags" not in ci["on"]["push"]
    assert ci["permissions"] == release["permissions"] == {"contents": "read"}
    assert all("permissions" not in job for job in ci["jobs"].values()), "a pull request writes nothing"
    publish = release["jobs"]["publish"]
    assert publish["needs"] == "ci" and release["jobs"]["ci"]["uses"] == "./.github/workflows/ci.yml"
    assert publish["permissions"] == {"contents": "write", "id-token": "write", "attestations": "write"}
    assert publish["environment"] == "pypi"
    # no token anywhere but the one of the job itself; what is built is built once, in ci
    text = (ROOT / ".github/workflows/release.yml").read_text()
    assert "secrets." not in text and "checkout" not in text
    used = [step["uses"].split("@")[0] for step in publish["steps"] if "uses" in step]
    assert used.index("actions/attest-build-provenance") < used.index("pypa/gh-action-pypi-publish")
    assert {os for job in ci["jobs"].values() for os in job.get("strategy", {}).get("matrix", {}).get("os", [])} == {
        "macos-latest",
        "windows-latest",
    }
