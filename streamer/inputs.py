"""The sources that the settings name, and what each of them is heard with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from streamer.core.decision import DecisionSettings, DecisionSettingsError
from streamer.core.model import DEFAULT_MODEL, Classifier, ModelError
from streamer.core.pipeline import Pipeline
from streamer.engine.scheduler import Scheduler
from streamer.settings import Settings
from streamer.sources import Source, SourceError, make_device, make_source
from streamer.system.processors import processors


class InputError(Exception):
    """What was asked for cannot be heard; one sentence that says why and what to do."""


def make_inputs(
    settings: Settings, known: Mapping[str, Source] | None = None
) -> dict[str, tuple[str, Source]]:
    """Make every source that the settings name; nothing is opened yet.

    Parameters
    ----------
    settings
        What holds.
    known
        Sources that are there already, by what the settings said of them; they are not made anew.

    Returns
    -------
    dict
        Name -> (what the settings say of it, source). Two settings that say the same of a name
        mean the same source.

    Raises
    ------
    InputError
        If a source cannot be made, or two have one name.
    """
    inputs: dict[str, tuple[str, Source]] = {}
    media = f"loop={settings.loop} fast={settings.fast}"
    raw = f"rate={settings.rate} channels={settings.channels}"
    wanted: list[tuple[str, Callable[[], Source]]] = [
        *((f"device {text}", lambda text=text: make_device(text)) for text in settings.device),
        *(
            (
                f"source {text} {media} {raw}",
                lambda text=text: make_source(
                    text,
                    fast=settings.fast,
                    loop=settings.loop,
                    rate=settings.rate,
                    channels=settings.channels,
                ),
            )
            for text in settings.source
        ),
    ]
    for said, make in wanted:
        try:
            source = (known or {}).get(said) or make()
        except SourceError as error:
            raise InputError(str(error)) from None
        if source.name in inputs:
            raise InputError(
                f"two sources are named '{source.name}'; give one another name: write NAME=... "
                "before its device or location"
            )
        inputs[source.name] = (said, source)
    return inputs


def load_classifier(settings: Settings) -> Classifier:
    """Load and check the model.

    Raises
    ------
    InputError
        If the model cannot be used, or does not go with the decision settings.
    """
    try:
        return Classifier.load(settings.model or DEFAULT_MODEL, threads=settings.threads)
    except ModelError as error:
        raise InputError(str(error)) from None


def shared_scheduler(settings: Settings) -> Scheduler:
    """Return the scheduler of all sources: what one inference uses counts as one."""
    return Scheduler(max(1, processors() // settings.threads))


def pipeline_factory(
    settings: Settings, classifier: Classifier, *, spectrogram: bool = False
) -> Callable[[], Pipeline]:
    """Return what makes a pipeline for one source.

    Raises
    ------
    InputError
        If the model's decision settings and those given contradict each other.
    """
    try:
        decision = DecisionSettings.from_mapping(classifier.contract.decision, settings.decision)
    except DecisionSettingsError as error:
        raise InputError(str(error)) from None
    return lambda: Pipeline(
        classifier,
        settings=decision,
        hop_seconds=settings.hop_seconds,
        spectrogram=spectrogram,
    )
