"""What a public repository has around the code: workflows, forms for issues, and one version in every place.

No workflow runs here. They are checked against GitHub's schemas, and whatever they call has to exist.
"""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from tools.check_release import disagreements

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(set((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) - {GITHUB / "ISSUE_TEMPLATE" / "config.yml"})
SCHEMAS = {
    "vendor.github-workflows": WORKFLOWS,
    "vendor.github-issue-forms": FORMS,
    "vendor.dependabot": [GITHUB / "dependabot.yml"],
    "vendor.citation-file-format": [ROOT / "CITATION.cff"],
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
MAKEFILE = (ROOT / "Makefile").read_text()


def jobs(workflow):
    return yaml.safe_load(workflow.read_text())["jobs"]


def commands(job):
    """What the steps of a job run, with the values of its matrix in place of what refers to them."""
    for step in job["steps"]:
        environment = step.get("env", {})
        values = [""] if not environment else job.get("strategy", {}).get("matrix", {}).get("target", [""])
        for value in values:
            for line in step.get("run", "").splitlines():
                for name in environment:
                    line = line.replace(f'"${name}"', value)
                yield line


COMMANDS = [
    pytest.param(line, id=f"{workflow.stem}: {line}")
    for workflow in WORKFLOWS
    for job in jobs(workflow).values()
    for line in commands(job)
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_fit_their_schemas(schema):
    assert SCHEMAS[schema]
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, *SCHEMAS[schema]]
    check = subprocess.run(command, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_the_workflows_that_are_wanted_are_there():
    """Each Python that the package claims to run on, macOS, the slow tests, the pages, the release."""
    claimed = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if "Python :: 3." in text]
    ci = jobs(GITHUB / "workflows" / "ci.yml")
    assert ci["linux"]["strategy"]["matrix"]["python"] == claimed
    assert PROJECT["requires-python"] == f">={claimed[0]}"
    assert ci["macos"]["runs-on"].startswith("macos-")
    assert set(ci["macos"]["strategy"]["matrix"]["python"]) <= set(claimed)
    called = {param.values[0] for param in COMMANDS}
    assert {".ci/run", "make test", "make test-all", "make docs", "make dist"} <= called


@pytest.mark.parametrize("line", COMMANDS)
def test_what_workflows_run_exists(line):
    program, *words = line.split()
    if program == "make":
        assert words
        for target in words:
            assert re.search(rf"^{re.escape(target)}:", MAKEFILE, re.MULTILINE), target
    else:
        [path] = [word for word in (program, *words) if "/" in word]
        assert (ROOT / path).is_file()
        assert program == "python" or (ROOT / path).stat().st_mode & 0o111


def test_what_workflows_upload_is_made_by_the_target_that_they_call():
    [site] = [
        step["with"]["path"]
        for step in jobs(GITHUB / "workflows" / "docs.yml")["build"]["steps"]
        if "path" in step.get("with", {})
    ]
    assert re.search(rf"^docs:(.*\n\t)*.* docs {site}$", MAKEFILE, re.MULTILINE)
    release = jobs(GITHUB / "workflows" / "release.yml")
    [dist] = [step["with"]["path"] for step in release["build"]["steps"] if "path" in step.get("with", {})]
    assert re.search(rf"^dist:(.*\n\t)*.* --outdir {dist} ", MAKEFILE, re.MULTILINE)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.stem)
def test_jobs_may_only_read_except_the_two_that_publish(workflow):
    assert yaml.safe_load(workflow.read_text())["permissions"] == {"contents": "read"}
    for name, job in jobs(workflow).items():
        assert ("permissions" in job) == (name == "publish")
        if name == "publish":  # it holds a token, so it runs nothing of the repository
            assert not any("run" in step or "checkout" in step["uses"] for step in job["steps"])
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v1)", step.get("uses", "a/b@v1"))


@pytest.mark.parametrize("form", ["bug", "performance"])
def test_reports_come_with_what_doctor_prints(form):
    fields = {
        field.get("id"): field for field in yaml.safe_load((GITHUB / "ISSUE_TEMPLATE" / f"{form}.yml").read_text())["body"]
    }
    assert fields["doctor"]["validations"]["required"]
    assert fields["doctor"]["attributes"]["label"] == "Output of `dnabert2 doctor`"


def test_every_place_has_the_same_version():
    assert disagreements() == []


def test_a_release_with_another_version_somewhere_is_refused(tmp_path):
    (tmp_path / "dnabert2_jax").mkdir()
    (tmp_path / "dnabert2_jax" / "version.py").write_text('__version__ = "1.2.3"\n')
    (tmp_path / "CITATION.cff").write_text("version: 1.2.3\n")
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.3] - 2026-01-02\n\n## [1.2.2] - 2026-01-01\n")
    assert disagreements("v1.2.3", tmp_path) == []
    assert disagreements("1.2.3", tmp_path) == ["tag: 1.2.3 (a tag begins with v), but the package is 1.2.3"]
    assert disagreements("v1.2.4", tmp_path) == ["tag: 1.2.4, but the package is 1.2.3"]
    (tmp_path / "CITATION.cff").write_text("version: 1.2.2\n")
    (tmp_path / "CHANGELOG.md").write_text("## [Unreleased]\n\n## [1.2.2] - 2026-01-01\n")
    assert disagreements("v1.2.3", tmp_path) == [
        "CITATION.cff: 1.2.2, but the package is 1.2.3",
        "CHANGELOG.md, first dated section: 1.2.2, but the package is 1.2.3",
    ]
