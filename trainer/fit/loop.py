"""Fine-tuning: head first, then the whole network; a run is a folder that can be continued."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from streamer.core.spectrogram import SpectrogramSpec
from trainer.augment import Augmentation
from trainer.dataset import (
    NOT_MUSIC,
    Song,
    TrainingWindows,
    even_windows,
    labels_of,
    load_songs,
)
from trainer.discovery import check_genres, find_background, find_tracks
from trainer.interruption import Interruption
from trainer.network import (
    BACKBONE,
    DAMAGE,
    build_image_network,
    bytes_of,
    earlier_run,
    save_image_network,
    with_preprocessing,
)
from trainer.pictures import read_spec
from trainer.run import (
    leak_notes,
    learnt_tracks,
    provenance,
    read_facts,
)
from trainer.splits import SETS, Split, divide_background, split_tracks
from trainer.tracks import DatasetError, Track
from trainer.writing import replacing, write_json

VALID_WINDOWS = 2
"""Windows of each validation track that are looked at after an epoch."""

FIRST_SECONDS = 3.0
"""Audio after which a listener gets the first prediction: the model's `min_frames`."""

HISTORY_FIELDS = (
    "epoch",
    "phase",
    "loss",
    "accuracy",
    "valid_accuracy",
    "valid_nll",
    "valid_not_music",
    "learning_rate",
    "seconds",
    "step_seconds",
)


class RunError(Exception):
    """A run that cannot be started or continued; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class FitSettings:
    """One training, as `run.json` keeps it."""

    data: Path
    """Picture folder (contract 4.4)."""
    out: Path
    """Folder of the run."""
    weights: str = "imagenet"
    """`imagenet`, `none`, the path of InceptionV3 notop weights or the folder of an earlier run."""
    split: tuple[str, ...] = ()
    """As `split_tracks` takes it."""
    exclude_faults: bool = False
    """Leave GTZAN's known faulty tracks out of a stratified split."""
    background: Path | None = None
    """Picture folder of sounds that become the label `not_music`."""
    background_share: float = 0.1
    """Share of an epoch's windows that are such sounds, above 0 and under 1."""
    epochs: int = 40
    """Passes over the training tracks with the whole network; 0 keeps the best of the head's."""
    head_epochs: int = 1
    """Passes before them in which only the new layer learns."""
    batch: int = 16
    """Windows in a step."""
    seed: int = 0
    """Decides initial weights, order, windows and variations."""
    input_scale: float = 2.0
    """Factor on both axes of the spectrogram before InceptionV3."""
    window_seconds: float = 5.0
    """Length of a window, in seconds."""
    windows_per_song: int = 2
    """Windows of each track in an epoch."""
    learning_rate: float = 3e-4
    """Highest rate of the whole network, after the warm-up."""
    head_learning_rate: float = 1e-3
    """Rate of the new layer while the rest is frozen."""
    weight_decay: float = 0.05
    """AdamW's decoupled decay."""
    label_smoothing: float = 0.1
    """Share of the target spread over all labels."""
    dropout: float = 0.5
    """Share of features dropped in training."""
    averaging: float = 0.99
    """Momentum, per step, of the averaged weights that are validated and kept."""
    freeze_batch_norms: bool = False
    """Keep the statistics, scales and offsets of the batch norms as they came: steps cost less, and
    no window depends on the others of its batch."""
    patience: int = 0
    """Epochs of the whole network without a better validation after which it stops; 0 never stops
    early."""
    keep: str = "best"
    """Whose averaged weights are kept: of the epoch that is `best` by validation, or of the `last`,
    which no chance of a validation list chose."""
    precision: str = "float32"
    """Keras' dtype policy: `float32`, `mixed_float16` or `mixed_bfloat16`."""
    tensorboard: bool = False
    """Also write logs for TensorBoard."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How strongly windows are varied."""

    @property
    def unjudged_epochs(self) -> int:
        """Epochs at the begin whose networks are never kept: the head's, if others follow."""
        return self.head_epochs if self.epochs else 0

    def to_dict(self) -> dict[str, Any]:
        """Return JSON's types."""
        fields = dataclasses.asdict(self)
        for name in ("data", "out", "background"):
            fields[name] = None if fields[name] is None else str(fields[name])
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> FitSettings:
        """Read what `to_dict` returned."""
        background = fields["background"]
        return cls(
            **{
                **fields,
                "data": Path(fields["data"]),
                "out": Path(fields["out"]),
                "background": None if background is None else Path(background),
                "split": tuple(fields["split"]),
                "augmentation": Augmentation.from_dict(fields["augmentation"]),
            }
        )


