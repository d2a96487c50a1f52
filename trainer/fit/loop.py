"""The training loop: first the new layer alone, then the whole network."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from trainer.dataset import NOT_MUSIC, TrainingWindows
from trainer.fit.checkpoints import Checkpoints, EpochResult, History, Progress
from trainer.fit.data import load_data
from trainer.fit.devices import alone, check_backend, own_rows, use_all_devices
from trainer.fit.display import Display, EpochBar, epoch_name
from trainer.fit.group import any_of, join, parting
from trainer.fit.start import check_start
from trainer.fit.validation import Validation, validate
from trainer.fit_settings import FitSettings, Group, model_file
from trainer.interruption import Interruption
from trainer.metrics import chance_level
from trainer.network import (
    BACKBONE,
    SMALLEST_IMAGE,
    build_image_network,
    save_image_network,
    with_preprocessing,
)
from trainer.provenance import provenance
from trainer.run import RUN_FILE, Run, RunError, read_run, update_run, write_run

FIRST_SECONDS = 3.0
"""Audio after which a stream gets its first prediction: the model's `min_frames`, unless the
network's smallest image needs more."""

AVERAGED_SHARE = 0.1
"""Share of a phase's steps that averages reach back over at most."""

BATCH_NORM_MOMENTUM = 0.99
"""Highest momentum per step of the batch norms' statistics; Keras' default."""


def fit(settings: FitSettings, group: Group | None = None) -> Path:
    """Train a network, keep its best state by validation, and return the run folder.

    Progress is printed to standard error. Of a `group` every process calls it with the same
    settings; process 0 alone prints and writes.

    Raises
    ------
    RunError
        If the settings contradict each other, the folder already holds a run or cannot be written,
        the loss is not finite, or the processes of the group do not find each other.
    DatasetError, NetworkError
        If the data cannot be used, or the network cannot be built.
    KeyboardInterrupt
        If interrupted; `resume` continues after the last finished epoch.
    """
    check_start(settings)
    # Absolute paths, since the run may be continued from another working directory.
    split = tuple(
        str(Path(part).resolve()) if Path(part).is_file() else part for part in settings.split
    )
    # A model file holds no statistics of its batch norms: see `build_image_network`.
    frozen = settings.freeze_batch_norms or model_file(settings.weights) is not None
    settings = replace(settings, split=split, freeze_batch_norms=frozen)
    with parting(group):
        return _TrainingLoop(settings, group=group).run()


def resume(out: Path, group: Group | None = None) -> Path:
    """Continue an interrupted run with its own settings; see `fit`."""
    run = read_run(out)
    if run.averaged:
        raise RunError(
            f"--resume {out}: an average has no epochs to continue; start a run from it with "
            f"--weights {out}"
        )
    with parting(group):
        return _TrainingLoop(replace(run.settings, out=out), run, group).run()


