import dataclasses
import os
import re
import tomllib
from pathlib import Path

import pytest

from streamer import settings as schema
from streamer.commands.config_text import describe, sample_config
from streamer.core.decision_settings import RESPONSE_HOP_SECONDS, DecisionSettings
from streamer.core.model import Classifier
from streamer.settings import Settings, SettingsError, load

DECISION_SETTINGS = {field.name: field for field in dataclasses.fields(DecisionSettings)}
SAMPLE = Path(__file__).parents[2] / "systemd" / "config.toml"


@pytest.fixture(autouse=True)
def no_system_config(tmp_path, monkeypatch):
    monkeypatch.setattr(schema, "SYSTEM_CONFIG", tmp_path / "etc" / "config.toml")
    (tmp_path / "etc").mkdir()


@pytest.fixture
def environment(tmp_path):
    return {"HOME": str(tmp_path / "home")}


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_each_layer_wins_over_the_one_below(tmp_path, environment):
    layers = {
        "etc": lambda: write(tmp_path / "etc" / "config.toml", "port = 1"),
        "home": lambda: write(tmp_path / "home/.config/genre-stream/config.toml", "port = 2"),
        "requested": lambda: write(tmp_path / "requested.toml", "port = 3"),
    }
    assert load({}, environment=environment).settings.port == 8765
    layers["etc"]()
    assert load({}, environment=environment).settings.port == 1
    layers["home"]()
    assert load({}, environment=environment).settings.port == 2
    requested = layers["requested"]()
    assert load({}, config=requested, environment=environment).settings.port == 3
    environment["GENRE_STREAM_PORT"] = "4"
    assert load({}, config=requested, environment=environment).settings.port == 4
    effective = load({"port": "5"}, config=requested, environment=environment)
    assert effective.settings.port == 5
    assert effective.origins["port"] == "command line"


def test_a_layer_with_sources_replaces_devices_and_sources_of_lower_layers(tmp_path, environment):
    config = write(tmp_path / "config.toml", 'source = ["radio=https://radio.example/"]')
    settings = load({"device": ["mic"]}, config=config, environment=environment).settings
    assert (settings.device, settings.source) == (("mic",), ())


def test_a_list_in_the_environment_is_split_as_a_shell_does_or_read_as_json(environment):
    environment["GENRE_STREAM_SOURCE"] = "'a b.flac' radio=https://radio.example/"
    assert load({}, environment=environment).settings.source == (
        "a b.flac",
        "radio=https://radio.example/",
    )
    environment["GENRE_STREAM_SOURCE"] = '["a b.flac"]'
    assert load({}, environment=environment).settings.source == ("a b.flac",)


def test_a_string_in_a_file_is_one_value_whatever_it_contains(tmp_path, environment):
    text = 'device = "USB Audio"\nsource = "radio=http://radio.example/a \'b"'
    settings = load({}, config=write(tmp_path / "c.toml", text), environment=environment).settings
    assert settings.device == ("USB Audio",)
    assert settings.source == ("radio=http://radio.example/a 'b",)


def test_a_malformed_list_in_the_environment_is_refused(environment):
    for text in ("'a b", '["a b'):
        with pytest.raises(SettingsError) as refusal:
            load({}, environment=environment | {"GENRE_STREAM_SOURCE": text})
        assert str(refusal.value).startswith(f"GENRE_STREAM_SOURCE={text}: ")


def test_tables_may_be_given_as_pairs(tmp_path, environment):
    config = write(tmp_path / "c.toml", '[labels]\nrock = "my guitar"\npop = false')
    expected = {"rock": "my guitar", "pop": False}
    assert load({}, config=config, environment=environment).settings.labels == expected
    variables = environment | {"GENRE_STREAM_LABELS": "'rock=my guitar' pop=false"}
    assert load({}, environment=variables).settings.labels == expected
    given = {"labels": ["rock=my guitar", "pop=false"], "colours": ["pop=#AABBCC"]}
    settings = load(given, environment=environment).settings
    assert (settings.labels, settings.colours) == (expected, {"pop": "#aabbcc"})


def test_an_empty_variable_counts_as_not_set(tmp_path, environment):
    config = write(tmp_path / "config.toml", 'source = "demo"\nport = 1\nhistory = "heard.db"')
    names = ("SOURCE", "DEVICE", "PORT", "HISTORY", "CONFIG")
    empty = {f"GENRE_STREAM_{name}": "" for name in names}
    settings = load({}, config=config, environment=environment | empty).settings
    assert settings == load({}, config=config, environment=environment).settings
    assert load({}, environment=environment | empty).settings.history is None


