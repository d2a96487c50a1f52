import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import support.daemon
from support.model import make_model
from support.schema import check_frame
from support.waiting import LONGEST_WAIT_SECONDS

from streamer.commands import run as cli
from streamer.core.contract import AudioInput
from streamer.sinks.history.database import open_history


@pytest.fixture(scope="module")
def tone(tmp_path_factory):
    return support.daemon.write_tone(tmp_path_factory.mktemp("tone") / "tone.flac", (4000, 20.0))


WITHOUT_ROOT_ACCESS = (
    ("setpriv", "--bounding-set=-dac_override,-dac_read_search") if os.geteuid() == 0 else ()
)
"""Prefix of a command that takes away root's right to read every file."""

FAST_JSON = ("--fast", "--json")

WRONG_USAGE = [
    ([], "nothing to hear; usage: genre-stream (--device DEVICE | --source LOCATION)... [options]"),
    (["--sorce", "x"], "unknown option --sorce (did you mean --source?); see genre-stream --help"),
    (["--tuffe"], "unknown option --tuffe; see genre-stream --help"),
    (["--source", "-dash.flac"], "-dash.flac: no such file; check the path"),
    (["--source", "--port", "1"], "argument --source: expected one argument; see genre-stream"),
    (["--source", "x", "--loop", "--follow"], "--follow true: contradicts loop, which starts"),
    (["--sorce=x"], "unknown option --sorce (did you mean --source?); see genre-stream --help"),
    (["-q"], "unknown option -q; see genre-stream --help"),
    (["song.flac"], "unexpected argument 'song.flac'; to hear it say --source song.flac"),
    (["wach"], "unexpected argument 'wach' (did you mean watch?)"),
    (["--port"], "argument --port: expected one argument; see genre-stream --help"),
    (["--source", "demo", "--port", "x"], "--port x: input should be a valid integer, unable to"),
    (["--source", "demo", "--hop-seconds", "0"], "--hop-seconds 0: input should be greater than"),
    (["--source", "demo", "--tls-cert", "c"], '--tls-cert "c": needs tls_key as well'),
    (["--config", "/no/such.toml"], "/no/such.toml: no such settings file"),
    (["--source", "demo", "--model", "/no.onnx"], "model /no.onnx cannot be read"),
    (["--source", "a=demo", "--source", "a=demo"], "two sources are named 'a'; give one another"),
    (
        ["--source", "a=http://host/", "--charset", "cp1251", "--charset", "b=cp1252"],
        "charset b=cp1252: no source is named 'b'",
    ),
    (["--source", "/no/such.flac"], "/no/such.flac: no such file"),
    (["--source", "demo", "--token-file", "/none"], "token_file /none cannot be read: "),
]


@pytest.mark.parametrize(("arguments", "sentence"), WRONG_USAGE)
def test_wrong_usage_is_one_line_and_status_2(
    arguments, sentence, model, tmp_path, monkeypatch, capfd
):
    monkeypatch.setenv("HOME", str(tmp_path))
    if "--model" not in arguments and "--source" in arguments:
        arguments = [*arguments, "--model", str(model)]
    assert cli.main(arguments) == 2
    written = capfd.readouterr()
    assert written.err.startswith(f"genre-stream: {sentence}")
    assert written.err.count("\n") == 1
    assert written.out == ""


UNREADABLE = {
    "source": "song.wav: permission denied; check the path",
    "config": "song.wav: cannot be read: Permission denied",
    "model": "song.wav cannot be read (Permission denied): check the path and its permissions",
    "token-file": "song.wav cannot be read: Permission denied",
    "credentials": "token cannot be read: Permission denied",
}


@pytest.mark.parametrize("setting", UNREADABLE)
def test_a_file_in_an_unreadable_folder_is_one_line_and_status_2(setting, model, tmp_path):
    locked = tmp_path / "locked"
    locked.mkdir()
    (locked / "song.wav").touch()
    variables = {"CREDENTIALS_DIRECTORY": str(locked)} if setting == "credentials" else {}
    arguments = [] if variables else [f"--{setting}", locked / "song.wav"]
    arguments += [] if setting == "source" else ["--source", "demo"]
    arguments += [] if setting == "model" else ["--model", model]
    locked.chmod(0)
    result = subprocess.run(
        [*WITHOUT_ROOT_ACCESS, *support.daemon.COMMAND, *map(str, arguments), "--check"],
        env=support.daemon.environment(tmp_path, **variables),
        cwd=support.daemon.REPOSITORY,
        capture_output=True,
        text=True,
    )
    locked.chmod(0o700)
    assert result.returncode == 2
    assert result.stderr.startswith("genre-stream: ")
    assert result.stderr.endswith(f"{locked}/{UNREADABLE[setting]}\n")
    assert result.stderr.count("\n") == 1


