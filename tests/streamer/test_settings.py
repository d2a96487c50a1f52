import dataclasses
import itertools
import os
from pathlib import Path

import pytest

from streamer import settings as schema
from streamer.core.decision import DecisionSettings
from streamer.core.model import Classifier
from streamer.settings import Settings, SettingsError, load

DECISION_RANGES = {
    field.name: field.metadata["range"]
    for field in dataclasses.fields(DecisionSettings)
    if "range" in field.metadata
}
SAMPLE = Path(__file__).parents[2] / "systemd" / "config.toml"


@pytest.fixture(autouse=True)
def no_files_of_this_machine(tmp_path, monkeypatch):
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
        "asked": lambda: write(tmp_path / "asked.toml", "port = 3"),
    }
    assert load({}, environment=environment).settings.port == 8765
    layers["etc"]()
    assert load({}, environment=environment).settings.port == 1
    layers["home"]()
    assert load({}, environment=environment).settings.port == 2
    asked = layers["asked"]()
    assert load({}, config=asked, environment=environment).settings.port == 3
    environment["GENRE_STREAM_PORT"] = "4"
    assert load({}, config=asked, environment=environment).settings.port == 4
    effective = load({"port": "5"}, config=asked, environment=environment)
    assert effective.settings.port == 5
    assert effective.origins["port"] == "command line"


def test_a_layer_that_says_what_to_hear_replaces_what_lower_layers_say(tmp_path, environment):
    config = write(tmp_path / "config.toml", 'source = ["radio=https://radio.example/"]')
    settings = load({"device": ["mic"]}, config=config, environment=environment).settings
    assert (settings.device, settings.source) == (("mic",), ())


def test_a_list_in_the_environment_is_split_like_words_of_a_shell(environment):
    environment["GENRE_STREAM_SOURCE"] = "'a b.flac' radio=https://radio.example/"
    assert load({}, environment=environment).settings.source == (
        "a b.flac",
        "radio=https://radio.example/",
    )
    environment["GENRE_STREAM_SOURCE"] = '["a b.flac"]'
    assert load({}, environment=environment).settings.source == ("a b.flac",)


def test_text_in_a_file_of_settings_is_one_value_whatever_is_in_it(tmp_path, environment):
    text = 'device = "USB Audio"\nsource = "radio=http://radio.example/a \'b"'
    settings = load({}, config=write(tmp_path / "c.toml", text), environment=environment).settings
    assert settings.device == ("USB Audio",)
    assert settings.source == ("radio=http://radio.example/a 'b",)


def test_a_list_in_the_environment_that_cannot_be_split_is_refused(environment):
    for text in ("'a b", '["a b'):
        with pytest.raises(SettingsError) as refusal:
            load({}, environment=environment | {"GENRE_STREAM_SOURCE": text})
        assert str(refusal.value).startswith(f"GENRE_STREAM_SOURCE={text}: ")


def test_a_variable_that_is_empty_gives_nothing(tmp_path, environment):
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
    ("[server]\nport = 1", '{file}: server = {"port": 1}: unknown setting'),
]


@pytest.mark.parametrize(("text", "sentence"), FAULTS, ids=[text for text, _ in FAULTS])
def test_a_faulty_file_is_refused_with_its_name_the_setting_and_the_value(
    text, sentence, tmp_path, environment
):
    file = write(tmp_path / "config.toml", text)
    with pytest.raises(SettingsError) as refusal:
        load({}, config=file, environment=environment)
    assert str(refusal.value).startswith(sentence.replace("{file}", str(file)))


def test_a_faulty_variable_is_named_with_the_nearest_that_exists(environment):
    with pytest.raises(SettingsError) as refusal:
        load({}, environment=environment | {"GENRE_STREAM_HOP_SECOND": "2"})
    assert str(refusal.value) == (
        "GENRE_STREAM_HOP_SECOND=2: unknown setting (did you mean hop_seconds?)"
    )
    with pytest.raises(SettingsError, match=r"^GENRE_STREAM_PORT=x: input should be a valid int"):
        load({}, environment=environment | {"GENRE_STREAM_PORT": "x"})


def test_a_file_that_was_asked_for_must_exist(tmp_path, environment):
    with pytest.raises(SettingsError, match="no such settings file"):
        load({}, config=tmp_path / "missing.toml", environment=environment)
    environment["GENRE_STREAM_CONFIG"] = str(tmp_path)
    with pytest.raises(SettingsError, match="no such settings file"):
        load({}, environment=environment)


