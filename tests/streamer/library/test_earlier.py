from __future__ import annotations

import tracemalloc
from pathlib import Path

import pytest
from support.disk import files_of_at_most_a_kilobyte

from streamer.library.answer import FileAnswer
from streamer.library.earlier import compact, encoded, read_again, read_earlier
from streamer.library.table import Table
from streamer.system.commandline import UserError

TABLE = Table(("low", "high", "silence"), segments=False, as_json=False)
MAX_BYTES = 700
"""Of memory for each row: the path and its place in a table of paths are most of it."""


def answers(count: int, genre: str = "low") -> list[FileAnswer]:
    shares = {"low": 0.5, "high": 0.25, "silence": 0.25}
    return [
        FileAnswer(f"/music/{number:06d} a song.mp3", number, number, 3.0, genre, 0.5, shares)
        for number in range(count)
    ]


def write(target: Path, rows: list[FileAnswer], rest: str = "") -> Path:
    text = TABLE.header() + "".join(map(TABLE.row, rows)) + rest
    target.write_bytes(encoded(text))
    return target


def test_rows_of_a_large_table_are_kept_in_little_memory(tmp_path: Path) -> None:
    target = write(tmp_path / "out.csv", answers(count := 5000))
    tracemalloc.start()
    try:
        known = read_earlier(target, TABLE, lambda answer: True)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(known) == count
    assert peak / count < MAX_BYTES


def test_a_table_is_written_anew_only_if_it_has_rows_too_many(tmp_path: Path) -> None:
    first, second = answers(2)
    target = write(tmp_path / "out.csv", [first, second])
    before = target.stat().st_ino
    assert len(read_earlier(target, TABLE, lambda answer: False)) == 2
    assert target.stat().st_ino == before
    again = answers(2, "high")[0]
    whole = TABLE.header() + TABLE.row(second) + TABLE.row(again)
    for rest in ("", '"/music/a name', '"/music/a\nb",3\n'):
        write(target, [first, second, again], rest)
        known = read_earlier(target, TABLE, lambda answer: answer.genre == "high")
        assert [each.is_wanted for each in known.values()] == [True, False]
        assert target.read_text() == whole
    compact(target, TABLE)
    assert target.read_text() == whole


def test_rows_that_are_read_again_do_not_include_those_added_meanwhile(tmp_path: Path) -> None:
    target = write(tmp_path / "out.csv", rows := answers(3000))
    again = read_again(target, TABLE, len(rows))
    read = [next(again)]
    with target.open("ab") as file:
        file.write(encoded("".join(map(TABLE.row, answers(3000, "high")))))
    assert [*read, *again] == rows


def test_a_table_that_is_gone_before_it_is_read_again_is_one_line(tmp_path: Path) -> None:
    target = tmp_path / "out.csv"
    with pytest.raises(UserError) as refused:
        list(read_again(target, TABLE, 1))
    assert str(refused.value) == f"{target}: cannot be read again: No such file or directory"


def test_a_disk_without_room_to_write_a_table_anew_is_one_line(tmp_path: Path) -> None:
    target = write(tmp_path / "out.csv", answers(500), "cut off")
    before = target.read_bytes()
    with files_of_at_most_a_kilobyte(), pytest.raises(UserError) as refused:
        read_earlier(target, TABLE, lambda answer: False)
    why = "cannot be written (File too large); what was there before is kept"
    assert (str(refused.value), refused.value.exit_status) == (f"{target}: {why}", 1)
    assert target.read_bytes() == before


@pytest.mark.parametrize("name", ["a\nb", 'a"b', "a,b", "caf\udce9", "\N{MULTIPLE MUSICAL NOTES}"])
def test_any_name_of_a_file_is_found_again(tmp_path: Path, name: str) -> None:
    answer = FileAnswer(f"/music/{name}.mp3", 1, 2, 3.0, problem="its end is missing\nor so")
    for table in (TABLE, Table(TABLE.shares, segments=True, as_json=True)):
        target = tmp_path / "out"
        target.write_bytes(encoded(table.header() + table.row(answer)))
        assert list(read_earlier(target, table, lambda answer: False)) == [answer.path]