def test_a_tilde_in_a_path_is_the_home_folder(monkeypatch, environment):
    monkeypatch.setenv("HOME", "/home/somebody")
    settings = load({"history": "~/heard.db"}, environment=environment).settings
    assert settings.history == Path("/home/somebody/heard.db")


FAULTS = [
    ("prot = 1", "{file}: prot = 1: unknown setting (did you mean port?)"),
    ("zzz = 1", "{file}: zzz = 1: unknown setting"),
    ("port = 65536", "{file}: port = 65536: input should be less than or equal to 65535"),
    ('port = "x"', "{file}: port = x: input should be a valid integer"),
    ('log_level = "loud"', "{file}: log_level = loud: input should be 'debug', 'info'"),
    ("min_confidence = 2", "{file}: min_confidence = 2: input should be less than or equal to 1"),
    ("port = = 1", "{file}: not valid TOML: "),
    ('tls_cert = "c.pem"', '{file}: tls_cert = "c.pem": needs tls_key as well'),
    ("channels = 2", "{file}: channels = 2: needs rate as well"),
    ("rate = 8000", "{file}: rate = 8000: only raw samples on standard input"),
    ('source = ["-", "a=-"]', '{file}: source = ["-", "a=-"]: standard input can be heard only'),
    ("device = 0", "{file}: device = 0: should be text in quotes, or a list of such"),
    ("device = [0]", "{file}: device = [0]: should be text in quotes, or a list of such"),
    ('source = ""', '{file}: source = "": should not be empty'),
    ("port = true", "{file}: port = true: should not be true or false"),
    ("hop_seconds = true", "{file}: hop_seconds = true: should not be true or false"),
    ("model = 5", "{file}: model = 5: should be the path of a file"),
    ('model = ""', '{file}: model = "": should be the path of a file'),
    ('model = "a\\u0000b"', '{file}: model = "a\\u0000b": should have no NUL character'),
    ('source = ["a\\u0000b"]', '{file}: source = ["a\\u0000b"]: should have no NUL character'),
    ('history = "~no-one/h.db"', "{file}: history = ~no-one/h.db: there is no such home folder"),
    (
        'history = ":memory:"',
        "{file}: history = :memory:: nobody could read a history that is kept",
    ),
    ('host = "a..b"', "{file}: host = a..b: is neither the name nor the address of a computer"),
    (f'host = "{"a" * 80}"', f"{{file}}: host = {'a' * 80}: is neither the name nor the address"),
    (
        'origin = "a.example"',
        "{file}: origin = a.example: is not the origin of a page: that is its",
    ),
    ('origin = "http://[::1"', "{file}: origin = http://[::1: is not the origin of a page"),
    ('origin = "http://a.example/page"', "{file}: origin = http://a.example/page: is not the orig"),
    ('origin = "http://*.example"', "{file}: origin = http://*.example: is not the origin of a pa"),
    ("[labels]\nrock = 1", "{file}: labels.rock = 1: should be a name, or false"),
    ('labels = "rock"', "{file}: labels = rock: should be a table, or a list of texts such as"),
    ('[colours]\nrock = "red"', '{file}: colours.rock = "red": should be a colour such as'),
    ('charset = "a=utf-99"', "{file}: charset = a=utf-99: there is no character encoding 'utf-99'"),
    ('charset = "hex"', "{file}: charset = hex: there is no character encoding 'hex'"),
    ("[server]\nport = 1", '{file}: server = {"port": 1}: unknown setting'),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS, ids=[text for text, _ in FAULTS])
def test_an_error_names_the_file_the_setting_and_the_value(text, sentence, tmp_path, environment):
    file = write(tmp_path / "config.toml", text)
    with pytest.raises(SettingsError) as refusal:
        load({}, config=file, environment=environment)
    assert str(refusal.value).startswith(sentence.replace("{file}", str(file)))


def test_all_wrong_settings_are_told_at_once(tmp_path, environment):
    file = write(tmp_path / "config.toml", 'prot = 1\nport = "x"\nrate = 1\nhost = "a"')
    environment["GENRE_STREAM_HOP_SECOND"] = "2"
    with pytest.raises(SettingsError) as refusal:
        load({"min_margin": "2"}, config=file, environment=environment)
    assert str(refusal.value) == (
        f"{file}: prot = 1: unknown setting (did you mean port?); "
        "GENRE_STREAM_HOP_SECOND=2: unknown setting (did you mean hop_seconds?); "
        f"{file}: rate = 1: input should be greater than or equal to 8000; "
        "--min-margin 2: input should be less than or equal to 1; "
        f"{file}: port = x: input should be a valid integer, unable to parse string as an integer"
    )


