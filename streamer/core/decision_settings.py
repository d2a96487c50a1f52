"""Decision settings: defaults, ranges and help, without numpy so that they load quickly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, get_args

Smoothing = Literal["hmm", "adaptive", "ema", "none"]
Effort = Literal["full", "saving"]
"""Whether the network runs every hop, or only where something may have changed."""

Response = Literal["calm", "normal", "fast"]

RESPONSE_HOP_SECONDS: Mapping[Response, float] = {"calm": 1.0, "normal": 1.0, "fast": 0.5}
"""Seconds from one decision to the next with each response."""


class DecisionSettingsError(ValueError):
    """A decision setting that cannot be used; the message names setting, value and range."""


def _setting(default: float, low: float, high: float, metavar: str, help_text: str) -> Any:
    metadata = {"range": (low, high), "metavar": metavar, "help": help_text}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class DecisionSettings:
    """How evidence is gathered over time and when a genre is claimed.

    The only place that knows the defaults, ranges and help of these settings. The `metadata` of
    each field holds ``help`` (one phrase), ``metavar`` (placeholder of the value) and, but for
    `smoothing`, ``range``: the least and the greatest value, both allowed.

    Raises
    ------
    DecisionSettingsError
        If a value is of the wrong type or out of range.
    """

    smoothing: Smoothing = field(
        default="hmm",
        metadata={
            "metavar": "KIND",
            "help": "Bayesian filter, mean with adaptive memory, moving average, or each window "
            "for itself",
        },
    )
    silence_dbfs: float = _setting(-60.0, -120.0, 0.0, "DBFS", "level under which there is silence")
    silence_hysteresis_db: float = _setting(
        3.0, 0.0, 60.0, "DB", "rise above that level that ends silence"
    )
    dwell_seconds: float = _setting(
        20.0, 1.0, 86_400.0, "S", "mean time for which hmm expects a genre to go on"
    )
    evidence_weight: float = _setting(
        0.5, 0.01, 10.0, "FACTOR", "weight of each window's evidence in hmm"
    )
    """Under 1 because the windows of one song err together even beyond their overlap; with 1 the
    filter is more confident than it is accurate."""
    memory_seconds: float = _setting(
        10.0, 0.1, 3600.0, "S", "how long adaptive remembers what the sound does not contradict"
    )
    ema_seconds: float = _setting(5.0, 0.1, 3600.0, "S", "time constant of the moving average")
    min_confidence: float = _setting(
        0.45, 0.0, 1.0, "P", "probability from which a genre is claimed"
    )
    min_margin: float = _setting(
        0.15, 0.0, 1.0, "P", "least lead of the first genre over the second"
    )
    confidence_hysteresis: float = _setting(
        0.1, 0.0, 1.0, "P", "fall under min_confidence that a claim survives"
    )
    margin_hysteresis: float = _setting(
        0.1, 0.0, 1.0, "P", "fall under min_margin that a claim survives"
    )
    look_back_seconds: float = _setting(
        10.0, 0.0, 600.0, "S", "how far back the boundary of a segment may still move"
    )

    def __post_init__(self) -> None:
        """Check types and ranges."""
        if self.smoothing not in get_args(Smoothing):
            raise DecisionSettingsError(
                f"smoothing must be one of {', '.join(get_args(Smoothing))}, not {self.smoothing!r}"
            )
        for setting in fields(self):
            if "range" not in setting.metadata:
                continue
            low, high = setting.metadata["range"]
            value = getattr(self, setting.name)
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            # `not low <= value` also catches NaN.
            if not is_number or not low <= value <= high:
                raise DecisionSettingsError(
                    f"{setting.name} must be a number from {low:g} to {high:g}, not {value!r}"
                )

    @classmethod
    def from_mapping(
        cls,
        defaults: Mapping[str, Any],
        overrides: Mapping[str, Any] | None = None,
        response: Response = "normal",
    ) -> DecisionSettings:
        """Make settings from a model's `decision` defaults, a response and a user's overrides.

        Settings that are missing keep the default of the class; None as a value in `overrides`
        means not overridden. Raises `DecisionSettingsError` if a name is unknown or a value cannot
        be used.

        Examples
        --------
        >>> DecisionSettings.from_mapping({"dwell_seconds": 30.0}, {"smoothing": "ema"}).smoothing
        'ema'
        """
        given = {name: value for name, value in (overrides or {}).items() if value is not None}
        known = [setting.name for setting in fields(cls)]
        if unknown := sorted({*defaults, *given} - set(known)):
            raise DecisionSettingsError(
                f"unknown decision settings: {', '.join(unknown)} (known: {', '.join(known)})"
            )
        return replace(cls(**defaults)._with_response(response), **given)

    def _with_response(self, response: Response) -> DecisionSettings:
        """Return calmer or faster settings.

        Both are relative, so that they mean the same whatever the model's own settings are. The
        factors were found with ``genre-train stream-test --response`` for the embedded model:
        streamer/models/README.md has the figures.
        """
        match response:
            case "calm":
                return replace(self, min_confidence=round(1 - 0.53 * (1 - self.min_confidence), 2))
            case "fast":
                return replace(
                    self,
                    dwell_seconds=max(1.0, self.dwell_seconds / 2),
                    evidence_weight=min(10.0, 1.75 * self.evidence_weight),
                    min_confidence=round(0.76 * self.min_confidence, 2),
                )
            case "normal":
                return self
