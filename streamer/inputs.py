"""Makes what the settings name: the sources, the model, and a pipeline for each source."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from streamer.core.decision_settings import DecisionSettings, DecisionSettingsError
from streamer.core.labels import LabelError
from streamer.core.model import DEFAULT_MODEL, Classifier, ModelError
from streamer.core.pipeline import Pipeline
from streamer.engine.scheduler import Scheduler
from streamer.settings import Settings, suggestion
from streamer.sources import Source, SourceError, make_device, make_source
from streamer.sources.address import default_name, split_name
from streamer.system.commandline import UserError
from streamer.system.processors import processors


class InputError(UserError):
    """Something that the settings name cannot be used; one sentence, with what to do about it."""


@dataclass(frozen=True, slots=True)
class SourceSettings:
    """The settings that define a source: if they are equal, so is the source."""

    kind: Literal["device", "source"]
    text: str
    """As in `Settings.device` or `Settings.source`."""
    fast: bool = False
    loop: bool = False
    follow: bool = False
    rate: int | None = None
    channels: int | None = None
    charset: str | None = None
    """Encoding of the source's titles; None: to be found out."""
    wait: bool = False
    """Whether a device that is missing is waited for."""

    def make(self) -> Source:
        """Make the source, without opening it."""
        if self.kind == "device":
            return make_device(self.text, wait=self.wait)
        return make_source(
            self.text,
            fast=self.fast,
            loop=self.loop,
            follow=self.follow,
            rate=self.rate,
            channels=self.channels,
            charset=self.charset,
        )


def make(own: SourceSettings) -> Source:
    """Make a source, without opening it; raise `InputError` if it cannot be made."""
    try:
        return own.make()
    except SourceError as error:
        raise InputError(str(error)) from None


def source_settings(settings: Settings) -> list[SourceSettings]:
    """Return the settings of each device and each source, in their order."""
    wanted = [SourceSettings("device", text, wait=settings.wait) for text in settings.device]
    options = (
        settings.fast,
        settings.loop,
        settings.follow,
        settings.rate,
        settings.channels,
    )
    charsets = _charsets(settings)
    for text in settings.source:
        name, location = split_name(text)
        charset = charsets.get(name or default_name(location), charsets.get(""))
        wanted.append(SourceSettings("source", text, *options, charset=charset))
    return wanted


def _charsets(settings: Settings) -> dict[str, str]:
    """Return the encoding of titles by the names of sources; that of "" is for all others."""
    return {
        name: charset for name, _, charset in (text.rpartition("=") for text in settings.charset)
    }


def name_conflict(name: str) -> InputError:
    """Return the error for two sources with the same name."""
    return InputError(
        f"two sources are named '{name}'; give one another name: write NAME=... "
        "before its device or location"
    )


def make_inputs(
    settings: Settings, known: Mapping[SourceSettings, Source] | None = None
) -> dict[str, tuple[SourceSettings, Source]]:
    """Make every source that the settings name, without opening it; return them by their names.

    Those of the `known` sources whose settings have not changed are returned instead of new ones.
    `InputError` is raised if a source cannot be made, or two have the same name, or if a charset is
    given for a source that there is not.
    """
    inputs: dict[str, tuple[SourceSettings, Source]] = {}
    for own in source_settings(settings):
        source = (known or {}).get(own) or make(own)
        if source.name in inputs:
            raise name_conflict(source.name)
        inputs[source.name] = (own, source)
    for name, charset in _charsets(settings).items():
        if name and name not in inputs:
            raise InputError(f"charset {name}={charset}: no source is named '{name}'")
    return inputs


def load_classifier(settings: Settings) -> Classifier:
    """Load and check the model; raise `InputError` if it cannot be used."""
    path = settings.model or DEFAULT_MODEL
    try:
        classifier = Classifier.load(
            path,
            threads=settings.threads,
            labels=settings.labels,
            arithmetic=settings.arithmetic,
        )
    except ModelError as error:
        raise InputError(str(error)) from None
    except LabelError as error:
        raise InputError(f"labels: {error}") from None
    check_colours(settings, classifier)
    return classifier


def describe_arithmetic(classifier: Classifier) -> str:
    """Return the numbers that a model is computed with, and how fast both are if measured."""
    used, times = classifier.arithmetic, classifier.milliseconds
    if not times:
        return used
    (other,) = (name for name in times if name != used)
    return f"{used} ({times[used]:.1f} ms a window, {times[other]:.1f} ms in {other})"


def check_colours(settings: Settings, classifier: Classifier) -> None:
    """Raise `InputError` if a colour is given to what is no label."""
    labels = classifier.names.labels
    for label in settings.colours:
        if label not in labels:
            hint = suggestion(label, labels) or f"; the labels are {', '.join(labels)}"
            raise InputError(f"colours: {label!r} is no label{hint}")


def shared_scheduler(settings: Settings) -> Scheduler:
    """Return a scheduler for all sources that keeps the processors busy with inferences."""
    return Scheduler(max(1, processors() // settings.threads))


def decision_settings(settings: Settings, classifier: Classifier) -> DecisionSettings:
    """Return how decisions are made; raise `InputError` if the settings cannot be used."""
    own = classifier.contract.decision
    try:
        return DecisionSettings.from_mapping(own, settings.decision, settings.response)
    except DecisionSettingsError as error:
        raise InputError(str(error)) from None


def pipeline_factory(
    settings: Settings, classifier: Classifier, *, spectrogram: bool = False
) -> Callable[[], Pipeline]:
    """Return a function that makes a pipeline for one source.

    `InputError` is raised if the decision settings cannot be used.
    """
    decision = decision_settings(settings, classifier)
    return lambda: Pipeline(
        classifier,
        settings=decision,
        hop_seconds=settings.hop_seconds,
        spectrogram=spectrogram,
        effort=settings.effort or "full",
    )