def test_a_file_that_cannot_even_be_looked_for_is_refused_in_one_sentence(tmp_path, environment):
    endless = tmp_path / ("x" * 300)
    with pytest.raises(SettingsError) as refusal:
        load({}, config=endless, environment=environment)
    assert str(refusal.value) == f"{endless}: cannot be read: File name too long"
    with pytest.raises(SettingsError) as refusal:
        load({}, config=Path("~no-one/config.toml"), environment=environment)
    assert str(refusal.value) == "~no-one/config.toml: there is no such home folder"


def test_the_settings_that_hold_are_shown_as_toml_with_origins_and_without_secrets(
    tmp_path, environment
):
    config = write(tmp_path / "config.toml", "threads = 2")
    radio = "radio=https://user:hunter2@radio.example/live?token=hunter3"
    text = schema.describe(load({"source": [radio]}, config=config, environment=environment))
    assert "hunter" not in text
    lines = {line.split(" ", 1)[0]: line.rpartition("  # ")[2] for line in text.splitlines()}
    assert lines["threads"] == str(config)
    assert lines["source"] == "command line"
    assert lines["port"] == "default"
    again = load({}, config=write(tmp_path / "shown.toml", text), environment=environment)
    assert again.settings.threads == 2


def test_the_sample_file_is_the_one_that_the_schema_makes():
    assert SAMPLE.read_text() == schema.sample_config()


def test_every_setting_of_the_sample_file_can_be_switched_on(tmp_path, environment):
    names = set()
    for line in SAMPLE.read_text().splitlines():
        if line.startswith("#") and not line.startswith(("# ", "## ")):
            name = line[1:].split(" ", 1)[0]
            names.add(name)
            companions = {"channels": "rate = 8000\nsource = '-'", "rate": "source = '-'"}
            companions |= {"tls_cert": "tls_key = 'k'", "tls_key": "tls_cert = 'c'"}
            text = f"{line[1:]}\n{companions.get(name, '')}"
            load({}, config=write(tmp_path / "one.toml", text), environment=environment)
    assert names == set(Settings.model_fields)


def test_the_defaults_that_the_sample_file_shows_are_the_defaults(tmp_path, environment):
    text = "\n".join(
        line[1:]
        for line in SAMPLE.read_text().splitlines()
        if line.startswith("#")
        and line[1:].split(" ", 1)[0] in Settings.model_fields
        and Settings.model_fields[line[1:].split(" ", 1)[0]].default not in (None, ())
    )
    shown = load({}, config=write(tmp_path / "all.toml", text), environment=environment)
    assert shown.settings == load({}, environment=environment).settings


def test_the_decision_settings_that_the_sample_file_shows_are_those_of_the_embedded_model(
    tmp_path, environment
):
    text = "\n".join(
        line[1:]
        for line in SAMPLE.read_text().splitlines()
        if line[1:].split(" ", 1)[0] in DECISION_RANGES or line.startswith("#smoothing =")
    )
    shown = load({}, config=write(tmp_path / "all.toml", text), environment=environment)
    own = Classifier.load().contract.decision
    assert shown.settings.decision == dataclasses.asdict(DecisionSettings.from_mapping(own))


def test_the_decision_settings_are_those_of_the_decider_with_the_same_limits():
    ours = [name for name, field in Settings.model_fields.items() if _is_decision(field)]
    assert ours == [field.name for field in dataclasses.fields(DecisionSettings)]
    for name, (low, high) in DECISION_RANGES.items():
        limits = [
            vars(limit) if hasattr(limit, "__dict__") else dataclasses.asdict(limit)
            for limit in Settings.model_fields[name].metadata
        ]
        merged = dict(itertools.chain.from_iterable(limit.items() for limit in limits))
        assert (merged["ge"], merged["le"]) == (low, high), name


def test_only_decision_settings_that_were_given_are_laid_over_the_models(environment):
    assert load({}, environment=environment).settings.decision == {}
    given = load({"min_margin": "0.2"}, environment=environment).settings.decision
    assert given == {"min_margin": 0.2}


def _is_decision(field) -> bool:
    return schema.extra(field, "group") == schema.DECIDE


def test_a_decision_setting_that_was_not_given_is_said_to_be_the_models(environment):
    text = schema.describe(load({"min_margin": "0.2"}, environment=environment))
    lines = {line.removeprefix("# ").split(" ", 1)[0]: line for line in text.splitlines()}
    assert lines["smoothing"].endswith("# the model's")
    assert lines["min_margin"].endswith("# command line")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_settings_of_the_service_that_a_user_may_not_read_are_done_without(tmp_path, environment):
    write(tmp_path / "etc" / "config.toml", "port = 1").chmod(0)
    assert load({}, environment=environment).settings.port == 8765