class _TrainingLoop:
    """Trains one run to its end, from its start or from where it was `interrupted`."""

    def __init__(
        self,
        settings: FitSettings,
        interrupted: Run | None = None,
        group: Group | None = None,
    ) -> None:
        if group:
            settings = replace(settings, devices="all")
        self.settings, self.group = settings, group
        self.writes = group is None or group.process == 0
        self.checkpoints = Checkpoints(settings.out)
        self.history = History(settings.out)
        self.progress = Progress()
        self.interruption = Interruption()
        self.phase = ""  # that the network is compiled for
        self.compile_seconds = 0.0  # of the latest epoch
        keras.utils.set_random_seed(settings.seed)
        keras.config.set_dtype_policy(settings.precision)
        if settings.devices == "all":
            check_backend()
        data = self.data = load_data(settings, interrupted)
        if group:
            # Last, so that nobody waits for a machine that lacks something.
            join(group, f"{replace(settings, out=Path())} {data.division}")
        if settings.devices == "all":
            use_all_devices(settings.batch)
        truth = np.array([song.label for song in data.valid])
        genres = len({song.label for song in data.train})
        self.display = Display(settings, chance_level(truth, genres), quiet=not self.writes)
        self.frames = data.spec.frames_in(settings.window_seconds)
        self.windows = TrainingWindows(
            data.train,
            data.background_train,
            data.not_music,
            len(data.division.labels),
            spec=data.spec,
            frames=self.frames,
            batch=settings.batch,
            windows_per_song=settings.windows_per_song,
            background_share=settings.background_share,
            augmentation=settings.augmentation,
            seed=settings.seed,
        )
        self.learning_rates = _learning_rates(settings, self.windows.steps)
        self.image_network = build_image_network(
            data.division.labels,
            # A checkpoint holds all weights; where the first ones came from may be gone.
            weights="none" if self.checkpoints.exist() else settings.weights,
            dropout=settings.dropout,
        )
        self.network = with_preprocessing(
            self.image_network, data.spec, self.frames, settings.input_scale
        )
        self.averaged_weights = keras.callbacks.SwapEMAWeights()
        self.averaged_weights.set_model(self.network)

    def run(self) -> Path:
        """Train the remaining epochs and return the run folder."""
        settings = self.settings
        with self.interruption:
            self.display.opening(self.data, self.windows)
            self._restore()
            self._save_run()
            writer = None
            if settings.tensorboard and self.writes:
                # Keras' callback would need TensorFlow as the backend.
                from tensorboard.summary import Writer

                writer = Writer(str(settings.out / "tensorboard"))
            while not self.progress.finished(settings):
                result = self._run_epoch(self.progress.epoch)
                self.display.result(result, best=result.epoch == self.progress.best_epoch)
                if writer:
                    for name, value in dataclasses.asdict(result).items():
                        if isinstance(value, float):
                            writer.add_scalar(name, value, step=result.epoch)
                    writer.flush()
                self._check_interruption()
            if self.progress.out_of_patience(settings):
                self.display.line(f"no better validation for {settings.patience} epochs: stopping")
            self.display.ending(self.progress.best, len(self.data.valid))
            if writer:
                writer.close()
            self._save_run()
        return settings.out

    def _restore(self) -> None:
        """Continue from the last checkpoint, if there is one."""
        if not self.checkpoints.exist():
            if self.writes:
                self.history.truncate(0)
            return
        self.progress = self.checkpoints.read_progress()
        done = self.progress.epoch
        self._compile(done - 1)
        self.checkpoints.load_weights(self.network, done)
        if self.writes:
            self.history.truncate(done)
        self.display.line(f"continuing after {epoch_name(self.settings, done - 1)}")

    def _run_epoch(self, epoch: int) -> EpochResult:
        """Train and validate one epoch, counted from 0; append its row and save a checkpoint."""
        started = time.perf_counter()
        with self.display.epoch(epoch, self.windows.steps) as bar:
            if _phase(self.settings, epoch) != self.phase:
                self._compile(epoch)
            trained = self._train(epoch, bar)
            validation = dataclasses.asdict(self._validate(epoch, bar))
            result = EpochResult(
                epoch=epoch + 1,
                phase=self.phase,
                **trained,
                **{f"valid_{name}": value for name, value in validation.items()},
            )
            bar.save()
            self.progress.epoch = epoch + 1
            if self.writes:
                # The row goes first: `_restore` drops one without a checkpoint, but could not add
                # it.
                self.history.append(result)
                with alone():
                    self.checkpoints.save(self.network, self.progress)
        self.display.time_left.add(epoch, time.perf_counter() - started - self.compile_seconds)
        return result

    def _compile(self, epoch: int) -> None:
        """Compile the network with a new optimiser for the phase of `epoch`."""
        settings = self.settings
        self.phase = _phase(settings, epoch)
        backbone = self.image_network.get_layer(BACKBONE)
        backbone.trainable = self.phase == "whole"
        epochs = settings.epochs if self.phase == "whole" else settings.head_epochs
        steps = epochs * self.windows.steps
        for layer in backbone.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                layer.momentum = averaging_momentum(BATCH_NORM_MOMENTUM, steps)
                if settings.freeze_batch_norms:
                    layer.trainable = False
        optimizer = keras.optimizers.AdamW(
            # Overwritten before every step: TensorFlow would trace a schedule for every variable.
            settings.learning_rate,
            weight_decay=settings.weight_decay,
            clipnorm=1.0,
            use_ema=True,
            ema_momentum=averaging_momentum(settings.averaging, steps),
            ema_overwrite_frequency=None,
        )
        self.network.compile(
            optimizer,
            keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=settings.label_smoothing
            ),
            weighted_metrics=[keras.metrics.CategoricalAccuracy(name="accuracy")],
        )
        # Variables created inside the first step would make TensorFlow trace it twice.
        optimizer.build(self.network.trainable_variables)
        blank = np.zeros((1, len(self.data.division.labels)), np.float32)
        self.network.compute_metrics(None, blank, blank, np.ones(1, np.float32))
        self.network.reset_metrics()

    def _train(self, epoch: int, bar: EpochBar) -> dict[str, float]:
        """Run the training steps of an epoch; return its part of an `EpochResult`."""
        if self.settings.dropout:
            # Seeded by epoch, so that a continued run draws the same masks.
            state = self.image_network.get_layer("dropout").seed_generator.state
            state.assign(np.array([self.settings.seed, epoch], state.dtype))
        started = time.perf_counter()
        durations: list[float] = []
        steps: list[dict[str, float]] = []
        rate = self.settings.head_learning_rate
        own = own_rows(self.settings.batch)
        for number, batch in enumerate(self.windows.epoch(epoch), start=1):
            before = time.perf_counter()
            if self.phase == "whole":
                epochs = epoch - self.settings.head_epochs
                rate = float(self.learning_rates(self.windows.steps * epochs + number - 1))
            self.network.optimizer.learning_rate = rate
            logs = self.network.train_on_batch(
                batch.windows[own],
                batch.targets[own],
                sample_weight=batch.weights[own],
                return_dict=True,
            )
            durations.append(time.perf_counter() - before)
            # train_on_batch resets the metrics, so these are of this step alone.
            steps.append({name: float(value) for name, value in logs.items()})
            self._check_finite("loss", steps[-1]["loss"], epoch)
            bar.step(steps[-1]["loss"])
            self._check_interruption()
        # The first step of a phase compiles the network as well.
        self.compile_seconds = max(0.0, durations[0] - float(np.median(durations)))
        seconds = time.perf_counter() - started
        self.progress.seconds += seconds
        return {
            "loss": float(np.mean([step["loss"] for step in steps])),
            "accuracy": float(np.mean([step["accuracy"] for step in steps])),
            "learning_rate": rate,
            "seconds": seconds,
            "step_seconds": sum(durations),
        }

    def _check_interruption(self) -> None:
        """Raise KeyboardInterrupt if Ctrl-C was pressed, in any process of the group."""
        if any_of(self.group, self.interruption.requested):
            raise KeyboardInterrupt

    def _check_finite(self, name: str, value: float, epoch: int) -> None:
        """Raise RunError for a loss that is not finite, before bad weights replace good ones."""
        if math.isfinite(value):
            return
        option, rate = "--learning-rate", self.settings.learning_rate
        if self.phase == "head":
            option, rate = "--head-learning-rate", self.settings.head_learning_rate
        raise RunError(
            f"the {name} of {epoch_name(self.settings, epoch)} is {value}: the training diverged; "
            f"start a new run with less than {option} {rate:g}"
        )

    def _validate(self, epoch: int, bar: EpochBar) -> Validation:
        """Validate the averaged weights, and save them if they are the ones to keep so far."""
        settings, progress = self.settings, self.progress
        self.averaged_weights.on_test_begin()
        bar.validate(len(self.data.valid) + len(self.data.background_valid))
        validation = validate(self.network, self.data, self.frames, settings.batch, bar.validated)
        self._check_finite("validation loss", validation.nll, epoch)
        genres = len({song.label for song in self.data.train})
        better = settings.keep == "last" or validation.better_than(progress.best, genres)
        if better and epoch >= settings.unjudged_epochs:
            progress.best, progress.best_epoch = validation, epoch + 1
            if self.writes:
                with alone():
                    self._save_network()
        self.averaged_weights.on_test_end()
        return validation

    def _save_network(self) -> None:
        image_network, settings = self.image_network, self.settings
        if settings.precision != "float32":
            # The file is always plain float32, whatever the training computes in.
            keras.config.set_dtype_policy("float32")
            labels = self.data.division.labels
            image_network = build_image_network(labels, weights="none", dropout=settings.dropout)
            image_network.set_weights(self.image_network.get_weights())
            keras.config.set_dtype_policy(settings.precision)
        save_image_network(image_network, settings.out)

    def _save_run(self) -> None:
        """Write `run.json`; what evaluations have added to it since stays."""
        if not self.writes:
            return
        settings, division, progress = self.settings, self.data.division, self.progress
        spec = self.data.spec
        smallest = math.ceil(SMALLEST_IMAGE / settings.input_scale)
        made = provenance()
        if not (settings.out / RUN_FILE).exists():
            run = Run(
                labels=division.labels,
                not_music=NOT_MUSIC if settings.background else None,
                spec=spec,
                window_frames=self.frames,
                min_frames=min(self.frames, max(spec.frames_in(FIRST_SECONDS), smallest)),
                input_scale=settings.input_scale,
                seed=settings.seed,
                split=division.split,
                background=division.background,
                settings=settings,
                train_seconds=0.0,
                temperature=1.0,
                decision={},
                trained_on_before=division.trained_on_before,
                **made,
            )
            write_run(settings.out, run)
        best = progress.best
        update_run(
            settings.out,
            {"fit": {**dataclasses.asdict(best), "epoch": progress.best_epoch}} if best else {},
            settings=settings,
            finished=progress.finished(settings),
            train_seconds=progress.seconds,
            versions=made["versions"],
            git=made["git"],
        )


def _learning_rates(settings: FitSettings, steps: int) -> Callable[[int], Any]:
    """Return the rate by step of the whole network's phase: warm-up, then a cosine to 1 %.

    An epoch has `steps` steps.
    """
    total = steps * settings.epochs
    warm_up = min(total // 10, 2 * steps)
    schedule: Callable[[int], Any] = keras.optimizers.schedules.CosineDecay(
        0.01 * settings.learning_rate,
        max(1, total - warm_up),
        alpha=0.01,
        warmup_target=settings.learning_rate,
        warmup_steps=warm_up,
    )
    return schedule


def averaging_momentum(highest: float, steps: int) -> float:
    """Return the momentum of the averages of a phase with so many steps.

    Averages that reach back further would still hold what the phase began with when it ends: after
    60 steps a momentum of 0.99 keeps more than half of the initial statistics of the batch norms.
    """
    reach = max(2.0, AVERAGED_SHARE * steps)
    return min(highest, 1 - 1 / reach)


def _phase(settings: FitSettings, epoch: int) -> str:
    """Return the phase of an epoch, counted from 0: `head` or `whole`."""
    return "head" if epoch < settings.head_epochs else "whole"
