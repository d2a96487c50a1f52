import os
import threading

import pytest
from support.waiting import LONGEST_WAIT_SECONDS

from streamer.system.background_writer import LIMIT, BackgroundWriter

REPORT = " messages were lost because nobody read them"


@pytest.fixture
def pipe():
    """The two ends of a pipe: a file to read lines from, a file to write to."""
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader, os.fdopen(writing, "w") as writer:
        yield reader, writer


def test_a_pipe_that_nobody_reads_blocks_no_writer_and_drops_are_logged(pipe, caplog):
    reader, writer = pipe
    background = BackgroundWriter(writer)
    messages = [f"{number} {'x' * 1000}\n" for number in range(3 * LIMIT)]
    for message in messages:
        background.write(message)
    assert not background.drain(0)
    read = [reader.readline()]
    while read[-1] != messages[-1]:
        read.append(reader.readline())
    assert background.drain(LONGEST_WAIT_SECONDS)
    assert read[-LIMIT:] == messages[-LIMIT:]
    assert sorted(read, key=messages.index) == read
    dropped = [int(message.removesuffix(REPORT)) for message in caplog.messages]
    assert sum(dropped) == len(messages) - len(read) > 0


def test_text_that_is_written_in_pieces_leaves_in_whole_lines(pipe):
    reader, writer = pipe
    background = BackgroundWriter(writer)
    print("one", "line", file=background)
    background.write("the second\nand the")
    background.write(" third \udce9 ░\n")
    assert background.drain(LONGEST_WAIT_SECONDS)
    assert [reader.readline() for _ in range(3)] == [
        "one line\n",
        "the second\n",
        "and the third \\udce9 ░\n",
    ]


def test_threads_share_a_writer_without_losing_a_line(pipe):
    reader, writer = pipe
    background = BackgroundWriter(writer)
    lines = [f"line {number}\n" for number in range(LIMIT // 4)]
    threads = [
        threading.Thread(target=lambda: [background.write(line) for line in lines])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    read = [reader.readline() for _ in range(4 * len(lines))]
    assert sorted(read) == sorted(4 * lines)


def test_text_for_a_closed_pipe_is_discarded(pipe):
    reader, writer = pipe
    background = BackgroundWriter(writer)
    reader.close()
    background.write("first\n")
    assert background.drain(LONGEST_WAIT_SECONDS)
    background.write("second\n")
    assert background.drain(LONGEST_WAIT_SECONDS)
