from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import subprocess
import threading
import wave
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import support.daemon
from support.fleet import ray_nodes
from support.model import band_noise
from support.songs import write_audio
from support.waiting import LONGEST_WAIT_SECONDS, wait_until

import streamer
from streamer.commands import run as cli
from streamer.core.model import Classifier
from streamer.engine.replay import events
from streamer.library.answer import FILE_CONFIDENCE
from streamer.library.job import Job, Labeller, ScanOptions
from streamer.library.workers import do_jobs

STATES = ("silence", "uncertain")
TAGGED = (".mp3", ".flac", ".ogg", ".m4a", ".wav")


@pytest.fixture(autouse=True)
def _own_settings(tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)


@pytest.fixture
def scan(model):
    """Return a function that scans with the small model and one process; returns its status."""

    def scan(*arguments):
        return cli.main(["scan", "--model", str(model), "--jobs", "1", *map(str, arguments)])

    return scan


@pytest.fixture
def music(tmp_path):
    """Return a folder of three files of other formats: low, then high; high; silent."""
    folder = tmp_path / "music"
    both = np.concatenate([band_noise("low", 9, 22050), band_noise("high", 14, 22050)])
    write_audio(folder / "a" / "both.flac", both)
    write_audio(folder / "b" / "high.ogg", band_noise("high", 6, 32000), 32000)
    write_audio(folder / "silent.wav", np.zeros(5 * 8000, np.float32), 8000)
    (folder / "notes.txt").write_text("no audio")
    return folder


def rows(table):
    with table.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def replayed(path, model, hop):
    """Return genre, confidence, seconds of each label and segments as a program would have them."""
    decisions = list(streamer.replay(path, model=model, hop_seconds=hop))
    heard = [d for d in decisions if d.state != "silence"]
    seconds = Counter()
    segments = []
    for event in events(path, streamer.Pipeline(Classifier.load(model), hop_seconds=hop)):
        if isinstance(event, streamer.Segment) and event.final:
            segments.append((round(event.start, 3), round(event.end, 3), event.state, event.genre))
            seconds[event.genre or str(event.state)] += event.end - event.start
    means = {}
    for genre in ("low", "middle", "high") if heard else ():
        weights = [d.hop_seconds for d in heard]
        means[genre] = np.average([d.probabilities[genre] for d in heard], weights=weights)
    genre = max(means, key=means.get, default=None)
    return genre, means.get(genre), seconds, segments


def test_the_answers_are_those_of_a_replay(scan, music, model, tmp_path, capfd):
    table = tmp_path / "out.csv"
    assert scan(music, "--csv", table, "--segments", "--jobs", 2) == 0
    scanned = rows(table)
    assert set(scanned) == {str(path) for path in music.rglob("*.*") if path.suffix != ".txt"}
    for path, row in scanned.items():
        genre, confidence, seconds, segments = replayed(path, model, 2.5)
        assert row["genre"] == (genre or "")
        assert row["confidence"] == ("" if confidence is None else str(round(confidence, 4)))
        total = sum(seconds.values())
        assert float(row["seconds"]) == pytest.approx(total, abs=1e-3)
        for label in ("low", "middle", "high", *STATES):
            assert row[label] == str(round(seconds[label] / total, 4))
        keys = ("start", "end", "state", "genre")
        written = [tuple(each[key] for key in keys) for each in json.loads(row["segments"])]
        assert written == segments
    assert scanned[f"{music}/a/both.flac"]["genre"] == "high"
    assert scanned[f"{music}/silent.wav"]["silence"] == "1.0"
    assert "3 files in " in capfd.readouterr().err


def test_json_lines_have_the_hop_labels_and_settings_asked_for(scan, music, model, capfd):
    song = music / "a" / "both.flac"
    options = ("--hop-seconds", 0.5, "--labels", "low=bass", "--min-confidence", 0.9)
    assert scan(song, "--json", "-", *options) == 0
    (line,) = capfd.readouterr().out.splitlines()
    settings = streamer.DecisionSettings(min_confidence=0.9)
    classifier = Classifier.load(model, labels={"low": "bass"})
    decisions = list(streamer.replay(song, model=classifier, settings=settings, hop_seconds=0.5))
    answer = json.loads(line)
    mean = np.average(
        [d.probabilities["high"] for d in decisions], weights=[d.hop_seconds for d in decisions]
    )
    assert (answer["genre"], answer["confidence"]) == ("high", round(mean, 4))
    assert list(answer["shares"]) == ["bass", "middle", "high", *STATES]
    assert "segments" not in answer