def test_help_names_every_setting_and_command(capsys):
    with pytest.raises(SystemExit) as leaving:
        cli.main(["--help"])
    assert leaving.value.code == 0
    text = capsys.readouterr().out
    names = [name for name in cli.schema.Settings.model_fields if name not in cli.schema.FILE_ONLY]
    for word in (*map(cli.schema.option, names), *cli.schema.FILE_ONLY, *cli.COMMANDS):
        assert word in text


def test_help_imports_no_large_library():
    program = (
        "import sys; from streamer.commands.run import build_parser; build_parser().format_help();"
        "print([m for m in ('numpy', 'onnxruntime', 'av', 'websockets', 'sounddevice')"
        " if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert result.stdout == "[]\n", result.stderr


def test_the_version_is_that_of_the_distribution(tmp_path):
    result = support.daemon.run(tmp_path, "--version")
    assert result.stdout.startswith("genre-stream 0.")


def test_print_config_shows_each_value_and_its_origin(tmp_path):
    result = support.daemon.run(tmp_path, "--print-config", "--port", "1")
    assert result.returncode == 0
    assert "port = 1                                  # command line\n" in result.stdout


def test_check_tries_each_part(model, tmp_path):
    result = support.daemon.run(
        tmp_path, "--check", "--source", "demo", "--model", model, "--port", 0
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert [line.split(":")[0] for line in result.stdout.splitlines()] == [
        "sources",
        "model",
        "outputs",
        "access",
        "history",
        "port",
    ]


def test_check_names_the_second_network_of_a_model(tmp_path):
    audio = AudioInput(sample_rate=16000, seconds=5.0, min_seconds=3.0)
    model = make_model(tmp_path / "two.onnx", audio=audio)
    result = support.daemon.run(
        tmp_path, "--check", "--source", "demo", "--model", model, "--port", 0
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert (
        "model: thirds 1, with ear beside it, computed in float32, low, middle, high\n"
        in result.stdout
    )


def test_check_tells_how_fast_both_arithmetics_are(tmp_path):
    model = make_model(tmp_path / "rounded.onnx", tolerance=0.5)
    arguments = ("--check", "--source", "demo", "--model", model, "--port", 0)
    result = support.daemon.run(tmp_path, *arguments)
    assert (result.returncode, result.stderr) == (0, "")
    line = result.stdout.splitlines()[1]
    number = r"\d+\.\d ms"
    assert re.fullmatch(
        rf"model: thirds 1, computed in (float32|int8) \({number} a window, {number} in "
        r"(float32|int8)\), low, middle, high",
        line,
    )
    result = support.daemon.run(tmp_path, *arguments, "--arithmetic", "int8")
    assert "model: thirds 1, computed in int8, low, middle, high\n" in result.stdout


def test_check_leaves_no_new_history_behind(model, tmp_path):
    kept, new = tmp_path / "kept.db", tmp_path / "new.db"
    open_history(kept).close()
    for history in (kept, new):
        arguments = ("--source", "demo", "--model", model, "--port", 0, "--history", history)
        result = support.daemon.run(tmp_path, "--check", *arguments)
        assert (result.returncode, result.stderr) == (0, "")
        assert f"history: {history}\n" in result.stdout
    assert sorted(tmp_path.glob("*.db*")) == [kept]


def test_check_reports_a_port_in_use(model, tmp_path):
    with support.daemon.socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        result = support.daemon.run(
            tmp_path, "--check", "--source", "demo", "--model", model, "--port", port
        )
    assert result.returncode == 2
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in result.stderr


def test_json_lines_are_the_frames_of_the_protocol(model, tone, tmp_path):
    result = support.daemon.run(
        tmp_path, "--source", f"t={tone}", "--model", model, "--fast", "--json"
    )
    assert (result.returncode, result.stderr) == (0, "")
    frames = [json.loads(line) for line in result.stdout.splitlines()]
    assert frames[0]["type"] == "hello"
    last = frames[-1]
    assert (last["type"], last["source"], last["state"]) == ("source", "t", "ended")
    assert (last["detail"], last["reason"], last["next_attempt"]) == ("", "", None)
    predictions = [frame for frame in frames if frame["type"] == "prediction"]
    assert [frame["seq"] for frame in predictions] == list(range(len(predictions)))
    assert len(predictions) >= 16
    assert predictions[-1]["genre"] == "high"
    segments = [frame for frame in frames if frame["type"] == "segment"]
    assert segments[-1]["final"]


def test_json_lines_have_the_labels_and_colours_of_the_settings(model, tone, tmp_path):
    mapping = ("--labels", "low=bass", "--labels", "middle=bass", "--labels", "high=treble")
    arguments = (*mapping, "--colours", "treble=#112233")
    arguments += ("--model", model, "--source", f"t={tone}")
    done = support.daemon.run(tmp_path, *FAST_JSON, *arguments)
    hello, *frames = map(json.loads, done.stdout.splitlines())
    assert hello["labels"] == ["bass", "treble"]
    assert hello["colours"]["treble"] == "#112233"
    predictions = [frame for frame in frames if frame["type"] == "prediction"]
    assert {frame["genre"] for frame in predictions} == {"treble"}
    for frame in predictions:
        assert sum(frame["probabilities"].values()) == pytest.approx(1)
        check_frame(frame)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labels", "hihg=x"], "labels: 'hihg' is no label of the model; it has low, middle"),
        (["--colours", "hihg=#000000"], "colours: 'hihg' is no label (did you mean high?)"),
    ],
)
def test_a_label_that_the_model_lacks_is_refused(arguments, message, model, tone, tmp_path):
    arguments = ("--model", model, "--source", tone, "--check", *arguments)
    done = support.daemon.run(tmp_path, *arguments)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"genre-stream: {message}")


