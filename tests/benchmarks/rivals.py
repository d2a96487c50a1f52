"""What a second of sound costs the processor: genre-stream beside what one would pick instead.

``PYTHONPATH=.:tests python -m benchmarks.rivals --install FOLDER`` makes a virtual environment for
each rival in the folder, unless it is there; ``--environment PACKAGE=FOLDER`` (repeatable) names
one that was made before. What cannot be installed or started is a row with the reason.

Everyone answers once a second, on one core, to the same music, in turns. Genre-stream is fed 44.1
kHz in stereo, as a decoder does, so its cost is that of all but decoding. A rival is given the
seconds that its answer is about, mono and at its own rate, for nothing. Weights that do not come
with a package are random, which costs the same: none are downloaded.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.report import Report
from benchmarks.rival import OURS, RIVALS

ROOT = Path(__file__).parents[2]
TORCH = ("torch", "torchaudio", "--extra-index-url", "https://download.pytorch.org/whl/cpu")
PACKAGES: dict[str, list[tuple[str, ...]]] = {
    # Its metadata asks for a NumPy of 2019; Keras 2 has the layers of TensorFlow 1 that it needs.
    "musicnn": [("tensorflow", "tf-keras", "librosa"), ("--no-deps", "musicnn")],
    "essentia-tensorflow": [("essentia-tensorflow",)],
    "panns-inference": [(*TORCH, "panns-inference")],
    "torch-vggish-yamnet": [(*TORCH, "torch-vggish-yamnet", "pyyaml")],
}
"""What is installed for a package, step by step."""
ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_USE_LEGACY_KERAS": "1",
    "CUDA_VISIBLE_DEVICES": "",
}


class UnavailableError(Exception):
    """Why a program is not measured."""


def write_sound(audio: Path, folder: Path) -> None:
    """Decode the music at each rate that someone wants."""
    for rate, channels in {(rival.rate, rival.channels) for rival in (OURS | RIVALS).values()}:
        form = ["-ar", str(rate), "-ac", str(channels), "-f", "f32le", "-"]
        command = ["ffmpeg", "-v", "error", "-i", str(audio), *form]
        content = subprocess.run(command, capture_output=True, check=True).stdout
        shape = (-1, channels) if channels > 1 else (-1,)
        np.save(folder / f"{rate}-{channels}.npy", np.frombuffer(content, "<f4").reshape(shape))


def install(package: str, folder: Path) -> Path:
    """Return the virtual environment of a package; make it if it is not there."""
    environment, done = folder / package, folder / package / "installed"
    if done.exists():
        return environment
    print(f"installing {package}", file=sys.stderr)
    venv.create(environment, with_pip=True, clear=True)
    for packages in PACKAGES[package]:
        command = [str(environment / "bin" / "python"), "-m", "pip", "install"]
        command += ["--quiet", "--disable-pip-version-check", "--retries", "1"]
        pip = subprocess.run([*command, *packages], stderr=subprocess.PIPE, text=True)
        if pip.returncode:
            raise UnavailableError(_reason(pip.stderr))
    done.touch()
    return environment


def _reason(errors: str) -> str:
    """Return the last line of what a program wrote to standard error."""
    return (errors.strip().splitlines() or ["ended without a word"])[-1]


class Program:
    """A running program that answers; `run` measures it."""

    def __init__(self, name: str, python: Path, folder: Path) -> None:
        self.rival = (OURS | RIVALS)[name]
        path = os.pathsep.join([str(ROOT), str(ROOT / "tests")]) if name in OURS else ""
        variables = {**os.environ, **ONE_THREAD, "HOME": str(folder), "PYTHONPATH": path}
        self._errors = (folder / "errors").open("w+")
        self._process = subprocess.Popen(
            [str(python), str(Path(__file__).with_name("rival.py")), name, str(folder)],
            env=variables,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
        )
        self.version: str = self._read()["version"]
        self.seconds: list[float] = []
        """Of a processor for one answer, by round."""
        self.memory = 0.0

    def run(self, answers: int) -> None:
        """Let it answer to the next seconds of the music."""
        assert self._process.stdin
        self._process.stdin.write(f"{answers}\n")
        self._process.stdin.flush()
        used = self._read()
        self.seconds.append(used["seconds"])
        self.memory = used["memory MB"]

    def end(self) -> None:
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()
        self._errors.close()

    def _read(self) -> dict[str, Any]:
        """Return the next line of JSON; some programs write other lines as well."""
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith("{"):
                content: dict[str, Any] = json.loads(line)
                return content
        self._process.wait()
        self._errors.seek(0)
        raise UnavailableError(_reason(self._errors.read()))


def start(
    name: str, environments: dict[str, Path], folder: Path, installed: Path | None
) -> Program:
    """Return a program that is ready; raise UnavailableError if there is none."""
    if name in OURS:
        return Program(name, Path(sys.executable), folder)
    package = RIVALS[name].package
    if package not in environments:
        if installed is None:
            raise UnavailableError(f"give --install FOLDER or --environment {package}=FOLDER")
        environments[package] = install(package, installed)
    python = environments[package] / "bin" / "python"
    if not python.exists():
        raise UnavailableError(f"there is no {python}")
    return Program(name, python, folder)


def _titles(name: str) -> dict[str, str]:
    program, variant = name.split(" ", 1)
    return {"program": program, "variant": variant}


def _environment(text: str) -> tuple[str, Path]:
    package, _, folder = text.partition("=")
    if package not in PACKAGES or not folder:
        raise argparse.ArgumentTypeError(
            f"{text}: not one of {', '.join(PACKAGES)}, = and a folder"
        )
    return package, Path(folder).absolute()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, prog="benchmarks.rivals")
    parser.add_argument("--install", type=Path, help="a folder for virtual environments")
    parser.add_argument("--environment", type=_environment, action="append", default=[])
    parser.add_argument("--audio", type=Path, help="music to hear instead of the demo clip")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--seconds", type=int, default=10, help="of music in a round")
    parser.add_argument("--json", type=Path, help="write the rows to this file as well")
    given = parser.parse_args()
    audio = given.audio or next((ROOT / "streamer" / "demo").glob("*.opus"))
    installed = given.install and given.install.absolute()
    environments, missing = dict(given.environment), {}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        write_sound(audio, folder)
        programs: dict[str, Program] = {}
        for name in OURS | RIVALS:
            try:
                programs[name] = start(name, environments, folder, installed)
                stack.callback(programs[name].end)
            except UnavailableError as error:
                missing[name] = str(error)
        for number in range(given.rounds):
            for name in programs if number % 2 else reversed(programs):
                programs[name].run(given.seconds)
    rivals = {name: program.seconds for name, program in programs.items() if name in RIVALS}
    cheapest = min(rivals, key=lambda name: statistics.median(rivals[name]), default=None)
    report = Report("rivals", given.json)
    for name, program in programs.items():
        row = {
            **_titles(name),
            "version": program.version or "this tree",
            "hears s": program.rival.hears,
            "core ms a second": 1000 * statistics.median(program.seconds),
            "memory MB": program.memory,
        }
        if cheapest:
            ratios = map(lambda own, other: own / other, program.seconds, rivals[cheapest])
            row["of the cheapest rival"] = statistics.median(ratios)
        report.add(row)
    for name, reason in missing.items():
        report.add({**_titles(name), "not measured": reason})
    report.write()


if __name__ == "__main__":
    main()
