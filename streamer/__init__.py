"""Genre labels for audio as it is played: the daemon, and its parts for use by other programs.

`replay` decides about a recording, `Pipeline` about samples that a program already has:

>>> import streamer
>>> for decision in streamer.replay("demo"):
...     what = decision.genre or decision.state
...     print(f"{decision.position:.0f} s: {what}, {decision.confidence:.0%} sure")
...     break
3 s: ... sure

`Classifier` is the model alone. Each name is imported when it is first used, so importing the
package is quick.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING

# Since 1.29 onnxruntime sends telemetry to Microsoft and writes a machine identifier and a database
# to the home folder, unless this is set before it is first imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from streamer.core.decision import Decision, DecisionSettings, Segment, State
    from streamer.core.events import SpectrogramColumns
    from streamer.core.model import Classifier, ModelError
    from streamer.core.pipeline import Pipeline
    from streamer.engine.replay import replay
    from streamer.sources import SourceError

__all__ = [
    "Classifier",
    "Decision",
    "DecisionSettings",
    "ModelError",
    "Pipeline",
    "Segment",
    "SourceError",
    "SpectrogramColumns",
    "State",
    "replay",
]

_HOMES = {
    "Classifier": "streamer.core.model",
    "Decision": "streamer.core.decision",
    "DecisionSettings": "streamer.core.decision",
    "ModelError": "streamer.core.model",
    "Pipeline": "streamer.core.pipeline",
    "Segment": "streamer.core.decision",
    "SourceError": "streamer.sources",
    "SpectrogramColumns": "streamer.core.events",
    "State": "streamer.core.decision",
    "replay": "streamer.engine.replay",
}


if not TYPE_CHECKING:
    # Hidden from type checkers, which would otherwise accept any misspelt name.
    def __getattr__(name: str) -> object:
        """Import a public name when it is first used."""
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
