import importlib
import math
import os
import subprocess
import sys
import time
from functools import partial

import pytest

from polydit.platform.evaluation.pool import SERIAL_BELOW, map_items

WORK = """
import os

def tell_process(item):
    return os.getpid()

def leave(item):
    return os._exit(item) if item else "stayed"
"""


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A module that workers can import, unlike one of tests."""
    (tmp_path / "work_for_workers.py").write_text(WORK)
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("work_for_workers")
    del sys.modules["work_for_workers"]


def test_order_is_kept_and_errors_stay_with_their_item():
    outcomes = map_items(math.sqrt, [9.0, -1.0, *range(30)], description="roots", processes=2)
    assert outcomes[0].value == 3
    assert outcomes[1].value is None
    assert outcomes[1].problem.startswith("ValueError")
    assert [outcome.value for outcome in outcomes[2:]] == [math.sqrt(n) for n in range(30)]


def test_an_item_beyond_the_limit_is_ended_and_the_others_go_on():
    start = time.monotonic()
    outcomes = map_items(time.sleep, [0.0, 300.0, 0.0, 0.0], description="sleep", time_limit=1.0, processes=1)
    assert time.monotonic() - start < 60
    assert [outcome.timed_out for outcome in outcomes] == [False, True, False, False]
    assert [outcome.problem for outcome in outcomes] == ["", "timed out after 1 s", "", ""]


def test_code_that_holds_the_interpreter_is_ended_too():
    # One long call into C: neither a signal handler nor a thread would get to run.
    outcomes = map_items(partial(pow, 3), [1 << 33, 2], description="power", time_limit=1.0, processes=1)
    assert outcomes[0].timed_out
    assert outcomes[1].value == 9


def test_a_process_that_dies_costs_its_item_alone(work):
    outcomes = map_items(work.leave, [3, 0, 0], description="leave", time_limit=30.0, processes=2)
    assert outcomes[0].problem == "its process died (exit code 3)"
    assert [outcome.value for outcome in outcomes[1:]] == ["stayed", "stayed"]


def test_a_few_items_without_limit_stay_in_this_process(work):
    assert {o.value for o in map_items(work.tell_process, range(SERIAL_BELOW - 1), description="here")} == {os.getpid()}


def test_workers_are_other_processes_and_end_with_the_call(work):
    outcomes = map_items(work.tell_process, range(4), description="there", time_limit=30.0, processes=2)
    for outcome in outcomes:
        assert outcome.value != os.getpid()
        with pytest.raises(ProcessLookupError):
            os.kill(outcome.value, 0)


def test_a_limit_without_workers_is_refused():
    with pytest.raises(ValueError, match="set processes >= 1"):
        map_items(math.sqrt, [1.0], description="roots", time_limit=1.0, processes=0)
    assert map_items(math.sqrt, [], description="roots", time_limit=1.0) == []


def test_a_script_without_a_guard_is_told_so(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "import math\nfrom polydit.platform.evaluation.pool import map_items\n"
        "print(map_items(math.sqrt, [1.0], description='roots', time_limit=60.0))\n"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode != 0
    assert "__name__" in result.stderr.splitlines()[-1]
