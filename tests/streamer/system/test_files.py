"""Atomic writes: a file is replaced completely or not at all."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path

import pytest
from support.disk import files_of_at_most_a_kilobyte

from streamer.system.commandline import UserError
from streamer.system.files import atomic_write, check_writable, write_file, write_json


def test_a_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    path = tmp_path / "metrics.json"
    path.write_text("before")
    write_json(path, {"accuracy": 0.5})
    assert json.loads(path.read_text()) == {"accuracy": 0.5}
    assert path.read_text().endswith("\n")
    assert list(tmp_path.iterdir()) == [path]


def test_the_umask_decides_who_may_read_a_file(tmp_path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    write_file(tmp_path / "a", "content")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o666 & ~umask


def test_the_file_that_a_link_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    file, link = tmp_path / "folder" / "new", tmp_path / "link"
    file.write_text("before")
    link.symlink_to(file)
    check_writable(link)
    with atomic_write(link, sync=True) as partial:
        assert partial.parent == file.parent
        partial.write_text("after")
    assert link.is_symlink()
    assert file.read_text() == "after"
    assert list(file.parent.iterdir()) == [file]


def test_the_longest_name_can_be_written_and_keeps_its_suffix(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 250 + ".json")
    check_writable(path)
    with atomic_write(path) as partial:
        assert partial.suffix == ".json"
        partial.write_text("content")
    assert path.read_text() == "content"


def test_a_full_disk_leaves_the_old_content_and_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    with (
        pytest.raises(OSError, match=r"a: cannot be written \(File too large\); .* is kept$"),
        files_of_at_most_a_kilobyte(),
    ):
        write_file(path, b"0" * 2000)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_for_which_there_is_no_room_is_not_begun(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("before")
    free = shutil.disk_usage(tmp_path).free
    with (
        pytest.raises(OSError, match=r"a: .* MB are needed and .* MB are free: delete something$"),
        atomic_write(path, 2 * free, advice="delete something"),
    ):
        pytest.fail("it was begun")
    assert path.read_text() == "before"


def test_the_first_line_of_a_librarys_error_is_reported(tmp_path: Path) -> None:
    with (
        pytest.raises(OSError, match=r"a: cannot be written \(no space\); what .* is kept$"),
        atomic_write(tmp_path / "a"),
    ):
        raise RuntimeError("no space\nerrno 28\n")


def test_other_errors_propagate_and_leave_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(KeyError), atomic_write(tmp_path / "a") as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyError
    assert not list(tmp_path.iterdir())


def test_a_folder_or_a_pipe_is_never_replaced(tmp_path: Path) -> None:
    folder, pipe, link = tmp_path / "folder", tmp_path / "pipe", tmp_path / "link"
    folder.mkdir()
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    for path, reason in (
        (folder, "Is a directory"),
        (pipe, "not a regular file"),
        (link, "not a regular file"),
    ):
        with pytest.raises(OSError, match=rf"{path}: cannot be written \({reason}\)"):
            write_file(path, "content")
    for path, refusal in (
        (folder, "is a folder: name a file in it"),
        (pipe, "is not a regular file: name another file"),
        (link, "is not a regular file: name another file"),
    ):
        with pytest.raises(UserError, match=f"^{path} {refusal}$"):
            check_writable(path)
    assert pipe.is_fifo()
    assert sorted(tmp_path.iterdir()) == [folder, link, pipe]


def test_a_place_where_nothing_can_be_written_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for path, reason in (
        (file / "a", "Not a directory"),
        (tmp_path / "no" / "a", "No such file or directory"),
        (tmp_path / ("a" * 256), "File name too long"),
        (Path("/proc/a"), ".*"),
    ):
        with pytest.raises(
            UserError, match=rf"^{path} cannot be written \({reason}\): name another file$"
        ):
            check_writable(path)
    assert list(tmp_path.iterdir()) == [file]
