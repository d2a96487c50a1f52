"""genre-train prepare, tags and speak: what is made of recordings before a training."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from streamer.core.spectrogram import SpectrogramSpec
from streamer.system.commandline import UserError, print_line
from trainer.commands import options
from trainer.commands.output import data_folder, print_skipped
from trainer.splits import sounds_to_learn_from
from trainer.tags import COPIES
from trainer.tracks import Track


def _add_prepare_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="audio, one folder a genre")
    parser.add_argument("--out", type=Path, help="picture folder (default: in the user's cache)")
    parser.add_argument(
        "--sounds",
        action="store_true",
        help="the data are sounds that are not music, in folders nested in any way",
    )
    _add_sounds_under_copies(parser)
    options.add_tagger(
        parser, "the network whose tags are written beside the pictures (musicnn), or none"
    )
    options.add_grid(parser)
    parser.add_argument(
        "--address",
        help="a Ray cluster that makes the pictures (extra fleet): HOST:PORT, or auto for that of "
        "this machine; its machines need audio, sounds and pictures at the same paths",
    )


def _add_sounds_under_copies(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--background",
        type=Path,
        metavar="DIR",
        help="recordings of sounds that are not music, with which some of the degraded copies of "
        "music are heard",
    )


def _run_prepare(given: argparse.Namespace) -> int:
    spec_of(given)  # refuses a wrong one before a large folder is searched
    if given.sounds and given.background:
        raise UserError("--background is for music: leave it out with --sounds")
    data = given.data if given.sounds else data_folder(given.data)
    sounds = sounds_to_learn_from(given.background) if given.background else []
    prepare_folder(data, given.out, given, background=given.sounds, sounds=sounds)
    return 0


def prepare_folder(
    data: Path,
    out: Path | None,
    given: argparse.Namespace,
    *,
    background: bool,
    sounds: Sequence[Track] = (),
) -> Path:
    """Make the pictures of a folder of audio, in the cache without `out`; return their folder."""
    from trainer.prepare import cache_folder, prepare

    spec = spec_of(given)
    out = out or cache_folder(data, spec)
    prepared = prepare(
        data,
        out,
        spec,
        background=background,
        tags=given.tagger != "none",
        sounds=sounds,
        workers=given.workers,
        address=getattr(given, "address", None),
    )
    print_skipped(prepared.skipped)
    print_line(
        f"{prepared.made} pictures made, {prepared.kept} kept, {prepared.removed} removed, "
        f"tags of {prepared.tagged} tracks made, "
        f"{len(prepared.skipped)} files skipped: {prepared.folder}"
    )
    return prepared.folder


def spec_of(given: argparse.Namespace) -> SpectrogramSpec:
    """Return the grid that the options ask for; raise SpecError if it is not possible."""
    spec = SpectrogramSpec()
    hop_length = given.hop_ms and round(given.hop_ms * spec.sample_rate / 1000)
    changes = {"hop_length": hop_length, "n_fft": given.n_fft, "n_mels": given.mels}
    return dataclasses.replace(
        spec, **{name: value for name, value in changes.items() if value is not None}
    )


def _add_tags_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, required=True, help="pictures, one folder a genre")
    parser.add_argument(
        "--audio",
        type=Path,
        nargs="+",
        default=[],
        metavar="DIR",
        help="audio of some or all of the tracks, one folder a genre; recordings that are shorter "
        "than their pictures only teach what rooms and noise do to the tags",
    )
    parser.add_argument(
        "--published",
        type=Path,
        metavar="FILE.npz",
        help="tags of tracks without audio: an array (pieces, tags) by name of the track",
    )
    parser.add_argument(
        "--copies",
        type=options.number(int, 0, 1000),
        default=COPIES,
        metavar="N",
        help=f"degraded copies of each recording ({COPIES})",
    )
    _add_sounds_under_copies(parser)
    parser.add_argument("--out", type=Path, help="folder of the copy (default: DATA itself)")


def _run_tags(given: argparse.Namespace) -> int:
    from trainer.tag_pictures import TagSources, tag_pictures

    if not given.audio and not given.published:
        raise UserError("nothing to take tags from: give --audio or --published")
    sounds = sounds_to_learn_from(given.background) if given.background else []
    sources = TagSources(given.audio, given.published, given.copies, sounds)
    tagged = tag_pictures(given.data, given.out or given.data, sources)
    print_skipped(tagged.skipped)
    print_line(
        f"tags of {tagged.from_audio} tracks made of audio, {tagged.published} published, "
        f"{tagged.degraded} tracks with degraded copies, {tagged.without} tracks without tags: "
        f"{tagged.folder}"
    )
    return 0


def _add_speak_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, required=True, help="folder of the clips")
    parser.add_argument(
        "--clips", type=options.number(int, 1), default=200, metavar="N", help="how many (200)"
    )
    options.add_seed(parser, "of words, speeds and pitches")


def _run_speak(given: argparse.Namespace) -> int:
    from trainer.speech import installed_voices, speak

    voices = installed_voices()
    clips = speak(given.out, given.clips, voices, seed=given.seed)
    print_line(f"{len(clips)} clips of {min(len(voices), len(clips))} voices: {given.out}")
    return 0


COMMANDS: dict[str, options.Command] = {
    "prepare": (_run_prepare, _add_prepare_options, "make spectrogram pictures of audio"),
    "tags": (_run_tags, _add_tags_options, "write tags beside the pictures of a folder"),
    "speak": (
        _run_speak,
        _add_speak_options,
        "make clips of speech with the synthesisers that are installed",
    ),
}
