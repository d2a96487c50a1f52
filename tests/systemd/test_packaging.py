import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import urllib.request
import zipfile
from pathlib import Path

import pytest
import support.daemon
from support.model import make_model

REPOSITORY = Path(__file__).parents[2]
README = REPOSITORY / "systemd" / "README.md"

IN_THE_WHEEL = (
    "streamer/py.typed",
    "streamer/sinks/websocket/protocol.schema.json",
    "streamer/sinks/websocket/PROTOCOL.md",
    "streamer/sinks/websocket/dashboard/index.html",
    "streamer/sinks/websocket/dashboard/dashboard.js",
    "streamer/sinks/websocket/dashboard/dashboard.css",
    "streamer/demo/demo.opus",
    "streamer/models/changes.npz",
    "streamer/models/gtzan.onnx",
    "streamer/README.md",
    "streamer/CHANGELOG.md",
    "streamer/models/README.md",
    "trainer/README.md",
    "trainer/EXPERIMENTS.md",
    "streamer/systemd/genre-stream.service",
    "streamer/systemd/genre-stream@.service",
    "streamer/systemd/genre-stream.socket",
    "streamer/systemd/user/genre-stream.service",
    "streamer/systemd/sysusers.conf",
    "streamer/systemd/config.toml",
)
IN_THE_SDIST = ("pyproject.toml", "README.md", "LICENSE", "systemd/genre-stream.service")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory):
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("distributions")
    source = folder / "source"
    ignored = shutil.ignore_patterns(".*", "build", "dist", "runs", "*.egg-info", "__pycache__")
    shutil.copytree(REPOSITORY, source, ignore=ignored)
    result = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder, source],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "Warning" not in result.stdout + result.stderr
    (sdist,), (wheel,) = folder.glob("*.tar.gz"), folder.glob("*.whl")
    return sdist, wheel


@pytest.mark.parametrize("name", IN_THE_WHEEL)
def test_the_wheel_holds(name, distributions):
    if not (REPOSITORY / name).exists() and "systemd" not in name:
        pytest.skip(f"this checkout has no {name}")
    with zipfile.ZipFile(distributions[1]) as wheel:
        assert name in wheel.namelist()


def test_the_sdist_holds_what_a_build_needs(distributions):
    with tarfile.open(distributions[0]) as sdist:
        names = {name.partition("/")[2] for name in sdist.getnames()}
    assert names >= set(IN_THE_SDIST)


def test_the_installation_in_the_readme_ends_in_a_running_daemon(distributions, tmp_path):
    commands = install_commands()
    skipped = [line for line in commands if re.match(r"sudo (apt-get|editor|systemctl) ", line)]
    assert len(skipped) == 3
    for line in commands:
        if line not in skipped:
            subprocess.run(localised(line, tmp_path, distributions[1]), shell=True, check=True)
        if "-m venv" in line:
            borrow_dependencies(tmp_path / "opt/genre-stream")
    unit = (tmp_path / "etc/systemd/system/genre-stream.service").read_text()
    (program,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert program == str(tmp_path / "opt/genre-stream/bin/genre-stream")
    config = tmp_path / "etc/genre-stream/config.toml"
    text = config.read_text().replace('#source = ["radio=', 'source = ["demo"] # ["radio=')
    assert 'source = ["demo"]' in text
    config.write_text(text)
    manager = support.daemon.ServiceManager(tmp_path / "notify")
    with support.daemon.daemon(
        tmp_path,
        *("--config", config, "--model", make_model(tmp_path / "thirds.onnx")),
        command=(program,),
        variables={"NOTIFY_SOCKET": str(manager.path)},
        cwd=tmp_path,
    ) as running:
        manager.wait_for("READY=1")
        with urllib.request.urlopen(f"http://127.0.0.1:{running.port}/", timeout=60) as page:
            assert b"<title>" in page.read()
    manager.close()


def install_commands() -> list[str]:
    """Return the commands between the marks in the README."""
    text = README.read_text().partition("<!-- install -->")[2].partition("<!-- end -->")[0]
    return [line for line in text.splitlines() if line.startswith("sudo ")]


def localised(line: str, folder: Path, wheel: Path) -> str:
    """Return a command that installs the wheel below a folder, without the network."""
    return (
        line.removeprefix("sudo ")
        .replace("/opt/genre-stream", str(folder / "opt/genre-stream"))
        .replace("python3 -m venv", f"{sys.executable} -m venv")
        .replace("pip install .", f"pip install --quiet --no-deps {wheel}")
        .replace("install-service", f"install-service --root {folder}")
    )


def borrow_dependencies(environment: Path) -> None:
    """Make the libraries of this environment, but not its genre-stream, visible in another."""
    (packages,) = environment.glob("lib/python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib") + os.linesep)