def test_a_byte_order_mark_in_a_file_is_ignored(tmp_path, environment):
    file = write(tmp_path / "config.toml", "\ufeffport = 1")
    assert load({}, config=file, environment=environment).settings.port == 1


@pytest.mark.parametrize("encoding", ["utf-16", "latin-1"])
def test_a_file_in_another_encoding_is_refused_with_advice(encoding, tmp_path, environment):
    file = tmp_path / "config.toml"
    file.write_bytes("host = 'ä'".encode(encoding))
    with pytest.raises(SettingsError) as refusal:
        load({}, config=file, environment=environment)
    assert str(refusal.value) == f"{file}: not text in UTF-8; save it in that encoding"


def test_an_unknown_variable_is_named_with_the_most_similar_setting(environment):
    with pytest.raises(SettingsError) as refusal:
        load({}, environment=environment | {"GENRE_STREAM_HOP_SECOND": "2"})
    assert str(refusal.value) == (
        "GENRE_STREAM_HOP_SECOND=2: unknown setting (did you mean hop_seconds?)"
    )
    with pytest.raises(SettingsError, match=r"^GENRE_STREAM_PORT=x: input should be a valid int"):
        load({}, environment=environment | {"GENRE_STREAM_PORT": "x"})


def test_a_requested_file_must_exist(tmp_path, environment):
    with pytest.raises(SettingsError, match="no such settings file"):
        load({}, config=tmp_path / "missing.toml", environment=environment)
    environment["GENRE_STREAM_CONFIG"] = str(tmp_path)
    with pytest.raises(SettingsError, match="no such settings file"):
        load({}, environment=environment)


def test_an_impossible_path_of_a_settings_file_is_one_sentence(tmp_path, environment):
    endless = tmp_path / ("x" * 300)
    with pytest.raises(SettingsError) as refusal:
        load({}, config=endless, environment=environment)
    assert str(refusal.value) == f"{endless}: cannot be read: File name too long"
    with pytest.raises(SettingsError) as refusal:
        load({}, config=Path("~no-one/config.toml"), environment=environment)
    assert str(refusal.value) == "~no-one/config.toml: there is no such home folder"


def test_print_config_is_toml_with_origins_and_without_credentials(tmp_path, environment):
    config = write(tmp_path / "config.toml", "threads = 2")
    radio = "radio=https://user:hunter2@radio.example/live?token=hunter3"
    text = describe(load({"source": [radio]}, config=config, environment=environment))
    assert "hunter" not in text
    lines = {line.split(" ", 1)[0]: line.rpartition("  # ")[2] for line in text.splitlines()}
    assert lines["threads"] == str(config)
    assert lines["source"] == "command line"
    assert lines["port"] == "default"
    again = load({}, config=write(tmp_path / "shown.toml", text), environment=environment)
    assert again.settings.threads == 2


def test_the_sample_file_is_generated_from_the_schema():
    assert SAMPLE.read_text() == sample_config()


def sample_values() -> dict[str, str]:
    """Return the commented-out line of each setting in the sample file, uncommented."""
    lines = [line[1:] for line in SAMPLE.read_text().splitlines() if line.startswith("#")]
    return {
        name: line for line in lines if (name := line.split(" ", 1)[0]) in Settings.model_fields
    }


def test_every_setting_in_the_sample_file_can_be_uncommented(tmp_path, environment):
    companions = {
        "channels": "rate = 8000\nsource = '-'",
        "rate": "source = '-'",
        "tls_cert": "tls_key = 'k'",
        "tls_key": "tls_cert = 'c'",
    }
    values = sample_values()
    for name, line in values.items():
        text = f"{line}\n{companions.get(name, '')}"
        load({}, config=write(tmp_path / "one.toml", text), environment=environment)
    assert list(values) == list(Settings.model_fields)


def test_the_sample_file_shows_the_defaults(tmp_path, environment):
    lines = [
        line
        for name, line in sample_values().items()
        if Settings.model_fields[name].default not in (None, (), {})
    ]
    config = write(tmp_path / "all.toml", "\n".join(lines))
    shown = load({}, config=config, environment=environment)
    assert shown.settings == load({}, environment=environment).settings