def test_a_file_gets_its_most_probable_genre_although_no_decision_was_sure_of_it(
    scan, music, tmp_path
):
    song, table = str(music / "b" / "high.ogg"), tmp_path / "out.csv"
    assert scan(song, "--csv", table, "--min-confidence", 1) == 0
    row = rows(table)[song]
    assert (row["genre"], row["uncertain"]) == ("high", "1.0")
    assert FILE_CONFIDENCE < float(row["confidence"]) < 1


def test_a_file_of_which_no_genre_is_probable_enough_or_may_be_claimed_gets_none(scan, tmp_path):
    parts = [band_noise(band, 8, 22050) for band in ("low", "middle", "high")]
    mixed = str(write_audio(tmp_path / "mixed.wav", np.concatenate(parts)))
    high = str(write_audio(tmp_path / "high.wav", parts[-1]))
    sure, dropped = tmp_path / "sure.csv", tmp_path / "dropped.csv"
    assert scan(mixed, high, "--csv", sure, "--min-confidence", 1) == 0
    assert {path: row["genre"] for path, row in rows(sure).items()} == {mixed: "", high: "high"}
    assert rows(sure)[mixed]["confidence"] == ""
    assert scan(high, "--csv", dropped, "--labels", "high=false") == 0
    assert rows(dropped)[high]["genre"] == ""


