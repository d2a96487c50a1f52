import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from streamer.commands import install_service
from streamer.commands import run as cli
from streamer.commands.install_service import shipped, unit_files
from streamer.settings import config_files

PROGRAM = Path("/opt/somewhere/bin/genre-stream")


def test_the_units_start_the_program_of_this_installation():
    files = unit_files(PROGRAM, user=False, systemd_version=252)
    assert set(files) == set(install_service.SYSTEM_FILES.values())
    service = files["etc/systemd/system/genre-stream.service"]
    assert f"ExecStart={PROGRAM}\n" in service
    assert "/opt/genre-stream/bin" not in "".join(files.values())


def test_a_path_with_blanks_and_percent_signs_is_quoted_for_systemd(tmp_path):
    if shutil.which("systemd-analyze") is None:
        pytest.skip("needs systemd-analyze")
    program = tmp_path / "my 100%n pro$grams/genre-stream"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    files = unit_files(program, user=False, systemd_version=252)
    unit = tmp_path / "genre-stream.service"
    unit.write_text(files["etc/systemd/system/genre-stream.service"])
    checked = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True
    )
    assert "genre-stream" not in checked.stderr


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a\nExecStart=b"])
def test_a_path_that_cannot_be_quoted_is_refused_in_one_line(name, monkeypatch, capsys):
    monkeypatch.setattr(install_service, "this_program", lambda: Path(f"/opt/{name}/genre-stream"))
    assert cli.main(["install-service", "--print"]) == 1
    error = capsys.readouterr().err
    assert error.endswith(" characters that a unit cannot name; install into /opt/genre-stream\n")
    assert error.count("\n") == 1


def test_systemd_254_waits_longer_after_each_failure():
    files = unit_files(PROGRAM, user=True, systemd_version=254)
    delay = files[".config/systemd/user/genre-stream.service.d/growing-delay.conf"]
    assert "RestartMaxDelaySec=" in delay
    assert len(unit_files(PROGRAM, user=True, systemd_version=252)) == 1


def test_files_go_below_the_root_folder_and_existing_settings_are_kept(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(install_service, "this_program", lambda: PROGRAM)
    assert cli.main(["install-service", "--root", str(tmp_path)]) == 0
    config = tmp_path / "etc/genre-stream/config.toml"
    assert config.read_text() == shipped("config.toml")
    config.write_text("port = 1\n")
    assert cli.main(["install-service", "--root", str(tmp_path)]) == 0
    assert config.read_text() == "port = 1\n"
    assert "systemctl enable --now genre-stream" in capsys.readouterr().out


def test_the_user_unit_goes_to_the_home_folder(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install_service, "this_program", lambda: PROGRAM)
    assert cli.main(["install-service", "--user", "--root", str(tmp_path)]) == 0
    unit = tmp_path / ".config/systemd/user/genre-stream.service"
    assert "WantedBy=default.target" in unit.read_text()
    assert "systemctl --user enable" in capsys.readouterr().out


def test_the_sample_settings_of_a_user_go_where_they_are_read(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install_service, "this_program", lambda: PROGRAM)
    assert cli.main(["install-service", "--user", "--root", str(tmp_path)]) == 0
    *_, config = config_files(None, {"HOME": str(tmp_path)})
    assert config.read_text() == shipped("config.toml")
    config.write_text("port = 1\n")
    assert cli.main(["install-service", "--user", "--root", str(tmp_path)]) == 0
    assert config.read_text() == "port = 1\n"
    assert f"kept {config}\n" in capsys.readouterr().out


def test_print_installs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install_service, "this_program", lambda: PROGRAM)
    assert cli.main(["install-service", "--print", "--root", str(tmp_path)]) == 0
    assert f"ExecStart={PROGRAM}\n" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("program", "options", "reason"),
    [
        ("/home/somebody/.local/bin/genre-stream", [], "a home folder, which the service must not"),
        ("/tmp/env/bin/genre-stream", [], "a temporary folder, which is emptied when the system"),
        ("/var/tmp/env/bin/genre-stream", ["--user"], "a temporary folder, which is emptied when"),
        (
            "/home/other/env/bin/genre-stream",
            ["--user"],
            "the home folder of another user, who may",
        ),
    ],
)
def test_a_program_that_a_service_cannot_run_is_refused(
    program, options, reason, monkeypatch, capsys
):
    monkeypatch.setenv("HOME", "/home/me")
    monkeypatch.setattr(install_service, "this_program", lambda: Path(program))
    assert cli.main(["install-service", "--print", *options]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"genre-stream: {program} is in {reason}")
    assert error.count("\n") == 1


