"""The sample alert rules for Prometheus, with Prometheus' own tool."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from prometheus_client import generate_latest
from support.published import MODEL, hello, prediction

from streamer.core.health import SourceHealth
from streamer.sinks.metrics import Metrics
from streamer.sinks.websocket.hub import Hub

RULES = Path(__file__).parents[1] / "systemd" / "alerts.yml"
STATE = 'genre_stream_source_state{instance="a", source="radio", genre_stream_source_state="%s"}'
CASE = """
rule_files: [%s]
evaluation_interval: 15s
tests:
  - interval: 15s
    input_series: [%s]
    alert_rule_test: [%s]
"""
DEAD_AIR = """
      {eval_time: 30s, alertname: GenreStreamDeadAir},
      {eval_time: 60s, alertname: GenreStreamDeadAir, exp_alerts: [{
        exp_labels: {severity: critical, instance: a, source: radio},
        exp_annotations: {summary: "radio has been silent for 1m 0s"}}]},
"""
OFF = """
      {eval_time: 15s, alertname: GenreStreamSourceOff},
      {eval_time: 60s, alertname: GenreStreamSourceOff, exp_alerts: [{
        exp_labels: {severity: warning, instance: a, source: radio},
        exp_annotations: {summary: "radio has delivered no sound for half a minute"}}]},
      {eval_time: 150s, alertname: GenreStreamSourceOff},
"""


def promtool(*arguments):
    """Run promtool; return its output if it fails, else None."""
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (apt install prometheus)")
    done = subprocess.run(["promtool", *arguments], capture_output=True, text=True, check=False)
    return done.stdout + done.stderr if done.returncode else None


def test_prometheus_accepts_the_alert_rules():
    assert promtool("check", "rules", RULES) is None


@pytest.mark.parametrize(
    ("series", "expected"),
    [
        ([('genre_stream_silence_seconds{instance="a", source="radio"}', "0+15x10")], DEAD_AIR),
        (
            # The state changes in between, as with every attempt to connect.
            [(STATE % "stalled", "1 1 0 0 0 0 0 0 0 0"), (STATE % "reconnecting", "0 0 1x4 0x4")],
            OFF,
        ),
    ],
    ids=["dead air", "outage"],
)
def test_dead_air_and_outages_raise_an_alert(tmp_path, series, expected):
    written = ", ".join(f"{{series: '{name}', values: '{values}'}}" for name, values in series)
    case = tmp_path / "case.yml"
    case.write_text(CASE % (RULES, written, expected))
    assert promtool("test", "rules", case) is None


def test_the_alert_rules_name_metrics_that_exist():
    health = SourceHealth("radio", "live")
    metrics = Metrics(
        version="1", model=MODEL, health=lambda: [health], clients=Hub(hello("radio"))
    )
    metrics.publish(prediction(1))
    exposed = generate_latest(metrics.registry).decode()
    named = set(re.findall(r"genre_stream_\w+", RULES.read_text()))
    assert len(named) >= 5
    # A state that never began has no sample.
    assert {name for name in named if not re.search(rf"\b{name}\b", exposed)} == set()