def test_damaged_files_are_listed_and_counted_and_the_others_done(scan, music, tmp_path, capfd):
    damaged, cut = music / "damaged.mp3", music / "cut.flac"
    damaged.write_text("This is not audio. " * 100)
    whole = (music / "a" / "both.flac").read_bytes()
    cut.write_bytes(whole[: len(whole) // 2])
    table = tmp_path / "out.csv"
    assert scan(music, "--csv", table) == 1
    lines = capfd.readouterr().err.splitlines()
    scanned = rows(table)
    assert len(scanned) == 5
    assert scanned[str(damaged)]["seconds"] == ""
    reason = scanned[str(damaged)]["problem"]
    assert reason.startswith("this is not audio that FFmpeg can read")
    assert f"genre-stream: {damaged}: {reason}" in lines
    assert scanned[str(cut)]["genre"]
    assert "the file is not complete" in scanned[str(cut)]["problem"]
    assert "1 failed, 1 damaged but readable" in lines[-1]
    assert len(lines) == 3


@pytest.mark.parametrize("name", ["a\nb.mp3", "a  b.mp3", "a\x1b[31mb.mp3", "what?a=b#c: d.mp3"])
def test_the_problem_of_a_file_with_an_odd_name_is_without_its_path(scan, tmp_path, capfd, name):
    (tmp_path / name).write_text("This is not audio. " * 100)
    table = tmp_path / "out.csv"
    assert scan(tmp_path, "--csv", table) == 1
    (row,) = rows(table).values()
    assert row["path"] == f"{tmp_path}/{name}"
    assert row["problem"].startswith("this is not audio that FFmpeg can read")
    (line, _) = capfd.readouterr().err.splitlines()
    assert line.count(str(tmp_path)) == 1


def test_a_killed_scan_is_resumed_with_nothing_twice_or_missing(model, music, tmp_path):
    songs = [str(music / f"{number}.wav") for number in range(6)]
    for song in songs:
        write_audio(Path(song), band_noise("low", 4, 8000), 8000)
    # It is opened for reading, and nothing comes.
    blocking = str(music / "3.wav")
    Path(blocking).unlink()
    os.mkfifo(blocking)
    table = tmp_path / "out.csv"
    command = [*support.daemon.COMMAND, "scan", *songs, "--model", str(model)]
    command += ["--csv", str(table), "--resume", "--jobs", "1"]
    running = {"env": support.daemon.environment(tmp_path), "cwd": support.daemon.REPOSITORY}
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, **running)
    wait_until(lambda: table.exists() and len(rows(table)) == 3, "three files")
    process.send_signal(signal.SIGKILL)
    process.wait(LONGEST_WAIT_SECONDS)
    with table.open("a") as file:
        file.write('"a row that is cut o')
    Path(blocking).unlink()
    write_audio(Path(blocking), band_noise("high", 4, 22050))
    before = table.read_text().splitlines()[1:4]
    resumed = subprocess.run(command, stderr=subprocess.PIPE, text=True, **running)
    assert resumed.returncode == 0
    assert resumed.stderr.startswith("3 files in ")
    assert "3 already in the table" in resumed.stderr
    lines = table.read_text().splitlines()
    assert lines[1:4] == before
    assert [line.partition(",")[0] for line in lines] == ["path", *songs]
    assert [rows(table)[song]["genre"] for song in songs] == ["low"] * 3 + ["high"] + ["low"] * 2


def test_changed_and_failed_files_are_scanned_again(scan, tmp_path, capfd):
    folder = tmp_path / "music"
    write_audio(folder / "kept.wav", band_noise("low", 4, 8000), 8000)
    write_audio(folder / "changed.wav", band_noise("low", 4, 8000), 8000)
    (folder / "damaged.wav").write_text("no audio")
    # A name that is not UTF-8.
    latin = folder / os.fsdecode(b"caf\xe9.wav")
    (folder / "kept.wav").rename(latin)
    table = tmp_path / "out.csv"
    assert scan(folder, "--csv", table) == 1
    write_audio(folder / "changed.wav", band_noise("high", 5, 22050))
    write_audio(folder / "damaged.wav", band_noise("middle", 4, 22050))
    assert scan(folder, "--csv", table, "--resume") == 0
    assert {path: row["genre"] for path, row in rows(table).items()} == {
        str(latin): "low",
        str(folder / "changed.wav"): "high",
        str(folder / "damaged.wav"): "middle",
    }
    assert len(table.read_bytes().splitlines()) == 4
    assert "1 already in the table" in capfd.readouterr().err


def test_json_lines_are_resumed_too(scan, music, tmp_path, capfd):
    table = tmp_path / "out.json"
    arguments = (music, "--json", table, "--segments", "--resume")
    assert scan(*arguments) == 0
    lines = table.read_text().splitlines()
    table.write_text("\n".join(lines)[:-20])
    assert scan(*arguments) == 0
    assert "2 already in the table" in capfd.readouterr().err
    assert table.read_text().splitlines() == lines
    assert scan(*arguments) == 0
    assert capfd.readouterr().err == "nothing to do, 3 already in the table\n"


def probe(path):
    """Return the genre that ffprobe reads, and a hash of the sound that FFmpeg decodes."""
    entries = ["-show_entries", "format_tags=genre:stream_tags=genre", "-of", "csv=p=0"]
    commands = (
        ["ffprobe", "-v", "error", *entries, path],
        ["ffmpeg", "-v", "error", "-i", path, "-map", "0:a", "-f", "md5", "-"],
    )
    return [subprocess.check_output(each, text=True).strip() for each in commands]


def test_tags_are_written_and_read_by_ffprobe_and_the_audio_stays(scan, tmp_path, capfd):
    folder, table = tmp_path / "music", tmp_path / "out.csv"
    songs = [folder / f"song{suffix}" for suffix in TAGGED]
    for song in songs:
        write_audio(song, band_noise("high", 4, 22050))
    songs[1].chmod(0o640)
    before = {song: probe(song) for song in songs}
    arguments = (folder, "--csv", table, "--write-tags")
    assert scan(*arguments, "--dry-run") == 0
    assert {song: probe(song) for song in songs} == before
    assert {row["tag"] for row in rows(table).values()} == {"would be written"}
    assert "5 tags would be written" in capfd.readouterr().err
    # The answers come from the table, without a second analysis.
    header, *others = table.read_text().splitlines(keepends=True)
    table.write_text(header + "".join(others).replace(",high,", ",polka,"))
    assert scan(*arguments, "--resume") == 0
    assert {song: probe(song) for song in songs} == {
        song: ["polka", sound] for song, (_, sound) in before.items()
    }
    assert songs[1].stat().st_mode & 0o777 == 0o640
    assert sorted(folder.iterdir()) == sorted(songs)
    assert {row["tag"] for row in rows(table).values()} == {"written"}
    assert len(table.read_text().splitlines()) == 6
    again = tmp_path / "again.csv"
    assert scan(folder, "--csv", again, "--write-tags") == 0
    assert {row["tag"] for row in rows(again).values()} == {"kept"}
    assert {probe(song)[0] for song in songs} == {"polka"}
    assert scan(folder, "--csv", again, "--resume", "--write-tags", "--overwrite") == 0
    assert {song: probe(song) for song in songs} == {
        song: ["high", sound] for song, (_, sound) in before.items()
    }


def test_files_that_hold_no_tags_have_failed(scan, tmp_path, capfd):
    song = write_audio(tmp_path / "song.au", band_noise("low", 4, 8000), 8000)
    assert scan(song, "--csv", tmp_path / "out.csv", "--write-tags") == 1
    line = f"genre-stream: {song}: its tag is not written: .au files hold none\n"
    assert capfd.readouterr().err.startswith(line)
    assert rows(tmp_path / "out.csv")[str(song)]["genre"] == "low"


def test_a_file_at_which_a_process_is_killed_is_one_that_failed(model, tmp_path):
    blocking = tmp_path / "blocking.wav"
    os.mkfifo(blocking)
    song = str(write_audio(tmp_path / "song.wav", band_noise("low", 4, 8000), 8000))
    answers = do_jobs([Job(song), Job(str(blocking)), Job(song)], ScanOptions(model, 2.5), 1)
    assert next(answers).genre == "low"
    (process,) = multiprocessing.active_children()
    killing = threading.Thread(target=_kill_reader, args=(process.pid, blocking))
    killing.start()
    failed, last = answers
    killing.join()
    assert failed.problem == "the process that read it was killed by SIGKILL"
    assert (failed.failed, last.genre) == (True, "low")
    assert not multiprocessing.active_children()


def _kill_reader(pid, fifo):
    # Opening it for writing waits for who reads it.
    with fifo.open("wb"):
        os.kill(pid, signal.SIGKILL)


def test_a_closed_standard_output_ends_a_scan(model, music):
    command = [*support.daemon.COMMAND, "scan", str(music), "--model", str(model), "--jobs", "1"]
    environment = support.daemon.environment(music)
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=support.daemon.REPOSITORY,
        text=True,
    ) as process:
        process.stdout.close()
        assert process.wait(LONGEST_WAIT_SECONDS) == 0
        assert process.stderr.read() == ""


