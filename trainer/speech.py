"""Speech from the synthesisers that are installed: more of what is not music.

Few voices are free to give away, and a microphone hears many. Synthetic ones are no people, but
they bring other pitches, tempi and languages than a handful of speakers can.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

from trainer.progress import progress_bar
from trainer.tracks import MIN_SECONDS, DatasetError
from trainer.writing import write_file

Random = np.random.Generator

CLIP_SECONDS = 5.0
WORDS = 24
"""Words in a clip; what is spoken beyond its length is cut off."""

TEXTS = {
    "ca": "Tots els éssers humans neixen lliures i iguals en dignitat i en drets Són dotats de raó "
    "i de consciència i han de comportar-se fraternalment els uns amb els altres",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren Sie sind mit Vernunft "
    "und Gewissen begabt und sollen einander im Geist der Brüderlichkeit begegnen",
    "en": "All human beings are born free and equal in dignity and rights They are endowed with "
    "reason and conscience and should act towards one another in a spirit of brotherhood",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos y dotados como "
    "están de razón y conciencia deben comportarse fraternalmente los unos con los otros",
    "fi": "Kaikki ihmiset syntyvät vapaina ja tasavertaisina arvoltaan ja oikeuksiltaan Heille on "
    "annettu järki ja omatunto ja heidän on toimittava toisiaan kohtaan veljeyden hengessä",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits Ils sont doués "
    "de raison et de conscience et doivent agir les uns envers les autres dans un esprit de "
    "fraternité",
    "it": "Tutti gli esseri umani nascono liberi ed eguali in dignità e diritti Essi sono dotati "
    "di ragione e di coscienza e devono agire gli uni verso gli altri in spirito di fratellanza",
    "nl": "Alle mensen worden vrij en gelijk in waardigheid en rechten geboren Zij zijn begiftigd "
    "met verstand en geweten en behoren zich jegens elkander in een geest van broederschap te "
    "gedragen",
    "pl": "Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw Są oni "
    "obdarzeni rozumem i sumieniem i powinni postępować wobec innych w duchu braterstwa",
    "pt": "Todos os seres humanos nascem livres e iguais em dignidade e em direitos Dotados de "
    "razão e de consciência devem agir uns para com os outros em espírito de fraternidade",
    "sv": "Alla människor är födda fria och lika i värde och rättigheter De är utrustade med "
    "förnuft och samvete och bör handla gentemot varandra i en anda av broderskap",
}
"""By ISO 639 language, words to shuffle: article 1 of the Universal Declaration of Human Rights."""

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
"""Language of every voice of Festival that Debian packages and that reads Latin-1."""


@dataclass(frozen=True, slots=True)
class Voice:
    """One speaker."""

    name: str
    language: str
    """Key of `TEXTS`."""
    command: Callable[[Path, Path, Random], list[str]]
    """Command that speaks a text file into a WAV file."""
    encoding: str = "utf-8"
    """What the synthesiser reads."""


def installed_voices() -> list[Voice]:
    """Return the voices of eSpeak NG, Flite and Festival here, always in the same order."""
    voices: list[Voice] = []
    if shutil.which("espeak-ng"):
        voices += [_espeak(language, variant) for language in TEXTS for variant in ESPEAK_VARIANTS]
    if shutil.which("flite"):
        voices += [_flite(name) for name in FLITE_VOICES]
    if shutil.which("festival") and shutil.which("text2wave"):
        listed = subprocess.run(
            ["festival", "-b", "(print (voice.list))"], capture_output=True, text=True, check=False
        )
        known = listed.stdout.strip("() \n").split()
        voices += [_festival(name) for name in sorted(known) if name in FESTIVAL_LANGUAGES]
    return voices


def _espeak(language: str, variant: str) -> Voice:
    def command(text: Path, wav: Path, random: Random) -> list[str]:
        speed, pitch = random.integers(120, 210), random.integers(20, 80)
        how = ["-v", f"{language}+{variant}", "-s", str(speed), "-p", str(pitch)]
        return ["espeak-ng", *how, "-w", str(wav), "-f", str(text)]

    return Voice(f"espeak-ng-{language}-{variant}", language, command)


def _flite(name: str) -> Voice:
    def command(text: Path, wav: Path, random: Random) -> list[str]:
        stretch = f"duration_stretch={random.uniform(0.8, 1.3):.2f}"
        return ["flite", "-voice", name, "--setf", stretch, "-f", str(text), "-o", str(wav)]

    return Voice(f"flite-{name}", "en", command)


def _festival(name: str) -> Voice:
    def command(text: Path, wav: Path, random: Random) -> list[str]:
        stretch = f"(Parameter.set 'Duration_Stretch {random.uniform(0.8, 1.3):.2f})"
        chosen = ["-eval", f"(voice_{name})", "-eval", stretch]
        return ["text2wave", *chosen, "-o", str(wav), str(text)]

    return Voice(f"festival-{name}", FESTIVAL_LANGUAGES[name], command, "latin-1")


def speak(
    folder: Path,
    clips: int,
    voices: Sequence[Voice],
    *,
    seed: int = 0,
    quiet: bool = False,
) -> list[Path]:
    """Write clips of speech of up to 5 s, `FOLDER/<voice>.00000.wav` and on.

    Parameters
    ----------
    folder : Path
        Made if need be; what stands in it under the same name is written again.
    clips : int
        How many; the voices take turns.
    voices : sequence of Voice
        Who speaks, from `installed_voices`.
    seed : int
        Decides words, speeds and pitches.
    quiet : bool
        Show no progress bar.

    Returns
    -------
    list of Path
        The files.

    Raises
    ------
    DatasetError
        If there are no voices, or one of them fails.
    OSError
        If a clip cannot be written; those before it are whole.
    """
    if not voices:
        raise DatasetError(
            "no speech synthesiser found; install espeak-ng, flite or festival with voices"
        )
    folder.mkdir(parents=True, exist_ok=True)
    order = np.random.default_rng(seed).permutation(len(voices))
    written = []
    with progress_bar(quiet, transient=True) as progress:
        for number in progress.track(range(clips), description="speaking"):
            voice = voices[order[number % len(voices)]]
            random = np.random.default_rng([seed, number])
            path = folder / f"{voice.name}.{number:05}.wav"
            _speak(voice, path, random)
            written.append(path)
    return written


def _speak(voice: Voice, path: Path, random: Random) -> None:
    """Write one clip: shuffled words, with a pause here and there."""
    words = random.choice(TEXTS[voice.language].split(), WORDS)
    spoken = " ".join(word + random.choice(["", "", "", ",", "."]) for word in words)
    with tempfile.TemporaryDirectory() as temporary:
        text, wav = Path(temporary, "text.txt"), Path(temporary, "speech.wav")
        text.write_text(spoken + ".\n", encoding=voice.encoding)
        done = subprocess.run(
            voice.command(text, wav, random), capture_output=True, text=True, check=False
        )
        if done.returncode or not wav.is_file():
            why = (done.stderr.strip() or done.stdout.strip() or "no sound").splitlines()[-1]
            raise DatasetError(f"voice {voice.name} failed: {why}")
        try:
            samples, rate = soundfile.read(wav, dtype="float32")
        except soundfile.LibsndfileError as error:
            why = error.error_string.rstrip(".")
            raise DatasetError(f"voice {voice.name} failed: damaged audio ({why})") from error
    start = int(random.uniform(0, 0.5) * rate)
    clip = samples[start : start + round(CLIP_SECONDS * rate)]
    if len(clip) < MIN_SECONDS * rate:
        raise DatasetError(f"voice {voice.name} spoke {len(clip) / rate:.1f} s, too little to use")
    # Through memory: libsndfile does not say that a disk is full or may not be written.
    content = io.BytesIO()
    soundfile.write(content, clip, rate, format="WAV")
    write_file(path, content.getvalue())