def test_the_sample_file_shows_the_decision_settings_of_the_embedded_model(tmp_path, environment):
    lines = [line for name, line in sample_values().items() if name in DECISION_SETTINGS]
    config = write(tmp_path / "all.toml", "\n".join(lines))
    shown = load({}, config=config, environment=environment)
    own = Classifier.load().contract.decision
    assert shown.settings.decision == dataclasses.asdict(DecisionSettings.from_mapping(own))


def test_the_decision_settings_have_the_range_and_help_of_the_decider():
    ours = dict(schema.fields_by_group()[schema.DECISIONS])
    assert list(ours) == list(DECISION_SETTINGS)
    for name, field in ours.items():
        metadata = DECISION_SETTINGS[name].metadata
        limits = {
            attribute: getattr(limit, attribute)
            for limit in field.metadata
            for attribute in ("ge", "le")
            if hasattr(limit, attribute)
        }
        assert tuple(limits.values()) == metadata.get("range", ()), name
        assert field.description == metadata["help"]


def test_only_given_decision_settings_override_those_of_the_model(environment):
    assert load({}, environment=environment).settings.decision == {}
    given = load({"min_margin": "0.2"}, environment=environment).settings.decision
    assert given == {"min_margin": 0.2}


def test_a_response_gives_the_hop_unless_it_is_given_itself(environment):
    for response, hop_seconds in RESPONSE_HOP_SECONDS.items():
        effective = load({"response": response}, environment=environment)
        assert effective.settings.hop_seconds == hop_seconds
        assert effective.origins["hop_seconds"] == f"response = {response}"
        assert effective.settings.decision == {}
    effective = load({"response": "fast", "hop_seconds": "2"}, environment=environment)
    assert effective.settings.hop_seconds == 2
    assert effective.origins["hop_seconds"] == "command line"


def test_print_config_shows_what_a_response_makes_of_the_settings_of_the_model(environment):
    own = DecisionSettings.from_mapping(Classifier.load().contract.decision)
    for response, shift in (("calm", 1), ("fast", -1)):
        text = describe(load({"response": response, "dwell_seconds": "9"}, environment=environment))
        lines = {line.removeprefix("# ").split(" ", 1)[0]: line for line in text.splitlines()}
        shown = tomllib.loads(lines["min_confidence"].removeprefix("# "))["min_confidence"]
        assert (shown - own.min_confidence) * shift > 0.1
        assert lines["min_confidence"].endswith(f"# response = {response}")
        assert re.fullmatch(r"dwell_seconds = 9.0 +# command line", lines["dwell_seconds"])
        assert lines["memory_seconds"].endswith("# the model's")


@pytest.mark.parametrize("value", ["quick", ["fast"]])
def test_an_unknown_response_is_refused_with_the_known_ones(value, environment):
    with pytest.raises(SettingsError, match=r"response.*'calm', 'normal' or 'fast'"):
        load({"response": value}, environment=environment)


def test_the_origin_of_a_decision_setting_that_is_not_given_is_the_model(environment):
    text = describe(load({"min_margin": "0.2"}, environment=environment))
    lines = {line.removeprefix("# ").split(" ", 1)[0]: line for line in text.splitlines()}
    assert re.fullmatch(r'# smoothing = "adaptive" +# the model\'s', lines["smoothing"])
    own = DecisionSettings.from_mapping(Classifier.load().contract.decision)
    assert lines["dwell_seconds"].startswith(f"# dwell_seconds = {own.dwell_seconds} ")
    assert lines["min_margin"].endswith("# command line")


def test_print_config_shows_the_decision_settings_of_the_chosen_model(model, tmp_path, environment):
    own = DecisionSettings.from_mapping(Classifier.load(model).contract.decision)
    text = describe(load({"model": str(model)}, environment=environment))
    assert f"# dwell_seconds = {own.dwell_seconds} " in text
    assert own.dwell_seconds != Classifier.load().contract.decision.get("dwell_seconds")
    text = describe(load({"model": str(tmp_path / "none.onnx")}, environment=environment))
    assert "# dwell_seconds is not set " in text
    assert "none.onnx" in text.splitlines()[-1]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_system_file_that_this_user_cannot_read_is_left_out(tmp_path, environment):
    write(tmp_path / "etc" / "config.toml", "port = 1").chmod(0)
    assert load({}, environment=environment).settings.port == 8765
