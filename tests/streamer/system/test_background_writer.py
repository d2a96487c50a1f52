import os
import threading

import pytest

from streamer.system.background_writer import LIMIT, BackgroundWriter

PATIENCE_SECONDS = 90.0
SAID = " messages were lost because nobody read them"


@pytest.fixture
def pipe():
    """The two ends of a pipe: a file to read lines from, a file to write to."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer


def test_a_pipe_that_nobody_reads_keeps_nobody_waiting_and_the_log_says_what_was_lost(pipe, caplog):
    reader, writer = pipe
    outlet = BackgroundWriter(writer)
    messages = [f"{number} {'x' * 1000}\n" for number in range(3 * LIMIT)]
    for message in messages:
        outlet.write(message)
    assert not outlet.drain(0)
    read = [reader.readline()]
    while read[-1] != messages[-1]:
        read.append(reader.readline())
    assert outlet.drain(PATIENCE_SECONDS)
    assert read[-LIMIT:] == messages[-LIMIT:]
    assert sorted(read, key=messages.index) == read
    told = [int(message.removesuffix(SAID)) for message in caplog.messages]
    assert sum(told) == len(messages) - len(read) > 0


def test_what_is_written_in_pieces_leaves_as_whole_lines(pipe):
    reader, writer = pipe
    outlet = BackgroundWriter(writer)
    print("one", "line", file=outlet)
    outlet.write("the second\nand the")
    outlet.write(" third \udce9 ░\n")
    assert outlet.drain(PATIENCE_SECONDS)
    assert [reader.readline() for _ in range(3)] == [
        "one line\n",
        "the second\n",
        "and the third \\udce9 ░\n",
    ]


def test_threads_share_it_without_losing_a_line(pipe):
    reader, writer = pipe
    outlet = BackgroundWriter(writer)
    lines = [f"line {number}\n" for number in range(LIMIT // 4)]
    threads = [
        threading.Thread(target=lambda: [outlet.write(line) for line in lines]) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    read = [reader.readline() for _ in range(4 * len(lines))]
    assert sorted(read) == sorted(4 * lines)


def test_where_nothing_can_be_written_any_more_nobody_is_disturbed(pipe):
    reader, writer = pipe
    outlet = BackgroundWriter(writer)
    reader.close()
    outlet.write("for nobody\n")
    assert outlet.drain(PATIENCE_SECONDS)
    outlet.write("nor this\n")
    assert outlet.drain(PATIENCE_SECONDS)
