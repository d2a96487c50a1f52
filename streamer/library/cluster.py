"""The jobs of a scan on the machines of a Ray cluster."""

from __future__ import annotations

import pickle
from collections.abc import Generator, Iterable
from dataclasses import replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from streamer.library.answer import FileAnswer
from streamer.library.job import Job, Labeller, ScanOptions
from streamer.system.cluster import join
from streamer.system.commandline import UserError


def do_jobs_on_cluster(
    jobs: Iterable[Job], options: ScanOptions, address: str, tasks: int | None = None
) -> Generator[FileAnswer, None, None]:
    """Yield the answers of jobs, as `do_jobs` does, from the machines of a cluster.

    They need the files and the model at the same paths. `tasks` run at once, by default one for
    each processor. Ray starts a task again elsewhere if its machine goes. `UserError` is raised if
    the cluster cannot be reached, or one of its machines cannot load the model.
    """
    ray = join(address, user="--address")
    try:
        remote = ray.remote(num_cpus=1)(_label)
        count = tasks or max(1, int(ray.cluster_resources().get("CPU", 1)))
        pickled = pickle.dumps(options)
        waiting = iter(jobs)
        running: dict[object, Job] = {}
        while True:
            # Twice as many as run, so that none waits for its next file.
            for job in islice(waiting, 2 * count - len(running)):
                running[remote.remote(_moved(job, str(Path(job.path).absolute())), pickled)] = job
            if not running:
                return
            for reference in ray.wait(list(running))[0]:
                job = running.pop(reference)
                try:
                    answer = replace(ray.get(reference), path=job.path)
                except ray.exceptions.RayTaskError as error:
                    # Not of the file: `Labeller.label` returns its errors.
                    reason = str(error.cause).strip().splitlines()[0]
                    raise UserError(
                        f"--address {address}: a machine of the cluster cannot scan ({reason}); "
                        "it needs genre-stream and the model as this one has them",
                        exit_status=1,
                    ) from None
                except ray.exceptions.RayError as error:
                    problem = f"the cluster lost its task ({type(error).__name__})"
                    answer = FileAnswer(job.path, problem=problem, failed=True)
                yield answer
    finally:
        ray.shutdown()


def _moved(job: Job, path: str) -> Job:
    """Return a job whose file has another path."""
    return Job(path, job.known and replace(job.known, path=path))


def _label(job: Job, pickled: bytes) -> FileAnswer:
    return _labeller(pickled).label(job)


@lru_cache(maxsize=1)
def _labeller(pickled: bytes) -> Labeller:
    options: ScanOptions = pickle.loads(pickled)
    return Labeller(options)
