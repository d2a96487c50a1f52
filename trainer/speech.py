"""Synthetic speech as background clips: recordings that may be redistributed have few voices."""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from streamer.system.files import write_file
from trainer.progress import progress_bar
from trainer.tracks import MIN_SECONDS, DatasetError

Random = np.random.Generator

CLIP_SECONDS = 5.0
"""Longest clip, in seconds; the rest of the speech is cut off."""

WORDS = 24
"""Words that are spoken for a clip."""

TEXTS: dict[str, str] = tomllib.loads(
    Path(__file__).with_name("speech_texts.toml").read_text(encoding="utf-8")
)
"""Words to shuffle, by ISO 639 language."""

ESPEAK_VARIANTS = ("m1", "m3", "m5", "m7", "f1", "f2", "f3", "f4")
FLITE_VOICES = ("awb", "kal16", "rms", "slt")
FESTIVAL_LANGUAGES = {
    "cmu_us_slt_arctic_hts": "en",
    "hy_fi_mv_diphone": "fi",
    "kal_diphone": "en",
    "lp_diphone": "it",
    "pc_diphone": "it",
    "suo_fi_lj_diphone": "fi",
    "upc_ca_ona_hts": "ca",
}
"""Languages of the Festival voices that Debian packages and that read Latin-1."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One voice of a synthesiser."""

    program: str
    """`espeak-ng`, `flite` or `festival`."""
    option: str
    """The voice's name for the program."""
    language: str
    """Key of `TEXTS`."""

    @property
    def name(self) -> str:
        """Name for files and messages."""
        return f"{self.program}-{self.option.replace('+', '-')}"

    def command(self, text: Path, wav: Path, random: Random) -> list[str]:
        """Return the command that speaks a text file into a WAV file, at a random speed."""
        if self.program == "espeak-ng":
            speed, pitch = random.integers(120, 210), random.integers(20, 80)
            options = ["-v", self.option, "-s", str(speed), "-p", str(pitch)]
            return ["espeak-ng", *options, "-w", str(wav), "-f", str(text)]
        stretch = f"{random.uniform(0.8, 1.3):.2f}"
        if self.program == "flite":
            options = ["-voice", self.option, "--setf", f"duration_stretch={stretch}"]
            return ["flite", *options, "-f", str(text), "-o", str(wav)]
        evaluated = (f"(voice_{self.option})", f"(Parameter.set 'Duration_Stretch {stretch})")
        options = [part for expression in evaluated for part in ("-eval", expression)]
        return ["text2wave", *options, "-o", str(wav), str(text)]


def installed_voices() -> list[Voice]:
    """Return the voices of eSpeak NG, Flite and Festival on this machine, in a fixed order."""
    voices: list[Voice] = []
    if shutil.which("espeak-ng"):
        voices += [
            Voice("espeak-ng", f"{language}+{variant}", language)
            for language in TEXTS
            for variant in ESPEAK_VARIANTS
        ]
    if shutil.which("flite"):
        voices += [Voice("flite", name, "en") for name in FLITE_VOICES]
    if shutil.which("festival") and shutil.which("text2wave"):
        listed = subprocess.run(
            ["festival", "-b", "(print (voice.list))"], capture_output=True, text=True, check=False
        )
        known = listed.stdout.strip("() \n").split()
        voices += [
            Voice("festival", name, FESTIVAL_LANGUAGES[name])
            for name in sorted(known)
            if name in FESTIVAL_LANGUAGES
        ]
    return voices


def speak(folder: Path, clips: int, voices: Sequence[Voice], *, seed: int = 0) -> list[Path]:
    """Write clips of speech, `FOLDER/<voice>.00000.wav` and on, and return their paths.

    The folder is created if missing, files of the same names are overwritten. All voices are used
    equally often. If one fails (DatasetError) or a clip cannot be written (OSError), the clips
    before it are complete.
    """
    if not voices:
        raise DatasetError(
            "no speech synthesiser found; install espeak-ng, flite or festival with voices"
        )
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(voices))
    written = []
    with progress_bar(transient=True) as progress:
        for number in progress.track(range(clips), description="speaking"):
            voice = voices[order[number % len(voices)]]
            path = folder / f"{voice.name}.{number:05}.wav"
            write_file(path, _speak(voice, np.random.default_rng([seed, number])))
            written.append(path)
    return written


def _speak(voice: Voice, random: Random) -> bytes:
    """Return a WAV file with shuffled words and occasional pauses."""
    words = random.choice(TEXTS[voice.language].split(), WORDS)
    sentence = " ".join(word + random.choice(["", "", "", ",", "."]) for word in words)
    with tempfile.TemporaryDirectory() as temporary:
        text, wav = Path(temporary, "text.txt"), Path(temporary, "speech.wav")
        encoding = "latin-1" if voice.program == "festival" else "utf-8"
        text.write_text(sentence + ".\n", encoding=encoding)
        done = subprocess.run(
            voice.command(text, wav, random), capture_output=True, text=True, check=False
        )
        if done.returncode or not wav.is_file():
            reason = (done.stderr.strip() or done.stdout.strip() or "no sound").splitlines()[-1]
            raise DatasetError(f"voice {voice.name} failed: {reason}")
        try:
            samples, rate = soundfile.read(wav, dtype="float32")
        except soundfile.LibsndfileError as error:
            reason = error.error_string.rstrip(".")
            raise DatasetError(f"voice {voice.name} failed: damaged audio ({reason})") from error
    start = int(random.uniform(0, 0.5) * rate)
    clip = samples[start : start + round(CLIP_SECONDS * rate)]
    if len(clip) < MIN_SECONDS * rate:
        raise DatasetError(f"voice {voice.name} spoke {len(clip) / rate:.1f} s, too little to use")
    # In memory, because libsndfile does not report that a disk is full or read-only.
    content = io.BytesIO()
    soundfile.write(content, clip, rate, format="WAV")
    return content.getvalue()
