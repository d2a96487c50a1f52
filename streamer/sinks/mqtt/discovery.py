"""The description of a source for Home Assistant: MQTT device discovery, as of 2026.11.

https://www.home-assistant.io/integrations/mqtt/#device-discovery-payload
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from streamer.core.segments import State
from streamer.sinks.mqtt.topics import Topics, slug

ORIGIN = "genre-stream"


def device(topics: Topics, source: str, labels: Sequence[str], model: str) -> dict[str, Any]:
    """Return the discovery payload of a source.

    The identifiers depend on the names of node and source alone, so that entities keep their
    history when labels are renamed. `labels` are those that can be claimed as a genre.
    """
    topic, identifier = topics.source(source), topics.device(source)
    entity = slug(source).lower().replace("-", "_")

    def component(platform: str, key: str, name: str, template: str, **more: Any) -> dict[str, Any]:
        return {
            "p": platform,
            "name": name,
            "uniq_id": f"{identifier}_{key}",
            "def_ent_id": f"{platform}.genre_stream_{entity}_{key}",
            "val_tpl": template,
            **more,
        }

    options = [*labels, *(state.value for state in State if state is not State.MUSIC)]
    level = {"stat_t": f"{topic}/level", "ent_cat": "diagnostic", "stat_cla": "measurement"}
    return {
        "dev": {
            "ids": [identifier],
            "name": source,
            "sw": version("genre-stream"),
            "mf": ORIGIN,
            "mdl": model,
        },
        "o": {"name": ORIGIN, "sw": version("genre-stream")},
        "avty": [{"t": topics.status}, {"t": f"{topic}/available"}],
        "avty_mode": "all",
        "stat_t": f"{topic}/state",
        "cmps": {
            "genre": component(
                "sensor",
                "genre",
                "Genre",
                "{{ value_json.label }}",
                dev_cla="enum",
                ops=options,
                json_attr_t=f"{topic}/state",
                ic="mdi:music",
            ),
            "confidence": component(
                "sensor",
                "confidence",
                "Confidence",
                "{{ (value_json.confidence * 100) | round }}",
                unit_of_meas="%",
                **level,
            ),
            "music": component(
                "binary_sensor",
                "music",
                "Music",
                "{{ 'ON' if value_json.state == 'music' else 'OFF' }}",
                dev_cla="sound",
            ),
            "level": component(
                "sensor",
                "level",
                "Level",
                "{{ value_json.level_dbfs }}",
                unit_of_meas="dBFS",
                en=False,
                **level,
            ),
            "title": component(
                "sensor",
                "title",
                "Title",
                # A state of Home Assistant has at most 255 characters.
                "{{ (value_json.title or '')[:255] }}",
                ic="mdi:playlist-music",
            ),
        },
    }