@dataclass(frozen=True, slots=True)
class Validation:
    """How the averaged weights do on the validation tracks."""

    accuracy: float
    """Share of music tracks whose mean probabilities are highest at their genre."""
    nll: float
    """Mean negative log-likelihood of the tracks, in nats."""
    not_music: float | None
    """Share of background recordings called `not_music`; None without them."""

    def better_than(self, other: Validation | None, genres: int) -> bool:
        """Say whether this is the one to keep: answers first, then likelihood.

        What is not music counts as one more of the `genres`: a network that takes voices for hiphop
        is not the better one for half a per cent of the songs.
        """
        if other is None:
            return True
        return (self._right(genres), -self.nll) > (other._right(genres), -other.nll)

    def _right(self, genres: int) -> float:
        if self.not_music is None:
            return self.accuracy
        return (genres * self.accuracy + self.not_music) / (genres + 1)


@dataclass(slots=True)
class Progress:
    """Where a run stands, as its checkpoint keeps it."""

    epoch: int = 0
    """Epochs that are done."""
    best: Validation | None = None
    best_epoch: int = 0
    """The epoch whose network is kept, counted from 1; 0 while there is none."""
    seconds: float = 0.0
    """Time spent in training steps."""

    def gave_up(self, settings: FitSettings) -> bool:
        """Tell whether validation has not got better for as long as patience lasts."""
        waited = self.epoch - max(self.best_epoch, settings.unjudged_epochs)
        return 0 < settings.patience <= waited

    def finished(self, settings: FitSettings) -> bool:
        """Tell whether no epoch is left to train."""
        return self.epoch >= settings.head_epochs + settings.epochs or self.gave_up(settings)


def fit(settings: FitSettings, *, console: Console | None = None) -> Path:
    """Train, keep the best network by validation, and return the run folder.

    Parameters
    ----------
    settings : FitSettings
        What to train on, and how.
    console : rich.console.Console, optional
        Where progress goes; standard error by default.

    Returns
    -------
    Path
        The run: `run.json`, `history.csv`, `model.keras`, `checkpoints/`.

    Raises
    ------
    RunError
        If the folder already holds a run or cannot be written, or the loss is no finite number.
    DatasetError
        If the data cannot be used.
    NetworkError
        If the network cannot be made.
    KeyboardInterrupt
        If interrupted; `resume` goes on after the last finished epoch.
    """
    if settings.keep == "last" and settings.patience:
        raise RunError(
            f"--patience {settings.patience} stops after the best epoch and --keep last keeps the "
            "last: leave out one"
        )
    if settings.freeze_batch_norms and settings.weights == "none":
        raise RunError(
            "--freeze-batch-norms keeps statistics that --weights none does not have: leave out one"
        )
    if not 0 < settings.background_share < 1:
        raise RunError(
            f"--background-share {settings.background_share:g}: must be above 0 and under 1"
        )
    if (settings.out / "run.json").exists():
        raise RunError(
            f"--out {settings.out}: already holds a run; continue it with --resume or choose "
            "another folder"
        )
    make_run_folder(settings.out)
    return _Training(replace(settings, split=_resolved(settings.split)), console).run()


def resume(out: Path, *, console: Console | None = None) -> Path:
    """Continue an interrupted run with its own settings; see `fit`."""
    try:
        facts = read_facts(out)
        if "averaged" in facts:
            raise RunError(
                f"--resume {out}: an average has no epochs to continue; start a run from it with "
                f"--weights {out}"
            )
        settings = replace(FitSettings.from_dict(facts["settings"]), out=out)
    except (ValueError, KeyError, TypeError) as error:
        raise RunError(f"--resume {out}: no run to continue (no readable run.json)") from error
    return _Training(settings, console, facts).run()


