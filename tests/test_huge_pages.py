import os
import subprocess
import sys
from pathlib import Path

import pytest

from dnabert2_jax.huge_pages import TUNABLES, VARIABLE, with_huge_pages

HUGE = "glibc.malloc.hugetlb=1"
DEFRAG = Path("/sys/kernel/mm/transparent_hugepage/defrag")


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A kernel that gives huge pages to who asks, and a C library that can ask."""
    monkeypatch.setattr(os, "confstr", lambda name: "glibc 2.35")
    file = tmp_path / "enabled"
    file.write_text("always [madvise] never\n")
    return file


def test_the_setting_joins_what_the_variable_says(system):
    assert with_huge_pages({"HOME": "/h"}, system) == {"HOME": "/h", TUNABLES: HUGE, VARIABLE: "asked"}
    joined = with_huge_pages({TUNABLES: "glibc.pthread.rseq=0"}, system)
    assert joined == {TUNABLES: f"glibc.pthread.rseq=0:{HUGE}", VARIABLE: "asked"}


def test_a_process_asks_once_even_if_the_setting_is_lost_on_the_way(system):
    again = with_huge_pages({}, system)
    del again[TUNABLES]
    assert with_huge_pages(again, system) is None


@pytest.mark.parametrize(
    "said", [{VARIABLE: "off"}, {VARIABLE: "No"}, {TUNABLES: HUGE}, {TUNABLES: "glibc.malloc.hugetlb=0"}]
)
def test_who_has_said_something_is_left_alone(system, said):
    assert with_huge_pages(said, system) is None


@pytest.mark.parametrize("mode", ["[always] madvise never", "always madvise [never]"])
def test_a_kernel_that_does_not_ask_is_not_asked(system, mode):
    system.write_text(mode)
    assert with_huge_pages({}, system) is None


def test_another_system_is_left_alone(system, tmp_path, monkeypatch):
    assert with_huge_pages({}, tmp_path / "missing") is None
    for library in ("glibc 2.31", None, "musl"):
        monkeypatch.setattr(os, "confstr", lambda name, library=library: library)
        assert with_huge_pages({}, system) is None

    def unknown(name):
        raise ValueError("unrecognized configuration name")

    monkeypatch.setattr(os, "confstr", unknown)
    assert with_huge_pages({}, system) is None


def test_a_process_begins_again_once_with_its_arguments_and_gets_the_pages():
    program = (
        "from dnabert2_jax.huge_pages import start_with_huge_pages\n"
        "import os, sys, numpy\n"
        "print('began', os.getpid(), sys.argv[1:], sys.flags.dont_write_bytecode, flush=True)\n"
        "start_with_huge_pages()\n"
        "block = numpy.ones(2**26, numpy.uint8)\n"
        "huge = [line.split()[1] for line in open('/proc/self/smaps_rollup') if line.startswith('AnonHugePages')]\n"
        "print(os.environ.get('GLIBC_TUNABLES'), huge[0], sys.stdin.read())\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in (TUNABLES, VARIABLE)}
    command = [sys.executable, "-B", "-c", program, "one argument", "--two"]
    done = subprocess.run(command, env=environment, input="typed", capture_output=True, text=True, check=True)
    *began, (tunables, huge, typed) = [
        line.rsplit(" ", 2) if "began" not in line else line for line in done.stdout.splitlines()
    ]
    assert typed == "typed"
    assert len(set(began)) == 1  # the same process, the same arguments, the same flags
    assert "['one argument', '--two'] 1" in began[0]
    if with_huge_pages(environment):
        assert len(began) == 2
        assert tunables == HUGE
        # The kernel makes room for them at once unless it is told not to.
        at_once = any(mode in DEFRAG.read_text() for mode in ("[always]", "[madvise]", "[defer+madvise]"))
        assert int(huge) > 2**15 or not at_once  # of 2^16 kB
    else:
        assert len(began) == 1
        assert tunables == "None"
