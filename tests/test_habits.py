"""The files for the forge and for pre-commit say what the Makefile and pyproject.toml say."""

import re
import tomllib

import pytest
import yaml
from conftest import REPOSITORY

FILES = [REPOSITORY / ".pre-commit-config.yaml", *sorted((REPOSITORY / ".github").rglob("*.yml"))]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_it_parses(path):
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


def test_the_workflow_runs_targets_that_there_are_on_the_oldest_python():
    job = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))["jobs"]["test"]
    targets = re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    commands = [step["run"].split() for step in job["steps"] if "run" in step]
    assert [words[:2] for words in commands] == [["make", "lint"], ["make", "test"]]
    assert {words[1] for words in commands} <= set(targets)
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert job["strategy"]["matrix"]["python"][0] == project["requires-python"].removeprefix(">=")


def test_hooks_are_the_projects_own_tools():
    """Nothing is fetched, and what a hook runs is in the environment that make makes."""
    (repository,) = yaml.safe_load(FILES[0].read_text(encoding="utf-8"))["repos"]
    assert repository["repo"] == "local"
    assert all(hook["language"] == "system" and hook["entry"].startswith(".venv/bin/") for hook in repository["hooks"])
