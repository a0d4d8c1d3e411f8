"""The session for whoever holds a GPU: whatever a part does, the others and what was measured are kept."""

import json
import subprocess
import sys
import time
from pathlib import Path

import gpu_session
import pytest
from gpu_session import Part, parts, run_session

SCRIPT = Path(gpu_session.__file__)


def part(name: str, seconds: float, program: str) -> Part:
    return Part(name, seconds, [sys.executable, "-c", program])


@pytest.fixture
def out(tmp_path, monkeypatch) -> Path:
    monkeypatch.setattr(gpu_session, "machine", lambda: "device     0: a card\n")
    return tmp_path


def test_a_part_that_fails_or_hangs_costs_the_others_nothing(out):
    rows = 'open({!r}, \'w\').write(\'{{"tokens": 128, "tflops": 2.5}}\\n{{"tokens": 256, "tfl\'); '
    child = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
    began = time.monotonic()
    results = run_session(
        [
            part("fails", 20, rows.format(str(out / "fails.jsonl")) + "raise SystemExit('<the card> is gone')"),
            part("hangs", 2, rows.format(str(out / "hangs.jsonl")) + child + "import time; time.sleep(60)"),
            part("works", 20, f"open({str(out / 'works.json')!r}, 'w').write('{{\"results\": [{{\"speed\": 12345.6}}]}}')"),
        ],
        out,
        60,
    )
    assert time.monotonic() - began < 55  # nobody waited for the processes that sleep
    assert [result["ended"] for result in results] == ["failed with exit code 1", "stopped after 2 s", "done"]
    assert [result["rows"] for result in results] == [
        *[[{"tokens": 128, "tflops": 2.5}]] * 2,  # the row that was cut short is left out
        [{"speed": 12345.6}],
    ]
    assert json.loads((out / "session.json").read_text())["parts"] == results
    page = (out / "session.html").read_text()
    assert "&lt;the card&gt; is gone" in page
    assert "12,346" in page
    assert "a card" in page


def test_the_session_ends_when_its_time_is_over(out):
    results = run_session([part("first", 1, "import time; time.sleep(60)"), part("second", 1, "")], out, 1.5)
    assert [result["ended"] for result in results] == ["stopped after 1 s", "not begun: the time was over"]


def test_the_parts_fit_into_the_time_and_their_scripts_exist(tmp_path):
    planned = parts(tmp_path, tiny=False)
    assert sum(part.seconds for part in planned) <= 8 * 60
    assert all(Path(part.command[1]).is_file() for part in planned)
    assert all(f"\n    {part.name} " in gpu_session.__doc__ for part in planned)


@pytest.mark.slow  # each part starts and compiles as it does on a GPU
def test_every_part_runs_on_a_cpu(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, SCRIPT, "--out", out, "--cpu", "--minutes", "30"]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)
    ended = {part["part"]: part for part in json.loads((out / "session.json").read_text())["parts"]}
    assert {name: part["ended"] for name, part in ended.items()} == dict.fromkeys(ended, "done")
    assert all(row["ok"] for name in ("kernels", "determinism") for row in ended[name]["rows"])
    assert {row["backend"] for row in ended["kernels"]["rows"]} == {"chunked", "blocked"}
    assert {row["way"] for row in ended["attention"]["rows"] if "error" not in row} >= {"auto", "xla"}
    assert ended["pretraining"]["rows"][0]["tokens_per_s"] > 0
    assert any((out / "trace").rglob("*.pb"))
    assert all(row["same"] for row in ended["resume"]["rows"])