def _resolved(split: Sequence[str]) -> tuple[str, ...]:
    """Return `--split` with files by their whole path: the run may be continued from elsewhere."""
    return tuple(str(Path(part).resolve()) if Path(part).is_file() else part for part in split)


def learnt_before(settings: FitSettings) -> set[str]:
    """Return the tracks that the network has learnt from before the run's first epoch.

    A run that is continued knows them itself; the run that it started from may be gone.
    """
    if (settings.out / "run.json").is_file():
        return set(read_facts(settings.out).get("learnt_before", ()))
    earlier = earlier_run(settings.weights)
    if earlier is None:
        return set()
    return learnt_tracks(read_facts(earlier))


def make_run_folder(out: Path) -> None:
    """Make a run's folder and make sure that it can be written.

    Raises
    ------
    RunError
        If it cannot.
    """
    try:
        (out / "checkpoints").mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise RunError(
            f"--out {out}: cannot be written ({error.strerror}); choose another folder"
        ) from error


class _Training:
    """One run from its settings to its best network."""

    def __init__(
        self,
        settings: FitSettings,
        console: Console | None,
        earlier: Mapping[str, Any] | None = None,
    ) -> None:
        self.settings = settings
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        keras.utils.set_random_seed(settings.seed)
        keras.config.set_dtype_policy(settings.precision)
        self.spec = read_spec(settings.data)
        self.frames = self.spec.frames_in(settings.window_seconds)
        self.learnt_before = learnt_before(settings)
        if settings.background:
            self._check_background_grid(settings.background)
        self.background: tuple[list[Song], list[Song]] = ([], [])
        if earlier is None:
            self._divide()
        else:
            self._divide_as(earlier)
        self.train_songs = load_songs(self.split.train, self.labels)
        self.valid_songs = load_songs(self.split.valid, self.labels)
        self.windows = TrainingWindows(
            self.train_songs,
            self.background[0],
            self.labels.index(NOT_MUSIC) if settings.background else None,
            len(self.labels),
            spec=self.spec,
            frames=self.frames,
            batch=settings.batch,
            windows_per_song=settings.windows_per_song,
            background_share=settings.background_share,
            augmentation=settings.augmentation,
            seed=settings.seed,
        )
        self.schedule = self._schedule()
        # What a checkpoint restores need not be read from where it first came from.
        weights = "none" if self._state_path().exists() else settings.weights
        self.image_network = build_image_network(
            self.labels, weights=weights, dropout=settings.dropout
        )
        self.network = with_preprocessing(
            self.image_network, self.spec, self.frames, settings.input_scale
        )
        self.average = keras.callbacks.SwapEMAWeights()
        self.average.set_model(self.network)
        self.progress = Progress()
        self.interruption = Interruption()
        self.compiled = ""

    def _divide(self) -> None:
        """Decide which tracks and sounds are learnt from and which are held back."""
        settings = self.settings
        tracks, skipped = find_tracks(settings.data)
        check_genres(tracks, skipped)
        self.split = split_tracks(
            tracks,
            settings.split,
            seed=settings.seed,
            exclude_faults=settings.exclude_faults,
        )
        if not self.split.train or not self.split.valid:
            raise DatasetError(
                f"{settings.data}: the split {self.split.name} leaves "
                f"{len(self.split.train)} tracks to train on and {len(self.split.valid)} to "
                "validate on; both need some"
            )
        learnt = {track.genre for track in self.split.train}
        if unlearnt := sorted({track.genre for track in tracks} - learnt):
            raise DatasetError(
                f"{settings.data}: the split {self.split.name} leaves no track of "
                f"{', '.join(unlearnt)} to train on; give another --split, or keep only the "
                "folders of genres to be learnt"
            )
        self._say_what_leaks()
        self.labels = labels_of(tracks, settings.background is not None)
        if settings.background:
            clips, _ = find_background(settings.background)
            self._load_background(*divide_background(clips))

    def _divide_as(self, earlier: Mapping[str, Any]) -> None:
        """Go on with the tracks and sounds that a run began with, whatever came to its folders."""
        settings, split, sounds = self.settings, earlier["split"], earlier["background"]
        tracks, _ = find_tracks(settings.data)
        train, valid, test = (_named(tracks, split[name], settings.data) for name in SETS)
        self.split = Split(
            train,
            valid,
            test,
            name=split["name"],
            protocol=split["protocol"],
            missing=list(split["missing"]),
            notes=list(split["notes"]),
        )
        self.labels = list(earlier["labels"])
        if settings.background:
            clips, _ = find_background(settings.background)
            self._load_background(
                *(_named(clips, sounds[name], settings.background) for name in ("train", "valid"))
            )

    def _load_background(self, heard: Sequence[Track], unheard: Sequence[Track]) -> None:
        """Read the sounds to train on and those that are held back."""
        train, valid = (
            load_songs([replace(clip, genre=NOT_MUSIC) for clip in clips], self.labels)
            for clips in (heard, unheard)
        )
        self.background = train, valid

    def _say_what_leaks(self) -> None:
        """Note which tracks to judge on the network knows from the run that it starts from."""
        held_back = [track.name for track in [*self.split.valid, *self.split.test]]
        where = f"{self.settings.weights}, where this run starts"
        self.split.notes.extend(leak_notes(held_back, self.learnt_before, where))

    def _check_background_grid(self, folder: Path) -> None:
        if read_spec(folder) != self.spec:
            raise DatasetError(
                f"--background {folder}: its pictures have another grid than {self.settings.data}; "
                "prepare both with the same --hop-ms, --n-fft and --mels"
            )

    def run(self) -> Path:
        """Train from wherever the run stands to its end."""
        with self.interruption:
            return self._run()

    def _run(self) -> Path:
        settings = self.settings
        self.console.print(self._opening())
        self._restore()
        self._write_facts()
        board = self._tensorboard()
        while not self.progress.finished(settings):
            epoch = self.progress.epoch
            if self._phase(epoch) != self.compiled:
                self._compile(epoch)
            row = self._train_epoch(epoch)
            validation = self._validate(epoch)
            row |= {
                "epoch": epoch + 1,
                "phase": self.compiled,
                "valid_accuracy": validation.accuracy,
                "valid_nll": validation.nll,
                "valid_not_music": validation.not_music,
            }
            self._append_history(row)
            self._checkpoint(epoch)
            self._say(row)
            self.interruption.check()
            if board is not None:
                for name, value in row.items():
                    if isinstance(value, float):
                        board.add_scalar(name, value, step=epoch + 1)
                board.flush()
        if self.progress.gave_up(settings):
            self.console.print(f"no better validation for {settings.patience} epochs: stopping")
        if board is not None:
            board.close()
        self._write_facts()
        return settings.out

    def _opening(self) -> str:
        split = self.split
        missing = f", {len(split.missing)} listed tracks not found" if split.missing else ""
        background = (
            f"; {sum(map(len, self.background))} sounds that are not music"
            if self.settings.background
            else ""
        )
        return (
            f"{len(split.train)} tracks to train on, {len(split.valid)} to validate on, "
            f"{len(split.test)} to test on{missing} ({split.name}){background}\n"
            f"{len(self.labels)} labels, windows of {self.spec.n_mels} x {self.frames} "
            f"({self.frames * self.spec.hop_seconds:.1f} s), scale {self.settings.input_scale:g}, "
            f"{self.windows.steps} steps of {self.settings.batch} an epoch, "
            f"Keras {keras.__version__} on {keras.backend.backend()}"
        )

    def _phase(self, epoch: int) -> str:
        return "head" if epoch < self.settings.head_epochs else "whole"

    def _compile(self, epoch: int) -> None:
        """Start the optimiser of the phase that `epoch` is in."""
        settings = self.settings
        self.compiled = self._phase(epoch)
        backbone = self.image_network.get_layer(BACKBONE)
        backbone.trainable = self.compiled == "whole"
        if settings.freeze_batch_norms:
            for layer in backbone.layers:
                if isinstance(layer, keras.layers.BatchNormalization):
                    layer.trainable = False
        optimizer = keras.optimizers.AdamW(
            # Set before every step. TensorFlow would trace a schedule once for every variable.
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            clipnorm=1.0,
            use_ema=True,
            ema_momentum=settings.averaging,
            ema_overwrite_frequency=None,
        )
        self.network.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=settings.label_smoothing
            ),
            weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        )
        # Variables made inside the first step would have TensorFlow trace it twice.
        optimizer.build(self.network.trainable_variables)
        blank = np.zeros((1, len(self.labels)), np.float32)
        self.network.compute_metrics(None, blank, blank, np.ones(1, np.float32))
        self.network.reset_metrics()

    def _learning_rate(self, epoch: int, step: int) -> float:
        """Return the rate of a step, counted from 0 in its epoch: warm-up, then a cosine to 1 %."""
        settings = self.settings
        if self._phase(epoch) == "head":
            return settings.head_learning_rate
        done = self.windows.steps * (epoch - settings.head_epochs) + step
        return float(self.schedule(done))

    def _schedule(self) -> keras.optimizers.schedules.LearningRateSchedule:
        highest, steps = self.settings.learning_rate, self.windows.steps * self.settings.epochs
        warm_up = min(steps // 10, 2 * self.windows.steps)
        return keras.optimizers.schedules.CosineDecay(
            0.01 * highest,
            max(1, steps - warm_up),
            alpha=0.01,
            warmup_target=highest,
            warmup_steps=warm_up,
        )

    def _train_epoch(self, epoch: int) -> dict[str, Any]:
        self._seed_dropout(epoch)
        started = time.perf_counter()
        in_step = 0.0
        steps: list[dict[str, float]] = []
        for number, batch in enumerate(self.windows.epoch(epoch), start=1):
            before = time.perf_counter()
            self.network.optimizer.learning_rate = self._learning_rate(epoch, number - 1)
            logs = self.network.train_on_batch(
                batch.windows, batch.targets, sample_weight=batch.weights, return_dict=True
            )
            in_step += time.perf_counter() - before
            # Keras resets its metrics with every call: these are the step's own.
            steps.append({name: float(value) for name, value in logs.items()})
            self._check_finite("loss", steps[-1]["loss"], epoch)
            self._show_step(epoch, number, steps[-1]["loss"])
            self.interruption.check()
        seconds = time.perf_counter() - started
        self.progress.seconds += seconds
        return {
            "loss": float(np.mean([step["loss"] for step in steps])),
            "accuracy": float(np.mean([step["accuracy"] for step in steps])),
            "learning_rate": float(
                keras.ops.convert_to_numpy(self.network.optimizer.learning_rate)
            ),
            "seconds": seconds,
            "step_seconds": in_step,
        }

    def _check_finite(self, what: str, value: float, epoch: int) -> None:
        """Stop before weights that are lost replace those that are kept."""
        if math.isfinite(value):
            return
        option = "--head-learning-rate" if self._phase(epoch) == "head" else "--learning-rate"
        rate = getattr(self.settings, option[2:].replace("-", "_"))
        raise RunError(
            f"the {what} of epoch {epoch + 1} is {value}: the training diverged; start a new run "
            f"with less than {option} {rate:g}"
        )

    def _seed_dropout(self, epoch: int) -> None:
        """Draw an epoch's masks from seed and epoch alone: an interruption changes nothing."""
        if self.settings.dropout:
            state = self.image_network.get_layer("dropout").seed_generator.state
            state.assign(np.array([self.settings.seed, epoch], state.dtype))

    def _validate(self, epoch: int) -> Validation:
        """Judge the averaged weights, and keep them if they are to be kept so far."""
        self.average.on_test_begin()
        validation = self._judge()
        self._check_finite("validation loss", validation.nll, epoch)
        genres = len({song.label for song in self.train_songs})
        better = self.settings.keep == "last" or validation.better_than(self.progress.best, genres)
        if better and epoch >= self.settings.unjudged_epochs:
            self.progress.best, self.progress.best_epoch = validation, epoch + 1
            self._save_network()
        self.average.on_test_end()
        return validation

    def _judge(self) -> Validation:
        probabilities = self._track_probabilities(self.valid_songs)
        truth = np.array([song.label for song in self.valid_songs])
        likelihood = probabilities[np.arange(len(truth)), truth]
        not_music = None
        if self.background[1]:
            other = self._track_probabilities(self.background[1]).argmax(axis=1)
            not_music = float(np.mean(other == self.labels.index(NOT_MUSIC)))
        return Validation(
            accuracy=float(np.mean(probabilities.argmax(axis=1) == truth)),
            nll=float(-np.mean(np.log(np.maximum(likelihood, 1e-12)))),
            not_music=not_music,
        )

    def _track_probabilities(self, songs: Sequence[Song]) -> NDArray[np.float64]:
        """Return the mean probabilities of each song's windows, shape (songs, labels)."""
        cut = [even_windows(song, self.spec, self.frames, VALID_WINDOWS) for song in songs]
        owner = np.repeat(np.arange(len(songs)), [len(windows) for windows in cut])
        logits = self.network.predict(
            np.concatenate(cut), batch_size=self.settings.batch, verbose=0
        ).astype(np.float64)
        probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
        probabilities /= probabilities.sum(axis=1, keepdims=True)
        sums = np.zeros((len(songs), len(self.labels)))
        np.add.at(sums, owner, probabilities)
        return sums / np.bincount(owner)[:, None]

    def _save_network(self) -> None:
        image_network = self.image_network
        if self.settings.precision != "float32":
            # The file is for listeners: plain float32, whatever it was trained in.
            keras.config.set_dtype_policy("float32")
            image_network = build_image_network(
                self.labels, weights="none", dropout=self.settings.dropout
            )
            image_network.set_weights(self.image_network.get_weights())
            keras.config.set_dtype_policy(self.settings.precision)
        save_image_network(image_network, self.settings.out)

    def _checkpoint(self, epoch: int) -> None:
        """Keep everything that the next epoch starts from; the state file makes it valid."""
        self.progress.epoch = epoch + 1
        folder = self.settings.out / "checkpoints"
        weights = folder / f"epoch-{epoch + 1:04d}.weights.h5"
        kept = [*self.network.variables, *self.network.optimizer.variables]
        with replacing(weights, bytes_of(kept)) as partial:
            self.network.save_weights(partial, overwrite=True)
        write_json(self._state_path(), dataclasses.asdict(self.progress))
        for old in folder.glob("*.weights.h5"):
            if old != weights:
                old.unlink()

    def _state_path(self) -> Path:
        return self.settings.out / "checkpoints" / "state.json"

    def _restore(self) -> None:
        folder = self.settings.out / "checkpoints"
        state = self._state_path()
        if not state.exists():
            self._forget_later_rows(0)
            return
        damaged = "damaged: restore it from a copy, or start a new run"
        try:
            fields = json.loads(state.read_text())
            best = fields.pop("best")
            self.progress = Progress(**fields, best=None if best is None else Validation(**best))
            last = self.progress.epoch - 1
            weights = folder / f"epoch-{last + 1:04d}.weights.h5"
        except DAMAGE as error:
            raise RunError(f"{state}: {damaged}") from error
        self._compile(last)
        try:
            self.network.load_weights(weights)
        except DAMAGE as error:
            raise RunError(f"{weights}: {damaged}") from error
        self._forget_later_rows(last + 1)
        self.console.print(f"continuing after epoch {last + 1}")

    def _forget_later_rows(self, epoch: int) -> None:
        """Drop the rows of epochs whose checkpoint was never written: they are trained again."""
        path = self.settings.out / "history.csv"
        if not path.exists():
            return
        with path.open(newline="") as file:
            rows = [row for row in csv.DictReader(file) if int(row["epoch"]) <= epoch]
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, HISTORY_FIELDS)
            writer.writeheader()
            writer.writerows(rows)

    def _append_history(self, row: dict[str, Any]) -> None:
        path = self.settings.out / "history.csv"
        new = not path.exists()
        with path.open("a", newline="") as file:
            writer = csv.DictWriter(file, HISTORY_FIELDS)
            if new:
                writer.writeheader()
            writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})

    def _tensorboard(self) -> Any:
        """Return a writer of TensorBoard's own, since Keras' needs TensorFlow on any backend."""
        if not self.settings.tensorboard:
            return None
        from tensorboard.summary import Writer

        return Writer(str(self.settings.out / "tensorboard"))

    def _show_step(self, epoch: int, step: int, loss: float) -> None:
        if self.console.is_terminal:
            total = self.settings.head_epochs + self.settings.epochs
            self.console.print(
                f"epoch {epoch + 1}/{total}  step {step}/{self.windows.steps}  loss {loss:.3f}   ",
                end="\r",
            )

    def _say(self, row: dict[str, Any]) -> None:
        total = self.settings.head_epochs + self.settings.epochs
        left = (total - row["epoch"]) * row["seconds"]
        mark = "  best" if row["epoch"] == self.progress.best_epoch else ""
        other = row["valid_not_music"]
        self.console.print(
            f"epoch {row['epoch']}/{total}  loss {row['loss']:.3f}  "
            f"accuracy {row['accuracy']:.1%}  valid {row['valid_accuracy']:.1%}"
            + (f"  not music {other:.1%}" if other is not None else "")
            + f"  nll {row['valid_nll']:.3f}  {left / 60:.0f} min left{mark}"
        )

    def _write_facts(self) -> None:
        settings = self.settings
        best = self.progress.best
        path = settings.out / "run.json"
        facts = json.loads(path.read_text()) if path.exists() else {}
        made = provenance()
        facts |= {
            **made,
            "command": facts.get("command", made["command"]),
            "seed": settings.seed,
            "labels": self.labels,
            "not_music": NOT_MUSIC if settings.background else None,
            "spec": self.spec.to_dict(),
            "window_frames": self.frames,
            "min_frames": min(self.frames, _first_frames(self.spec, settings.input_scale)),
            "input_scale": settings.input_scale,
            "split": _split_facts(self.split),
            "background": {
                "train": [song.name for song in self.background[0]],
                "valid": [song.name for song in self.background[1]],
            },
            "learnt_before": sorted(self.learnt_before),
            "settings": settings.to_dict(),
            "finished": self.progress.finished(settings),
            "train_seconds": self.progress.seconds,
        }
        facts.setdefault("temperature", 1.0)
        facts.setdefault("decision", {})
        if best is not None:
            facts["metrics"] = {
                **facts.get("metrics", {}),
                "fit": {**dataclasses.asdict(best), "epoch": self.progress.best_epoch},
            }
        write_json(path, facts)


def _first_frames(spec: SpectrogramSpec, input_scale: float) -> int:
    """Return the columns of about 3 s, and no fewer than InceptionV3's 75 pixels need."""
    return max(spec.frames_in(FIRST_SECONDS), math.ceil(75 / input_scale))


def _named(tracks: Sequence[Track], names: Sequence[str], folder: Path) -> list[Track]:
    """Return the tracks that a run began with.

    Raises
    ------
    RunError
        If some are gone.
    """
    by_name = {track.name: track for track in tracks}
    if gone := [name for name in names if name not in by_name]:
        more = ", ..." if len(gone) > 3 else ""
        raise RunError(
            f"{len(gone)} of the tracks that this run began with are not in {folder} any more "
            f"({', '.join(gone[:3])}{more}): put them back or start a new run"
        )
    return [by_name[name] for name in names]


def _split_facts(split: Split) -> dict[str, Any]:
    return {
        "name": split.name,
        "protocol": split.protocol,
        "notes": split.notes,
        "missing": split.missing,
        **{name: [track.name for track in tracks] for name, tracks in split.sets().items()},
    }
