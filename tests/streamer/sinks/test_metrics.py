import asyncio
import re
from dataclasses import replace

import aiohttp
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text
from support.published import MODEL, PlacingHub, hello, prediction, running_server, segment

from streamer.core.health import SourceHealth
from streamer.sinks.history.writer import History
from streamer.sinks.metrics import Metrics
from streamer.sinks.websocket.hub import Hub, Outbox

BASE_UNITS = {"seconds", "bytes", "ratio", "dbfs"}
HEALTH = SourceHealth(
    "radio",
    "live",
    hop_seconds=2.0,
    quiet_seconds=0.5,
    audio_seconds=100.0,
    inferences=50,
    inference_seconds=5.0,
    queue_depth=3,
    overruns=1,
    dropped_samples=441,
    mix_fallbacks=3,
    nan_samples=2,
    clipped_samples=7,
    silence_seconds=12.5,
    reconnects=4,
    reconnect_attempts=9,
    crashes=1,
)


def read(metrics, sample, **labels):
    return metrics.registry.get_sample_value(sample, labels)


@pytest.fixture
def metrics():
    return Metrics(
        version="1.2.3", model=MODEL, health=lambda: [HEALTH], clients=PlacingHub(hello("radio"))
    )


def test_predictions_are_counted_when_they_are_published(metrics):
    metrics.publish(prediction(1, latency_ms=40.0, level_dbfs=-21.5, confidence=0.75))
    metrics.publish(prediction(2, latency_ms=400.0, level_dbfs=-23.0, confidence=0.5))
    metrics.publish(segment(1))
    latency = "genre_stream_prediction_latency_seconds"
    assert read(metrics, f"{latency}_count", source="radio") == 2
    assert read(metrics, f"{latency}_sum", source="radio") == pytest.approx(0.44)
    assert read(metrics, f"{latency}_bucket", source="radio", le="0.05") == 1
    assert read(metrics, "genre_stream_level_dbfs", source="radio") == -23.0
    assert read(metrics, "genre_stream_confidence_ratio", source="radio") == 0.5
    assert read(metrics, "genre_stream_messages_total", type="prediction") == 2
    assert read(metrics, "genre_stream_messages_total", type="segment") == 1


def test_the_last_decision_is_exposed_as_state_and_info(metrics):
    metrics.publish(prediction(1, genre="jazz"))
    state = "genre_stream_state"
    assert read(metrics, "genre_stream_heard_info", source="radio", genre="jazz") == 1
    assert read(metrics, state, source="radio", genre_stream_state="music") == 1
    metrics.publish(prediction(2, state="silence", genre=None))
    assert read(metrics, "genre_stream_heard_info", source="radio", genre="jazz") is None
    assert read(metrics, "genre_stream_heard_info", source="radio", genre="") == 1
    assert read(metrics, state, source="radio", genre_stream_state="music") == 0
    assert read(metrics, state, source="radio", genre_stream_state="silence") == 1


def test_the_counters_of_a_source_are_exposed(metrics):
    for name, value in {
        "audio_seconds_total": 100.0,
        "overruns_total": 1,
        "dropped_frames_total": 441,
        "mix_fallbacks_total": 3,
        "nan_samples_total": 2,
        "clipped_samples_total": 7,
        "reconnects_total": 4,
        "reconnect_attempts_total": 9,
        "crashes_total": 1,
        "queue_depth": 3,
        "hop_seconds": 2.0,
        "quiet_seconds": 0.5,
        "silence_seconds": 12.5,
        "real_time_factor": 0.05,
        "inference_seconds_count": 50,
        "inference_seconds_sum": 5.0,
    }.items():
        assert read(metrics, f"genre_stream_{name}", source="radio") == value, name
    state = "genre_stream_source_state"
    assert read(metrics, state, source="radio", genre_stream_source_state="live") == 1


