import json
import subprocess
import sys
import time

import pytest

from dnabert2_jax.errors import UserError
from dnabert2_jax.storage import buckets
from dnabert2_jax.storage.leases import Lease

QUICK = {"renewed": 0.2, "expired": 1.0}

HOLD = """
import sys
from dnabert2_jax.storage.leases import Lease
from dnabert2_jax.storage.paths import as_path
Lease(as_path(sys.argv[1]), renewed=0.2, expired=1.0)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(bucket):
    """Another process that holds the lock."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(bucket / ".lock")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_it_is_released(bucket):
    Lease(bucket / ".lock", **QUICK).release()
    assert buckets.read(bucket / ".lock") is None
    Lease(bucket / ".lock", **QUICK).release()


def test_one_that_is_renewed_is_refused_with_its_owner(bucket, holder):
    with pytest.raises(UserError, match=rf"another run \(process {holder.pid} on .*\) is writing to {bucket}; stop it"):
        Lease(bucket / ".lock", **QUICK)


def test_one_whose_process_was_killed_on_this_host_is_taken_over_at_once(bucket, holder):
    holder.kill()
    holder.wait()
    began = time.monotonic()
    lease = Lease(bucket / ".lock", renewed=0.2, expired=60.0)
    assert time.monotonic() - began < 10
    lease.check()
    lease.release()


def test_one_of_another_host_is_taken_over_when_it_has_expired(bucket):
    owner = {"id": "x", "host": "elsewhere", "boot": "other", "pid": 1, "started": "1"}
    buckets.write(bucket / ".lock", json.dumps(owner).encode())
    began = time.monotonic()
    lease = Lease(bucket / ".lock", **QUICK)
    assert time.monotonic() - began >= QUICK["expired"]
    lease.release()


def test_an_owner_that_lost_it_is_told(bucket):
    lease = Lease(bucket / ".lock", renewed=60, expired=60)
    lease.check()
    other = {"id": "y", "host": "elsewhere", "pid": 7}
    buckets.write(bucket / ".lock", json.dumps(other).encode())
    with pytest.raises(UserError, match=r"was taken over by another run \(process 7 on elsewhere\)"):
        lease.check()
    lease.release()
    assert json.loads(buckets.read(bucket / ".lock") or b"") == other


def test_it_survives_a_store_that_does_not_answer_for_a_while(store, bucket):
    lease = Lease(bucket / ".lock", **QUICK)
    store.fault = lambda method, path: 403
    time.sleep(0.5)
    store.fault = lambda method, path: None
    before = buckets.read(bucket / ".lock")
    time.sleep(0.6)
    assert buckets.read(bucket / ".lock") != before
    lease.release()