def test_a_cluster_gives_the_same_answers(scan, music, tmp_path):
    here, there = tmp_path / "here.csv", tmp_path / "there.csv"
    damaged = music / "a" / "damaged.mp3"
    damaged.write_text("no audio")
    folder = os.path.relpath(music)
    assert scan(folder, "--csv", here) == 1
    with ray_nodes(1, processors=2, connect=False) as nodes:
        assert scan(folder, "--csv", there, "--address", nodes.address) == 1
    assert rows(there) == rows(here)
    assert os.path.relpath(damaged) in rows(there)


def test_pipelines_of_a_scan_have_the_effort_asked_for(model):
    options = ScanOptions(model, 1.0, effort="saving")
    assert Labeller(options)._pipeline().effort == "saving"


WRONG_USAGE = [
    (["{song}", "--address", "x"], "--address x: should be auto, or HOST:PORT of the head of a"),
    ([], "the following arguments are required: FILE|FOLDER; see genre-stream scan --help"),
    (["{song}", "--jobs", "0"], "--jobs 0: must be at least 1"),
    (["{song}", "--jobs", "x"], "argument --jobs: invalid int value: 'x'; see"),
    (["{song}", "--dry-run"], "--dry-run needs --write-tags as well"),
    (["{song}", "--overwrite"], "--overwrite needs --write-tags as well"),
    (["{song}", "--resume"], "--resume needs the table to continue: --csv FILE or --json FILE"),
    (["{folder}/none.mp3"], "{folder}/none.mp3: no such file or folder; check the path"),
    (["{folder}/empty"], "{folder}/empty: there are no audio files in this folder"),
    (["{song}", "--csv", "{folder}/no/out"], "{folder}/no/out cannot be written (No such file"),
    (["{song}", "--csv", "{folder}"], "{folder} is a folder: name a file in it"),
    (["{song}", "--csv", "{table}"], "{table} exists: name another file, or continue it with"),
    (["{song}", "--csv", "{table}", "--resume"], "{table}: it has other columns than this scan"),
    (["{song}", "--json", "{table}", "--resume"], "{table}: it holds what no scan has written;"),
    (["{song}", "--model", "/no.onnx"], "model /no.onnx cannot be read"),
    (["{song}", "--labels", "rok=x"], "labels: 'rok' is no label of the model"),
    (["{song}", "--hop-seconds", "0"], "--hop-seconds 0: input should be greater than"),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_USAGE)
def test_wrong_usage_of_scan_is_one_line_and_status_2(arguments, sentence, scan, tmp_path, capfd):
    song, table = tmp_path / "song.wav", tmp_path / "table.csv"
    with wave.open(str(song), "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
    table.write_text("path,genre\n")
    (tmp_path / "empty").mkdir()
    names = {"song": song, "table": table, "folder": tmp_path}
    assert scan(*(argument.format(**names) for argument in arguments)) == 2
    written = capfd.readouterr()
    assert written.err.startswith(f"genre-stream: {sentence.format(**names)}")
    assert written.err.count("\n") == 1
    assert written.out == ""