def test_a_program_in_the_own_home_folder_can_be_a_service_of_the_user(monkeypatch, capsys):
    monkeypatch.setenv("HOME", "/home/me")
    program = Path("/home/me/env/bin/genre-stream")
    monkeypatch.setattr(install_service, "this_program", lambda: program)
    assert cli.main(["install-service", "--print", "--user"]) == 0
    assert f"ExecStart={program}\n" in capsys.readouterr().out


def test_an_environment_whose_python_a_service_cannot_run_is_refused(tmp_path, monkeypatch, capsys):
    for name in ("TEMPORARY_FOLDERS", "HOME_FOLDERS"):
        monkeypatch.setattr(install_service, name, (str(tmp_path / name),))
    python = tmp_path / "HOME_FOLDERS/other/.pyenv/bin/python3.11"
    program = tmp_path / "opt/bin/genre-stream"
    for file in (python, program):
        file.parent.mkdir(parents=True)
        file.touch()
    (program.parent / "python").symlink_to(python)
    monkeypatch.setattr(install_service, "this_program", lambda: program)
    for options, reason in (([], "a home folder"), (["--user"], "the home folder of another user")):
        assert cli.main(["install-service", "--print", *options]) == 1
        assert f"{python} is in {reason}" in capsys.readouterr().err


def test_an_unwritable_folder_is_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(install_service, "this_program", lambda: PROGRAM)
    (tmp_path / "etc").write_text("a file where a folder should be")
    assert cli.main(["install-service", "--root", str(tmp_path)]) == 1
    assert capsys.readouterr().err.startswith(f"genre-stream: cannot write {tmp_path}/etc/")


CHECKS = {"bash": ["bash", "-n"], "zsh": ["zsh", "-n"], "fish": ["fish", "--no-execute"]}


@pytest.mark.parametrize("shell", CHECKS)
def test_the_shell_accepts_its_completions(shell, tmp_path, capsys):
    if shutil.which(shell) is None:
        pytest.skip(f"needs {shell}")
    assert cli.main(["completion", shell]) == 0
    script = tmp_path / "completions"
    script.write_text(capsys.readouterr().out)
    result = subprocess.run([*CHECKS[shell], script], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_bash_completes_options_commands_and_words(tmp_path, capsys):
    assert cli.main(["completion", "bash"]) == 0
    script = tmp_path / "completions"
    script.write_text(capsys.readouterr().out)
    assert complete(script, "genre-stream", "--hop-s") == ["--hop-seconds"]
    assert complete(script, "genre-stream", "insta") == ["install-service"]
    assert complete(script, "genre-stream", "--smoothing", "h") == ["hmm"]
    beginning = str(script)[:-1]
    assert complete(script, "genre-stream", "history", "--plot", beginning) == [str(script)]


def complete(script: Path, *words: str) -> list[str]:
    """Return the completions that bash offers for the last word."""
    program = (
        f"source {script}; COMP_WORDS=({' '.join(words)}); COMP_CWORD={len(words) - 1};"
        f"$(complete -p genre-stream | sed 's/.*-F \\([^ ]*\\).*/\\1/')"
        f" genre-stream {words[-1]} {words[-2]}; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    )
    result = subprocess.run(["bash", "-c", program], capture_output=True, text=True)
    return [word.strip() for word in result.stdout.splitlines() if word.strip()]


def test_an_installed_command_is_found_beside_its_python():
    assert install_service.this_program() == Path(sys.executable).parent / "genre-stream"
    assert os.access(install_service.this_program(), os.X_OK)