def test_the_json_lines_of_several_sources_share_one_stream(model, tone, tmp_path):
    result = support.daemon.run(
        tmp_path,
        *("--source", f"a={tone}", "--source", f"b={tone}"),
        *("--model", model, "--fast", "--json"),
    )
    frames = [json.loads(line) for line in result.stdout.splitlines()]
    of = {name: [f for f in frames if f.get("source") == name] for name in "ab"}
    decisions = {
        name: [(f["position"], f["genre"]) for f in of[name] if f["type"] == "prediction"]
        for name in "ab"
    }
    assert decisions["a"] == decisions["b"] != []


def test_a_file_without_sound_is_one_line_and_status_1(model, tmp_path):
    text = tmp_path / "text.wav"
    text.write_text("this is no sound")
    (tmp_path / "empty.flac").touch()
    for name in ("text.wav", "empty.flac"):
        result = support.daemon.run(
            tmp_path, "--source", tmp_path / name, "--model", model, "--fast", "--json"
        )
        assert result.returncode == 1, name
        assert result.stderr.startswith("genre-stream: "), name
        assert result.stderr.count("\n") == 1, name
        assert name in result.stderr


def test_a_closed_pipe_ends_json_lines_quietly(model, tone, tmp_path):
    process = subprocess.Popen(
        [*support.daemon.COMMAND, *FAST_JSON, "--loop", "--source", tone, "--model", model],
        env=support.daemon.environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith('{"type":"hello"')
    process.stdout.close()
    assert process.wait(LONGEST_WAIT_SECONDS) == 0
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("buffered", [True, False])
@pytest.mark.parametrize(
    "arguments",
    [
        ["--version"],
        ["--print-config"],
        ["completion", "bash"],
        ["--check", "--source", "demo"],
        [*FAST_JSON, "--loop", "--source", "demo"],
    ],
)
def test_a_full_disk_is_one_line_and_status_1(arguments, buffered, model, tmp_path):
    needs_model = ["--model", model] if "--source" in arguments else []
    with Path("/dev/full").open("w") as full:
        result = subprocess.run(
            [*support.daemon.COMMAND, *arguments, *needs_model],
            env=support.daemon.environment(tmp_path, PYTHONUNBUFFERED="" if buffered else "1"),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=LONGEST_WAIT_SECONDS,
        )
    assert result.returncode == 1
    assert result.stderr == "genre-stream: cannot write the output: No space left on device\n"


def test_an_interrupt_during_the_imports_ends_it_quietly(tmp_path):
    program = (
        "import importlib.abc, signal, sys\n"
        "class Interrupter(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        "        if name == 'pydantic': signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupter())\n"
        "from streamer.__main__ import main\n"
        "sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, "--source", "demo"],
        env=support.daemon.environment(tmp_path),
        cwd=support.daemon.REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (130, "", "")


def test_json_lines_say_once_that_the_end_of_a_file_is_missing(model, tone, tmp_path):
    cut = tmp_path / "cut.flac"
    cut.write_bytes(tone.read_bytes()[: tone.stat().st_size // 2])
    arguments = (*FAST_JSON, "--source", cut, "--model", model)
    result = support.daemon.run(tmp_path, *arguments)
    (line,) = [line for line in result.stderr.splitlines() if "not complete" in line]
    assert f" WARNING {cut}: the file is not complete: it ends after " in line
    assert result.returncode == 0
    assert all(json.loads(line) for line in result.stdout.splitlines())
    assert support.daemon.run(tmp_path, *arguments, "--log-level", "error").stderr == ""


DEMO = ("--source", "demo", "--port", "0")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("argparse", DEMO),
        ("numpy", DEMO),
        ("onnxruntime", DEMO),
        ("streamer.service", DEMO),
        ("streamer.relay.service", ("relay", "--mqtt", "mqtt://127.0.0.1:9")),
        ("streamer.commands.fleet", ("fleet", "sources.toml")),
    ],
)
def test_sigterm_during_the_start_ends_it_with_status_0(module, arguments, model, tmp_path):
    program = (
        "import importlib.abc, signal, sys\n"
        "class Stopper(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path, target=None):\n"
        f"        if name == {module!r}: signal.raise_signal(signal.SIGTERM)\n"
        "sys.meta_path.insert(0, Stopper())\n"
        "from streamer.__main__ import main\n"
        "sys.exit(main())"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env=support.daemon.environment(tmp_path, GENRE_STREAM_MODEL=str(model)),
        cwd=support.daemon.REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


THREADS = """
import atexit, sys, threading
atexit.register(print, "the interpreter ends, and unwinds threads")
import numpy as np, soxr
from streamer.core.model import Classifier
from streamer.system.ending import exit_past_threads
classifier = Classifier.load(sys.argv[1])
contract = classifier.contract
picture = np.zeros((1, contract.spectrogram.n_mels, contract.window_frames), np.float32)
busy = threading.Barrier(3)
def repeat(work):
    work()
    busy.wait()
    while True:
        work()
for work in (
    lambda: classifier.predict(picture),
    lambda: soxr.resample(np.zeros(1_000_000, np.float32), 48000, 22050),
):
    threading.Thread(target=repeat, args=(work,), daemon=True).start()
busy.wait()
print("said")
sys.exit(exit_past_threads(3))
"""


def test_threads_within_libraries_do_not_abort_the_end(gtzan_model, tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", THREADS, str(gtzan_model)],
        env=support.daemon.environment(tmp_path),
        cwd=support.daemon.REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout, result.stderr) == (3, "said\n", "")


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_the_json_lines_in_order(number, status, model, tone, tmp_path):
    process = subprocess.Popen(
        [*support.daemon.COMMAND, "--source", str(tone), "--loop", "--model", str(model), "--json"],
        env=support.daemon.environment(tmp_path),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline().startswith('{"type":"hello"')
    while '"prediction"' not in process.stdout.readline():
        pass
    process.send_signal(number)
    rest, errors = process.communicate(timeout=LONGEST_WAIT_SECONDS)
    assert process.returncode == status
    assert errors == ""
    segment, source = [json.loads(line) for line in rest.splitlines()[-2:]]
    assert (segment["type"], segment["final"]) == ("segment", True)
    assert (source["type"], source["source"]) == ("source", "tone")
    assert (source["state"], source["detail"]) == ("ended", "stopped")


def run_closing(closed, home, *arguments):
    """Run genre-stream from a shell that closes some of its standard streams."""
    command = shlex.join([*support.daemon.COMMAND, *map(str, arguments)])
    return subprocess.run(
        ["sh", "-c", f"{command} {closed}"],
        env=support.daemon.environment(home),
        cwd=support.daemon.REPOSITORY,
        capture_output=True,
        text=True,
        timeout=LONGEST_WAIT_SECONDS,
    )


def test_it_runs_with_closed_standard_streams(model, tone, tmp_path):
    database = tmp_path / "heard.db"
    arguments = ("--source", tone, "--model", model, "--fast", "--port", "0")
    done = run_closing("<&- >&- 2>&-", tmp_path, *arguments, "--history", database)
    assert done.returncode == 0
    assert "high" in support.daemon.run(tmp_path, "history", database, "--csv").stdout


def test_errors_do_not_go_to_standard_output_when_standard_error_is_closed(tmp_path):
    done = run_closing("2>&-", tmp_path, "--source", tmp_path / "nowhere.wav", "--json")
    assert (done.returncode, done.stdout) == (2, "")


def test_a_closed_standard_input_is_refused(model, tmp_path):
    raw = ("--source", "-", "--rate", "8000", "--channels", "1", "--model", model)
    done = run_closing("<&-", tmp_path, *raw, *FAST_JSON)
    message = "genre-stream: standard input is closed; send sound into it\n"
    assert (done.returncode, done.stderr) == (2, message)


def test_raw_samples_are_read_from_standard_input(model, tmp_path):
    tone = np.sin(2 * np.pi * 200 * np.arange(8000 * 6) / 8000)
    raw_input = ["--source", "-", "--rate", "8000", "--channels", "2"]
    raw = np.repeat((tone * 20000).astype("<i2"), 2).tobytes()
    result = subprocess.run(
        [*support.daemon.COMMAND, *FAST_JSON, *raw_input, "--model", model],
        env=support.daemon.environment(tmp_path),
        input=raw,
        capture_output=True,
        timeout=LONGEST_WAIT_SECONDS,
    )
    frames = [json.loads(line) for line in result.stdout.splitlines()]
    assert [f["genre"] for f in frames if f["type"] == "prediction"][-1] == "low"
    assert result.returncode == 0
