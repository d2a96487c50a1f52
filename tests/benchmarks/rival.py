"""One of the programs that `benchmarks.rivals` compares, run by the Python of its environment.

``python rival.py NAME FOLDER`` prepares it with the sound in the folder and prints a line of JSON.
Each line of standard input then asks for so many answers, one to each second of sound; a line of
JSON tells the processor time of one of them. Needs nothing but numpy and the program itself.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

WARM_UP_SECONDS = 10
GRAPH = "msd-musicnn.pb"
"""MusiCNN with its weights, as `musicnn` has them and `essentia-tensorflow` reads them."""


def genre_stream(folder: Path, *, arithmetic: Any, effort: Any) -> Callable[[Any], object]:
    from streamer import Classifier, Pipeline

    pipeline = Pipeline(Classifier.load(threads=1, arithmetic=arithmetic), effort=effort)
    return lambda samples: pipeline.feed(samples, 44100)


def musicnn(folder: Path) -> Callable[[Any], object]:
    import librosa
    import musicnn
    import tensorflow
    from musicnn import configuration, models

    tf = tensorflow.compat.v1
    tf.disable_eager_execution()
    session = tf.Session()
    with tf.name_scope("model"):
        cells = tf.placeholder(tf.float32, [None, 187, configuration.N_MELS])
        tags = tf.nn.sigmoid(models.define_model(cells, False, "MSD_musicnn", 50)[0])
    tf.train.Saver().restore(session, f"{Path(musicnn.__file__).parent}/MSD_musicnn/")
    graph = tf.graph_util.convert_variables_to_constants(
        session, session.graph.as_graph_def(), ["model/Sigmoid"]
    )
    (folder / GRAPH).write_bytes(graph.SerializeToString())

    def answer(window: Any) -> object:  # as `musicnn.extractor.batch_data` and `extractor` do
        mel = librosa.feature.melspectrogram(
            y=window,
            sr=configuration.SR,
            hop_length=configuration.FFT_HOP,
            n_fft=configuration.FFT_SIZE,
            n_mels=configuration.N_MELS,
        ).T
        logs = np.log10(10000 * mel + 1)
        return session.run(tags, {cells: logs[None, :187]})

    return answer


def essentia(folder: Path) -> Callable[[Any], object]:
    from essentia.standard import TensorflowPredictMusiCNN

    if not (folder / GRAPH).exists():
        raise SystemExit("its models are no part of the package; it is given that of musicnn")
    return TensorflowPredictMusiCNN(graphFilename=str(folder / GRAPH), isTrainingName="")


def panns(folder: Path) -> Callable[[Any], object]:
    # The package fetches this file when it is imported, unless it is there.
    labels = Path.home() / "panns_data" / "class_labels_indices.csv"
    labels.parent.mkdir(exist_ok=True)
    labels.write_text("index,mid,display_name\n" + "".join(f"{n},m{n},{n}\n" for n in range(527)))
    import torch
    from panns_inference.models import Cnn14

    bands = {"window_size": 1024, "hop_size": 320, "mel_bins": 64, "fmin": 50, "fmax": 14000}
    network = Cnn14(sample_rate=32000, classes_num=527, **bands).eval()
    return torch.no_grad()(lambda window: network(torch.from_numpy(window)[None], None))


def audioset(folder: Path, name: str) -> Callable[[Any], object]:
    import torch
    from torch_vggish_yamnet import vggish, yamnet
    from torch_vggish_yamnet.input_proc import WaveformToInput

    if name == "yamnet":
        network = yamnet.yamnet(pretrained=False).eval()
    else:
        network = vggish.get_vggish(with_classifier=False, pretrained=False).eval()
    prepare = WaveformToInput()
    return torch.no_grad()(lambda window: network(prepare(torch.from_numpy(window)[None], 16000)))


@dataclass(frozen=True)
class Rival:
    """A program that answers what is heard once a second."""

    package: str
    prepare: Callable[[Path], Callable[[Any], object]]
    """Returns what answers to samples; gets the folder of the benchmark."""
    rate: int
    """Of its samples, in Hz."""
    hears: float
    """Seconds of sound that an answer is about."""
    channels: int = 1
    fed: float | None = None
    """Seconds of sound that it is given for an answer, if it keeps the others itself."""


def _ours(arithmetic: str, effort: str) -> Rival:
    prepare = partial(genre_stream, arithmetic=arithmetic, effort=effort)
    return Rival("genre-stream", prepare, 44100, 5.0, channels=2, fed=1.0)


OURS = {
    f"genre-stream {arithmetic} {effort}": _ours(arithmetic, effort)
    for arithmetic in ("int8", "float32")
    for effort in ("saving", "full")
}
RIVALS = {
    "musicnn MusiCNN": Rival("musicnn", musicnn, 16000, 3.008),
    "essentia MusiCNN": Rival("essentia-tensorflow", essentia, 16000, 3.008),
    "panns Cnn14": Rival("panns-inference", panns, 32000, 5.0),
    **{
        f"{name} {seconds:g} s": Rival(
            "torch-vggish-yamnet", partial(audioset, name=name), 16000, seconds
        )
        for name in ("yamnet", "vggish")
        for seconds in (1.0, 5.0)
    },
}


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    # One core: threads of its own gain nothing, and are not started by most.
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    rival = (OURS | RIVALS)[name]
    sound = np.load(folder / f"{rival.rate}-{rival.channels}.npy")
    answer = rival.prepare(folder)
    length = round((rival.fed or rival.hears) * rival.rate)
    second = 0

    def run(seconds: int) -> float:
        """Answer to the next seconds of the sound, which has no end; return the time of one."""
        nonlocal second
        used = 0.0
        for _ in range(seconds):
            second += 1
            end = second * rival.rate
            window = sound.take(range(end - length, end), axis=0, mode="wrap")
            before = time.process_time()
            answer(window)
            used += time.process_time() - before
        return used / seconds

    run(WARM_UP_SECONDS)
    print(json.dumps({"version": None if name in OURS else version(rival.package)}), flush=True)
    for line in sys.stdin:
        seconds = run(int(line))
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
        print(json.dumps({"seconds": seconds, "memory MB": memory}), flush=True)


if __name__ == "__main__":
    main()