def test_a_source_that_is_not_live_says_nothing_of_what_was_heard_before():
    health = [HEALTH]
    metrics = Metrics(version="1", model=MODEL, health=lambda: health, clients=Hub(hello()))
    metrics.publish(prediction(1, genre="jazz"))
    assert read(metrics, "genre_stream_heard_info", source="radio", genre="jazz") == 1
    health[:] = [replace(HEALTH, state="stalled")]
    assert read(metrics, "genre_stream_heard_info", source="radio", genre="jazz") is None
    assert read(metrics, "genre_stream_level_dbfs", source="radio") is None
    assert read(metrics, "genre_stream_confidence_ratio", source="radio") is None
    state = "genre_stream_state"
    assert read(metrics, state, source="radio", genre_stream_state="music") is None


def test_a_removed_source_keeps_only_its_latency():
    health = [HEALTH]
    metrics = Metrics(version="1", model=MODEL, health=lambda: health, clients=Hub(hello()))
    metrics.publish(prediction(1))
    health.clear()
    families = parse_text(generate_latest(metrics.registry).decode())
    of_radio = {
        family.name.removesuffix("_created")
        for family in families
        for sample in family.samples
        if "source" in sample.labels
    }
    assert of_radio == {"genre_stream_prediction_latency_seconds"}


def test_program_and_model_are_exposed(metrics):
    assert read(metrics, "genre_stream_build_info", version="1.2.3") == 1
    assert read(metrics, "genre_stream_model_info", **MODEL) == 1


def test_clients_and_the_frames_that_wait_for_them_are_exposed():
    hub = PlacingHub(hello("radio"))
    metrics = Metrics(version="1", model=MODEL, health=list, clients=hub)
    quick, slow = (Outbox(lambda _, is_open=is_open: is_open) for is_open in (True, False))
    hub.join(quick)
    hub.join(slow)
    hub.publish(prediction(1))
    assert read(metrics, "genre_stream_clients") == 2
    assert read(metrics, "genre_stream_client_queue_depth") == 2
    assert read(metrics, "genre_stream_clients_behind") == 1
    assert read(metrics, "genre_stream_client_frames_skipped_total") == 0
    hub.publish(prediction(2))
    hub.leave(slow)
    hub.slow_clients_closed += 1
    assert read(metrics, "genre_stream_clients") == 1
    assert read(metrics, "genre_stream_slow_clients_closed_total") == 1
    assert read(metrics, "genre_stream_clients_behind") == 0
    assert read(metrics, "genre_stream_client_frames_skipped_total") == 1


def test_the_counters_of_the_history_are_exposed(tmp_path):
    history = History(tmp_path / "h.db")
    metrics = Metrics(version="1", model=MODEL, health=list, clients=Hub(hello()), history=history)
    for name in ("queue_depth", "dropped_total", "write_errors_total"):
        assert read(metrics, f"genre_stream_history_{name}") == 0
    history.close()


def test_names_follow_the_conventions_of_prometheus(metrics):
    metrics.publish(prediction(1))
    for family in parse_text(generate_latest(metrics.registry).decode()):
        if family.name.startswith("process_"):
            continue
        assert family.documentation.endswith("."), family.name
        assert re.fullmatch(r"genre_stream(_[a-z]+)+", family.name)
        assert not re.search(r"_(ms|milliseconds|db|percent|total_total)(_|$)", family.name)
        for sample in family.samples:
            if family.type == "counter":
                assert sample.name.endswith(("_total", "_created"))
            if "le" in sample.labels:
                assert family.name.endswith("_seconds")


@pytest.mark.parametrize(
    ("accept", "parse"),
    [
        ("text/plain", parse_text),
        ("application/openmetrics-text; version=1.0.0", parse_openmetrics),
    ],
)
def test_the_page_has_the_format_that_is_accepted(accept, parse):
    async def scenario():
        async with (
            running_server() as (hub, server),
            aiohttp.ClientSession() as session,
        ):
            hub.publish(prediction(1))
            address = f"{server.url}metrics"
            async with session.get(address, headers={"Accept": accept}) as response:
                assert response.headers["Content-Type"].startswith(accept.split(";")[0])
                families = {family.name for family in parse(await response.text())}
        assert "genre_stream_prediction_latency_seconds" in families
        assert "process_resident_memory_bytes" in families

    asyncio.run(scenario())
