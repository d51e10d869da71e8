"""The worker process that all pools share: messages, thread counts, deaths that are noticed, none that outlives its parent."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("pool_process.py")


def run(what):
    done = subprocess.run([sys.executable, str(SCRIPT), what], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_messages_go_both_ways_with_the_threads_in_the_environment():
    assert run("echo") == ["hello 3", "again", f"signal 9{', out of memory?' if sys.platform == 'linux' else ''}"]


# A death is told with everything that the process sent before it.
def test_last_words_are_read():
    assert run("last") == ["0 1 2 exit code 7"]


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_process_ends_with_its_parent_in_the_middle_of_its_work():
    parent = subprocess.Popen([sys.executable, str(SCRIPT), "orphan"], stdout=subprocess.PIPE, text=True)
    worker = Path(f"/proc/{int(parent.stdout.readline())}/stat")
    assert worker.exists()
    parent.kill()
    parent.communicate()
    end = time.monotonic() + 10
    while worker.exists() and worker.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end, "it outlives its parent"
        time.sleep(0.05)
