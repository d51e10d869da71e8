"""A process that starts worker processes, for tests: python pool_process.py echo | last | orphan."""

import os
import sys
import time

from igcsearch.search.engines.processes import Channel, WorkerProcess, wait_for


def echo(channel: Channel, word: str) -> None:
    channel.send((word, os.environ["OMP_NUM_THREADS"]))
    while True:
        channel.send(channel.receive())


def last_words(channel: Channel) -> None:
    for number in range(3):
        channel.send(number)
    os._exit(7)


def busy(channel: Channel) -> None:
    channel.send(os.getpid())
    time.sleep(600)


def read(worker: WorkerProcess) -> object:
    while True:
        for _, died in wait_for([worker]):
            for message in worker.messages():
                return message
            assert not died


def main(what: str) -> None:
    if what == "echo":
        before = os.environ.get("OMP_NUM_THREADS")
        worker = WorkerProcess(echo, "hello", threads=3, name="test")
        assert os.environ.get("OMP_NUM_THREADS") == before
        print(*read(worker))
        worker.send("again")
        print(read(worker))
        assert wait_for([worker], timeout=0.1) == []
        worker.process.kill()
        assert wait_for([worker], timeout=20) == [(worker, True)]
        worker.send("lost")
        assert list(worker.messages()) == []
        print(worker.exit())
        worker.end()
    elif what == "last":
        worker, idle = WorkerProcess(last_words, threads=1, name="test"), WorkerProcess(busy, threads=1, name="test")
        read(idle)
        found: list[object] = []
        died = False
        while not died:
            [(one, died)] = wait_for([worker, idle])
            assert one is worker
            found += worker.messages()
        print(*found, worker.exit())
        worker.end()
        idle.end()
    else:
        print(read(WorkerProcess(busy, threads=1, name="test")), flush=True)
        time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1])
