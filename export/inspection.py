"""Readable description of a model file's contract."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from streamer.core.contract import ModelContract


def describe(path: Path, contract: ModelContract) -> str:
    """Return a description of the contract of the file at `path`, one topic a line."""
    spec, training = contract.spectrogram, contract.training
    hop = spec.hop_seconds
    topics = {
        "Model": f"{contract.name} {contract.version} (contract {contract.contract_version})",
        "File": f"{path}, {path.stat().st_size / 1e6:.1f} MB, weights as {contract.precision}",
        "Labels": ", ".join(contract.labels),
        "Not music": contract.not_music or "no such label",
        "Audio": f"mono, {spec.sample_rate} Hz",
        "Spectrogram": (
            f"{spec.n_mels} mel bands from {spec.fmin:g} to {spec.fmax:g} Hz, "
            f"{spec.n_fft} samples a frame, a column every {spec.hop_length} samples "
            f"({1000 * hop:.1f} ms), {spec.top_db:g} dB below the loudest cell"
        ),
        "Window": (
            f"{contract.window_frames} columns ({contract.window_seconds:.2f} s), "
            f"at least {contract.min_frames} ({contract.min_frames * hop:.2f} s)"
        ),
        **_second_network(contract),
        "Temperature": f"{contract.temperature:g}",
        "Decision": _pairs(contract.decision) or "the program's defaults",
        "Trained on": f"{training['dataset']}, split {training['split']}, seed {training['seed']}",
        "Metrics": _pairs(training["metrics"]) or "none noted",
        "Golden": (
            f"answered as when it was exported ({contract.golden.frames} columns, SHA-256 "
            f"{contract.golden.spectrogram_sha256[:12]}...)"
        ),
    }
    shown = ("dataset", "split", "seed", "metrics")
    if more := {name: value for name, value in training.items() if name not in shown}:
        topics["Training"] = _pairs(more)
    return "\n".join(f"{topic:<12} {text}" for topic, text in topics.items())


def _second_network(contract: ModelContract) -> dict[str, str]:
    audio, fusion = contract.audio, contract.fusion
    if not (audio and fusion):
        return {}
    return {
        "Tagger": (
            f"{fusion.tagger}: {len(fusion.tags)} tags of the last {audio.seconds:g} s of audio "
            f"(at least {audio.min_seconds:g} s), mono, {audio.sample_rate} Hz"
        ),
        "Fusion": (
            f"{fusion.spectrogram_weight:g} of the logits of the spectrogram, "
            f"{fusion.audio_weight:g} of those of the tags"
        ),
    }


def _pairs(values: Any, prefix: str = "") -> str:
    """Return the entries of nested mappings as `outer.inner value`, separated by commas."""
    parts = [
        _pairs(value, f"{prefix}{name}.")
        if isinstance(value, Mapping)
        else f"{prefix}{name} {_text(value)}"
        for name, value in values.items()
    ]
    return ", ".join(filter(None, parts))


def _text(value: object) -> str:
    if isinstance(value, list):
        return f"[{', '.join(_text(part) for part in value)}]"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
