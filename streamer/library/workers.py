"""Processes that do the jobs of a scan, each with its own model and one thread of onnxruntime."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from streamer.library.answer import FileAnswer
from streamer.library.job import Job, Labeller, ScanOptions
from streamer.system.commandline import UserError
from streamer.system.ending import end_with_parent
from streamer.system.interrupts import blocked_for_children

# Not forked: the threads of onnxruntime would not survive that.
CONTEXT = multiprocessing.get_context("spawn")


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None


def do_jobs(
    jobs: Iterable[Job], options: ScanOptions, processes: int
) -> Generator[FileAnswer, None, None]:
    """Yield the answers of jobs, as they are complete, from processes that run at the same time.

    A file at which a process is killed, as by a defect of a decoder, is one that failed; another
    process takes its place. Close the iterator to stop early. `UserError` is raised if no process
    can be started.
    """
    waiting = iter(jobs)
    workers: dict[Connection, _Worker] = {}
    try:
        for _ in range(processes):
            _start(options, workers)
        while workers:
            for connection in wait(list(workers)):
                worker = workers[connection]  # type: ignore[index]
                answer = _receive(worker)
                if worker.connection.closed:
                    del workers[worker.connection]
                    _start(options, workers)
                elif not _send(worker, next(waiting, None)):
                    del workers[worker.connection]
                if answer:
                    yield answer
    finally:
        for worker in workers.values():
            worker.process.terminate()
            worker.connection.close()
        for worker in workers.values():
            worker.process.join()


def _start(options: ScanOptions, workers: dict[Connection, _Worker]) -> None:
    ours, theirs = CONTEXT.Pipe()
    process = CONTEXT.Process(target=_work, args=(theirs, options), name="scan", daemon=True)
    with blocked_for_children():
        process.start()
    # So that the end of the process is the end of what it sends.
    theirs.close()
    workers[ours] = _Worker(process, ours)


def _receive(worker: _Worker) -> FileAnswer | None:
    """Return what a worker answers; None if it is only ready. If it has died, close its pipe."""
    job, worker.job = worker.job, None
    try:
        answer: FileAnswer | None = worker.connection.recv()
    except (EOFError, OSError):
        worker.connection.close()
        worker.process.join()
        status = worker.process.exitcode or 0
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else "ended"
        if job is None:
            raise UserError(
                f"a process that was to read files {how} while it started, perhaps for want of "
                "memory; use fewer --jobs",
                exit_status=1,
            ) from None
        return FileAnswer(job.path, problem=f"the process that read it {how}", failed=True)
    return answer


def _send(worker: _Worker, job: Job | None) -> bool:
    """Give a worker its next job; return whether there is one. Without one it ends."""
    if job is None:
        worker.connection.close()
        worker.process.join()
        return False
    worker.job = job
    # If it has just died, the next `_receive` says so.
    with suppress(OSError):
        worker.connection.send(job)
    return True


def _work(connection: Connection, options: ScanOptions) -> None:
    """Do jobs until there are no more; end at once if the process that has them is gone."""
    end_with_parent()
    labeller = Labeller(options)
    with suppress(EOFError, OSError):
        connection.send(None)
        while True:
            connection.send(labeller.label(connection.recv()))
