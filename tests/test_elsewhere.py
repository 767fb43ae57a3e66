"""A snapshot is of use without the project; what else Keras writes is told from damage."""

import io
import os
import pickle
import re
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import ROOT, main

import run
from support.errors import WrongInput
from support.snapshots import load_weights, read_snapshot

SHORT = (
    "--name first --seed 1 --train-start 100 --batch-size 16 --q-validation-size 200 "
    "--max-steps 400 --eval-every 400 --eval-steps 250"
)
PAGE = (ROOT / "docs" / "using.md").read_text()
SECTION = re.search(r"^## A snapshot in other programs\n(.*?)^## ", PAGE, re.DOTALL | re.MULTILINE)
BLOCKS = re.findall(r"```python\n(.*?)```", SECTION[1], re.DOTALL)
pytestmark = pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")


@pytest.fixture(scope="module")
def elsewhere(env, tmp_path_factory):
    """What the blocks of the page leave: folder, variables after each block, true Q-values."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        main(SHORT)
        variables = {}
        states = []
        for block in BLOCKS:
            exec(block, variables)
            states.append({**variables})
    model = run.create_model(env)
    load_weights(model, str(folder / "first-log" / "first-best.h5"))
    return folder, states, run.predict(env, model, states[0]["observations"])


@pytest.mark.slow
def test_keras_gives_the_values_of_the_program(elsewhere):
    _, (in_keras, _), q_values = elsewhere
    assert q_values.shape == (2, 3)
    assert np.ptp(q_values) > 0.01
    assert np.allclose(in_keras["q_values"], q_values, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_snapshot_can_be_trained_in_keras_once_it_is_compiled(elsewhere):
    folder, (in_keras, _), q_values = elsewhere
    model = keras.models.load_model(folder / "first-log" / "first-best.h5", compile=False)
    model.compile("adam", "mean_squared_error")
    inputs = [in_keras["observations"], in_keras["mask"]]
    assert model.fit(inputs, q_values + 1, verbose=0).history["loss"][0] == pytest.approx(1)


@pytest.mark.slow
def test_the_newer_format_gives_the_values_of_the_program(elsewhere):
    folder, (in_keras, _), q_values = elsewhere
    model = keras.models.load_model(folder / "first-best.keras")
    inputs = [in_keras["observations"], in_keras["mask"]]
    assert np.allclose(model.predict(inputs), q_values, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_tensorflow_lite_gives_the_values_of_the_program(elsewhere):
    folder, (_, in_lite), q_values = elsewhere
    assert (folder / "first-best.tflite").stat().st_size < 20_000
    assert np.allclose(in_lite["q_values"], q_values, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_a_mask_leaves_out_actions_in_tensorflow_lite(elsewhere):
    _, (_, in_lite), q_values = elsewhere
    mask = np.float32([[1, 0, 0], [0, 0, 1]])
    masked = in_lite["network"](observations_input=in_lite["observations"], action_mask=mask)
    assert np.allclose(masked["output_0"], q_values * mask, rtol=0, atol=1e-5)


def refused(filename):
    """The line in which a file is refused as a snapshot."""
    with pytest.raises(WrongInput) as error:
        read_snapshot(str(filename))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", ["x.weights.h5", "renamed.h5"])
def test_a_file_of_weights_alone_is_named_as_that(name, model, tmp_path):
    model.save_weights(tmp_path / "x.weights.h5")
    (tmp_path / "x.weights.h5").rename(tmp_path / name)
    advice = "holds weights alone; save the whole model with model.save('x.h5')"
    assert refused(tmp_path / name).endswith(advice)


def test_weights_alone_of_an_early_keras_are_named_as_that(tmp_path):
    with h5py.File(tmp_path / "x.weights.h5", "w") as file:  # as Keras 2.12 wrote them
        file.create_group("_layer_checkpoint_dependencies/dense/vars")["0"] = np.ones((2, 32))
        file.create_group("vars")
    assert "holds weights alone" in refused(tmp_path / "x.weights.h5")


@pytest.mark.parametrize("name", ["x.keras", "renamed.h5"])
def test_the_newer_format_is_named_as_that(name, model, tmp_path):
    model.save(tmp_path / "x.keras")
    (tmp_path / "x.keras").rename(tmp_path / name)
    advice = "is in Keras's newer format; save it with model.save('x.h5')"
    assert refused(tmp_path / name).endswith(advice)


def test_the_advice_gives_a_snapshot(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save("x.keras")
    keras.models.load_model("x.keras").save("x.h5")
    weights = read_snapshot("x.h5").weights
    assert all(map(np.array_equal, weights, model.get_weights()))


def test_damage_is_not_taken_for_another_format(model, tmp_path):
    model.save(tmp_path / "x.keras")
    content = (tmp_path / "x.keras").read_bytes()
    (tmp_path / "cut.keras").write_bytes(content[: len(content) // 2])
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("config.json", "{}")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    for name in ("cut.keras", "other.zip", "other.h5"):
        assert "model.save" not in refused(tmp_path / name)


def archive_of(*names):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "")
    return content.getvalue()


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "a Git LFS pointer; git "),
        (b"\n\n<!DOCTYPE html>\n<html lang='en'>", "a web page; download the file itself"),
        (pickle.dumps({"fc1.weight": [1.0]}, 2), "a pickle, such as those of PyTorch before 1.6;"),
        (archive_of("net/data.pkl", "net/data/0"), "an archive of PyTorch; this program reads"),
        (archive_of("data", "policy.pth"), "an archive of Stable-Baselines3; this program reads"),
        (struct.pack("<Q", 9) + b'{"a": []}', "in the safetensors format; this program reads .h5 "),
        (b"some text", "damaged, or no .h5 file"),
        (b"", "damaged, or no .h5 file"),
    ],
)
def test_what_is_taken_for_a_snapshot_is_named(content, kind, tmp_path):
    (tmp_path / "x.h5").write_bytes(content)
    assert f"x.h5 is not a readable snapshot: it is {kind}" in refused(tmp_path / "x.h5")


def test_what_tensorflow_saves_is_named(tmp_path):
    advice = "; load it there, and save it with model.save('x.h5')"
    tf.train.Checkpoint(weight=tf.Variable(1.0)).write(str(tmp_path / "x.h5f"))
    assert f"x.h5f.index is not a readable snapshot: it is a checkpoint of TensorFlow{advice}" in (
        refused(tmp_path / "x.h5f")
    )
    tf.saved_model.save(tf.Module(), str(tmp_path / "saved"))
    assert f"it is a SavedModel of TensorFlow{advice}" in refused(tmp_path / "saved")


def test_hdf5_that_is_no_network_of_keras_is_named(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["fc1.bias"] = file["fc1.weight"] = np.ones(3)
    assert "it holds fc1.bias, fc1.weight, and no network of Keras" in refused(tmp_path / "x.h5")


def test_weights_of_another_type_are_named(tmp_path):
    layer = keras.layers.Dense(3, dtype="bfloat16")
    keras.Sequential([keras.Input((2,)), layer]).save(tmp_path / "x.h5")
    assert "its weights are of a type unknown to HDF5, bfloat16 say" in refused(tmp_path / "x.h5")


@pytest.mark.parametrize("script", sorted(ROOT.glob("findings/*.sh")), ids=lambda file: file.name)
def test_a_finding_is_listed_and_pins_what_it_installs(script):
    assert f"({script.name})" in (ROOT / "findings" / "README.md").read_text()
    assert os.access(script, os.X_OK)
    (packages,) = re.findall(r"pip install --quiet (.*?[^\\])\n", script.read_text(), re.DOTALL)
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", name) for name in packages.split() if name != "\\")
