"""Loading reads weights, old and new, and runs nothing that a file brings along."""

import json
import os
import pickle
import re
import shutil
import subprocess
from types import SimpleNamespace

import gymnasium as gym
import h5py
import keras
import numpy as np
import pytest
from conftest import ROOT

import run
from experiments.common.trained_policies import load_policy
from support.checkpoints import read_checkpoint
from support.errors import WrongInput
from support.options import load_lesson
from support.snapshots import load_weights, write_snapshot


@pytest.fixture
def other(env):
    keras.utils.set_random_seed(1)
    return run.create_model(env)


def same_weights(model, other):
    pairs = zip(model.get_weights(), other.get_weights(), strict=True)
    return all(np.array_equal(a, b) for a, b in pairs)


def write_as_keras_2_1_5(model, filename):
    """Writes weights and architecture in the format of 2018, which Keras 3 refuses to load."""
    dense = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    inputs = [
        {"class_name": "InputLayer", "name": name, "config": {"batch_input_shape": [None, size]}}
        for name, size in [("observations_input", 2), ("action_mask", 3)]
    ]
    layers = [inputs[0]]
    for layer in dense:
        config = {"units": layer.units, "activation": layer.activation.__name__}
        layers.append({"class_name": "Dense", "name": layer.name, "config": config})
    layers += [inputs[1], {"class_name": "Multiply", "name": "multiply_1", "config": {}}]
    with h5py.File(filename, "w") as file:
        file.attrs["keras_version"] = b"2.1.5-tf"
        file.attrs["backend"] = b"tensorflow"
        config = {"class_name": "Model", "config": {"name": "model_1", "layers": layers}}
        file.attrs["model_config"] = json.dumps(config).encode()
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [layer["name"].encode() for layer in layers]
        for layer in layers:
            group.create_group(layer["name"]).attrs["weight_names"] = np.array([], "S1")
        for layer in dense:
            names = [f"{layer.name}/kernel:0", f"{layer.name}/bias:0"]
            group[layer.name].attrs["weight_names"] = [name.encode() for name in names]
            for name, weight in zip(names, layer.get_weights(), strict=True):
                group[layer.name][name] = weight


def test_a_saved_model_loads_with_the_same_weights(model, other, tmp_path, capsys):
    training = SimpleNamespace(logdir=tmp_path, name="x", settings={"env": "MountainCar-v0"})
    run.save_model(model, 50000, training)
    filename = str(tmp_path / "x-50000.h5")
    assert capsys.readouterr().out == f"Saved {filename}\n"
    load_weights(other, filename)
    assert same_weights(model, other)


def test_a_snapshot_of_2018_loads(model, other, tmp_path):
    write_as_keras_2_1_5(model, tmp_path / "old.h5")
    with pytest.raises(Exception):  # noqa: B017 (Keras raises one or another)
        keras.models.load_model(tmp_path / "old.h5")
    load_weights(other, str(tmp_path / "old.h5"))
    assert same_weights(model, other)


@pytest.fixture
def saved(model, tmp_path):
    """The name of a file with the model's weights."""
    filename = str(tmp_path / "x-1.h5")
    write_snapshot(filename, model)
    return filename


@pytest.mark.parametrize(
    "old, new, names",
    [
        ('"Multiply"', '"NoSuchLayer"', "dense relu dense relu dense nosuchlayer"),
        ('"relu"', '"\\u001b[31mred"', "dense \x1b[31mred dense \x1b[31mred dense"),
        ('"Functional"', '"NoSuchModel"', None),
        ("{", '{"config": ' * 10**4 + "{", None),
    ],
)
def test_the_description_of_a_network_is_compared_and_nothing_is_made_of_it(
    old, new, names, model, other, saved
):
    with h5py.File(saved, "r+") as file:
        config = file.attrs["model_config"]
        assert old in config
        file.attrs["model_config"] = config.replace(old, new)
    with pytest.raises(Exception):  # noqa: B017 (Keras raises one or another)
        keras.models.load_model(saved)
    if names:
        own = "create_model builds dense relu dense relu dense; to use it, let create_model build"
        with pytest.raises(WrongInput, match=re.escape(f"is of the network {names}; {own}")):
            load_weights(other, saved)
    else:
        load_weights(other, saved)
    assert same_weights(model, other) == (names is None)


def test_pickled_objects_are_refused_and_never_unpickled(model, tmp_path, monkeypatch):
    harmless = pickle.dumps([1, 2, 3])
    (tmp_path / "pickle.h5").write_bytes(harmless)
    np.save(tmp_path / "array.npy", np.array([[1, 2], None], object), allow_pickle=True)
    shutil.copy(tmp_path / "array.npy", tmp_path / "array.h5")
    with h5py.File(tmp_path / "inside.h5", "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"dense"]
        group.create_group("dense").attrs["weight_names"] = [b"kernel:0"]
        group["dense"]["kernel:0"] = np.void(harmless)

    def refuse(*arguments, **options):
        pytest.fail("something is unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, refuse)
    for name in ("pickle.h5", "array.npy", "array.h5", "inside.h5"):
        with pytest.raises(WrongInput, match=f"{name} is not a readable snapshot"):
            load_weights(model, str(tmp_path / name))


def test_a_snapshot_of_another_shape_is_refused_with_both_shapes(model, tmp_path):
    write_snapshot(str(tmp_path / "x.h5"), run.create_model(gym.make("CartPole-v1")))
    with pytest.raises(WrongInput, match=r"\(4, 32\).*\(2, 32\).* of 4 numbers and 2 a"):
        load_weights(model, str(tmp_path / "x.h5"))


def test_files_that_are_no_snapshots_are_refused(model, tmp_path):
    (tmp_path / "text.h5").write_text("weights")
    (tmp_path / "empty.h5").write_bytes(b"")
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["numbers"] = np.arange(3)
    for name in ("text.h5", "empty.h5", "other.h5", "missing.h5", "."):
        with pytest.raises(WrongInput, match=str(tmp_path)) as error:
            load_weights(model, str(tmp_path / name))
        assert "\n" not in str(error.value)


def test_a_snapshot_cut_short_is_refused(model, saved):
    os.truncate(saved, os.path.getsize(saved) // 2)
    with pytest.raises(WrongInput):
        load_weights(model, saved)


def test_a_reader_that_crashes_or_hangs_ends_in_a_line(model, saved, tmp_path, monkeypatch):
    monkeypatch.setattr("support.snapshots.MAX_SECONDS", 0.001)
    with pytest.raises(WrongInput, match=r"within 0\.001 seconds"):
        load_weights(model, saved)
    monkeypatch.undo()
    crash = tmp_path / "crash"
    crash.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crash.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(crash))
    with pytest.raises(WrongInput, match="HDF5 library fails"):
        load_weights(model, saved)


def test_a_snapshot_is_read_once_and_again_when_it_has_changed(
    rolling, other, command, monkeypatch
):
    readers = []
    start = subprocess.run

    def count(words, **options):
        readers.append(words)
        return start(words, **options)

    monkeypatch.setattr("support.snapshots.subprocess.run", count)
    assert command("--model", "rolling-0.h5", "--eval", "--eval-steps", 1)[0] == 0
    assert len(readers) == 1
    os.replace("untrained-0.h5", "rolling-0.h5")
    load_weights(other, "rolling-0.h5")
    assert len(readers) == 2
    assert not same_weights(rolling, other)


def kernel(file):
    """Path of the first layer's weights in an open snapshot."""
    layers = file["model_weights"]
    layer, *_ = [layer for layer in layers.values() if len(layer.attrs["weight_names"])]
    return f"{layer.name}/{layer.attrs['weight_names'][0]}"


@pytest.mark.parametrize("kind", ["storage", "virtual dataset", "link", "link to a group"])
def test_the_bytes_of_other_files_are_never_read(kind, model, saved, tmp_path):
    secret = str(tmp_path / "secret")
    shutil.copy(saved, secret)
    with h5py.File(saved, "r+") as file:
        name = kernel(file)
        del file[name]
        if kind == "storage":
            file.create_dataset(name, (2, 32), "f4", external=[(secret, 0, 256)])
        elif kind == "virtual dataset":
            layout = h5py.VirtualLayout((2, 32), "f4")
            layout[:] = h5py.VirtualSource(secret, name, (2, 32), "f4")
            file.create_virtual_dataset(name, layout)
        elif kind == "link":
            file[name] = h5py.ExternalLink(secret, name)
        else:
            del file["model_weights"]
            file["model_weights"] = h5py.ExternalLink(secret, "model_weights")
    with h5py.File(saved) as file:
        assert file[name][()].any()  # HDF5 brings them in
    before = model.get_weights()
    with pytest.raises(WrongInput, match=r"is a link|in another file"):
        load_weights(model, saved)
    assert all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


@pytest.mark.parametrize(
    "settings",
    [
        {"\x1b[31mred\a": 1},
        {"\x1b[31mred\a": [1]},
        {"env": "\x1b[31mred\a-v0"},
        {"env": "\x1b[31mred\a:Car-v0"},
        {"hidden_units": "\x1b[31mred\a"},
    ],
)
def test_what_a_snapshot_says_never_reaches_the_terminal_as_an_escape_sequence(
    settings, command, model
):
    write_snapshot("x-0.h5", model, settings)
    _, output, errors = command("--model", "x-0.h5", "--eval", "--eval-steps", 1)
    assert errors.count("\n") == 1
    assert "\\x1b[31mred\\x07" in errors
    assert "\x1b[31m" not in output + errors


SHORT = (
    "--name x --seed 1 --train-start 100 --batch-size 16 --q-validation-size 100 --eval-every 200 "
    "--eval-steps 250 --max-steps 200"
).split()


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--hidden-units", "8", "--env", "CartPole-v1"],
        ["--hidden-units", "48", "--learning-rate", "0.002"],
    ],
)
def test_a_snapshot_of_any_setting_and_environment_is_played_without_other_options(
    options, command
):
    assert command(*SHORT, *options)[::2] == (0, "")
    trained = read_checkpoint("x-log")["run"]["evaluations"][-1][1]
    status, output, errors = command(
        "--model", "x-log/x-200.h5", "--eval", "--seed", 1, "--eval-steps", 250
    )
    assert (status, errors) == (0, "")
    assert f"episode_return_avg {trained:.3f}" in output


@pytest.mark.slow
def test_a_constant_of_a_reader_that_shapes_the_network_is_told_by_the_snapshot(command, tmp_path):
    source = (ROOT / "run.py").read_text()
    first = "    hidden = hidden_layer(observations)\n"
    second = first.replace("observations", "hidden")
    loop = f"    hidden = observations\n    for _ in range(LAYERS):\n    {second}"
    assert first + second in source
    source = source.replace(first + second, loop).replace(
        "\nTRAIN_EPSILON", "\nLAYERS = 2\nTRAIN_EPSILON"
    )
    (tmp_path / "lesson.py").write_text(source)
    arguments = [*SHORT, "--layers", 3]
    assert command(*arguments, script=tmp_path / "lesson.py")[::2] == (0, "")
    play = ["--model", "x-log/x-200.h5", "--eval", "--eval-steps", 10]
    assert command(*play, script=tmp_path / "lesson.py")[::2] == (0, "")


ACTIVATION_IN_A_HELPER = {
    "TRAIN_EPSILON =": 'ACTIVATION = "relu"  # of the hidden neurons\nTRAIN_EPSILON =',
    'activation="relu"': "activation=activation()",
    "def create_model(": "def activation():\n    return ACTIVATION\n\n\ndef create_model(",
}


@pytest.mark.slow
def test_a_network_is_what_its_snapshot_says_also_where_a_helper_function_asks(command, tmp_path):
    source = (ROOT / "run.py").read_text()
    for old, new in ACTIVATION_IN_A_HELPER.items():
        assert old in source
        source = source.replace(old, new)
    script = tmp_path / "lesson.py"
    script.write_text(source)
    options = ["--activation", "tanh", "--env", "CartPole-v1"]  # where returns differ
    assert command(*SHORT, *options, script=script)[::2] == (0, "")
    trained = read_checkpoint("x-log")["run"]["evaluations"][-1][1]
    play = ["--model", "x-log/x-200.h5", "--eval", "--seed", "1", "--eval-steps", "250"]
    status, output, errors = command(*play, script=script)
    assert (status, errors) == (0, "")
    assert f"episode_return_avg {trained:.3f}" in output

    lesson = load_lesson(script, play)
    env = gym.make("CartPole-v1")
    model = lesson.load_or_create_model(env, "x-log/x-200.h5")
    observations = np.random.default_rng(0).uniform(-1, 1, (20, 4)).astype(np.float32)
    kernels, biases = model.get_weights()[::2], model.get_weights()[1::2]
    hidden = observations
    for kernel, bias in zip(kernels[:-1], biases[:-1], strict=True):
        hidden = np.tanh(hidden @ kernel + bias)
    expected = hidden @ kernels[-1] + biases[-1]
    np.testing.assert_allclose(lesson.predict(env, model, observations), expected, rtol=1e-4)


RECORDED = {"env": "MountainCar-v0", "hidden_units": 8, "learning_rate": 0.1, "eval_steps": 5}


@pytest.fixture
def of_eight_neurons(env, tmp_path, monkeypatch):
    """A snapshot of a narrow network, with what it was trained with, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    run.HIDDEN_UNITS = 8
    write_snapshot("x-0.h5", run.create_model(env), RECORDED)
    return "x-0.h5"


def test_a_snapshot_is_played_with_all_its_constants_but_how_it_is_evaluated(of_eight_neurons):
    play = ["--model", of_eight_neurons, "--eval"]
    for given in ([], ["--hidden-units", "8", "--learning-rate", "0.1", "--eval-epsilon", "0"]):
        lesson = load_lesson(ROOT / "run.py", [*play, *given])
        assert (lesson.HIDDEN_UNITS, lesson.LEARNING_RATE, lesson.EVAL_STEPS) == (8, 0.1, 10000)
    assert load_lesson(ROOT / "run.py", [*play, "--eval-steps", "7"]).EVAL_STEPS == 7


@pytest.mark.parametrize(
    "options, problem",
    [
        (
            ["--eval", "--hidden-units", "64"],
            "--hidden-units=64 contradicts x-0.h5, which was made with 8; leave it out\n",
        ),
        (
            ["--eval", "--learning-rate", "0.2"],
            "--learning-rate=0.2 contradicts x-0.h5, which was made with 0.1; leave it out\n",
        ),
        ([], "it was trained with --learning-rate=0.1 --hidden-units=8"),
        (["--eval-steps", "5"], "it was trained with --learning-rate=0.1 --hidden-units=8"),
    ],
)
def test_what_contradicts_a_snapshot_is_named(
    options, problem, of_eight_neurons, command, tmp_path
):
    before = os.listdir(tmp_path)
    status, _, errors = command("--model", of_eight_neurons, *options)
    assert (status, errors.count("\n")) == (2, 1)
    assert problem in errors
    assert os.listdir(tmp_path) == before


@pytest.mark.parametrize(
    "settings, problem",
    [
        ({"env": "CartPole-v1"}, "was trained in CartPole-v1, and not in MountainCar-v0; to train"),
        ({"env": "trap:Trap-v0"}, "if you trust it, give --env trap:Trap-v0"),
        ({"env": 1}, "its environment is not a name"),
        ({"env": "MountainCar-v0", "hidden_units": [32]}, "hidden_units is not a number"),
        (["MountainCar-v0"], "its settings are not a table"),
    ],
)
def test_what_a_stranger_writes_into_a_snapshot_is_only_data(
    settings, problem, model, command, tmp_path
):
    write_snapshot("x-0.h5", model, settings)
    (tmp_path / "trap.py").write_text("open('sprung', 'w')")
    status, _, errors = command("--model", "x-0.h5")
    assert (status, errors.count("\n")) == (2, 1)
    assert problem in errors
    if settings != {"env": "CartPole-v1"}:
        status, _, errors = command("--model", "x-0.h5", "--eval")
        assert (status, errors.count("\n")) == (2, 1)
        assert problem in errors
    assert not os.path.exists("sprung")


@pytest.mark.parametrize(
    "value, problem",
    [
        (10**9, "HIDDEN_UNITS must be an integer between 1 and 4096, not '1000000000'"),
        ("32", "HIDDEN_UNITS can't be the text '32'"),
        (32.5, "HIDDEN_UNITS must be an integer between 1 and 4096, not '32.5'"),
        (True, "HIDDEN_UNITS must be an integer between 1 and 4096, not 'True'"),
    ],
)
def test_a_constant_that_cannot_be_is_refused_when_a_snapshot_is_played(
    value, problem, model, command
):
    write_snapshot("x-0.h5", model, {"env": "MountainCar-v0", "hidden_units": value})
    status, _, errors = command("--model", "x-0.h5", "--eval")
    assert (status, errors) == (2, f"run.py: x-0.h5: {problem}\n")


def test_changed_settings_are_noticed(model, tmp_path):
    filename = str(tmp_path / "x.h5")
    write_snapshot(filename, model, {"env": "MountainCar-v0"})
    with h5py.File(filename, "r+") as file:
        file.attrs["settings"] = '{"env": "CartPole-v1"}'
    with pytest.raises(WrongInput, match="checksum is wrong"):
        load_weights(model, filename)


def test_keras_opens_a_snapshot_with_settings(model, tmp_path):
    filename = str(tmp_path / "x.h5")
    write_snapshot(filename, model, {"env": "MountainCar-v0"})
    assert same_weights(model, keras.models.load_model(filename))


@pytest.fixture
def normalized(env, tmp_path, monkeypatch):
    """again.h5, a narrow network with layer normalization, saved again in Keras; that network."""
    monkeypatch.chdir(tmp_path)
    run.HIDDEN_UNITS, run.LAYER_NORMALIZATION = 8, True
    model = run.create_model(env)
    write_snapshot("x-0.h5", model, {"hidden_units": 8, "layer_normalization": True})
    keras.models.load_model("x-0.h5").save("again.h5")  # which doesn't keep the settings
    return model


def test_a_network_tells_constants_that_are_not_recorded(normalized, env):
    policy = load_policy("again.h5")
    observations = np.array([env.observation_space.sample() for _ in range(20)])
    assert np.array_equal(policy.q_values(observations), run.predict(env, normalized, observations))
    play = ["--model", "again.h5", "--eval", "--hidden-units", "9"]
    assert load_lesson(ROOT / "run.py", play).HIDDEN_UNITS == 9  # what is given holds


@pytest.mark.parametrize(
    "options, problem",
    [
        ([], "shapes .* it was trained with --hidden-units=8 --layer-normalization"),
        (["--eval", "--no-layer-normalization"], "it was trained with --layer-normalization"),
    ],
)
def test_options_that_a_network_needs_are_named(options, problem, normalized, command, tmp_path):
    before = os.listdir(tmp_path)
    status, _, errors = command("--model", "again.h5", *options)
    assert (status, errors.count("\n")) == (2, 1)
    assert re.search(problem, errors)
    assert os.listdir(tmp_path) == before


def test_other_activations_are_told(env, model, other, tmp_path):
    filename = str(tmp_path / "tanh.h5")
    for layer in model.layers[1:3]:
        layer.activation = keras.activations.tanh
    model.save(filename)
    with pytest.raises(WrongInput, match="is of the network dense tanh dense tanh dense; "):
        load_weights(other, filename)


@pytest.mark.parametrize(
    "change, told",
    [
        (lambda hidden: hidden * np.float32(2), "multiply"),
        (keras.layers.ReLU(negative_slope=0.3), "relu negative_slope 0.3"),
        (keras.layers.ReLU(max_value=1.0), "relu max_value 1.0"),
    ],
)
def test_a_part_without_weights_that_changes_the_network_is_told(change, told, other, tmp_path):
    inputs = keras.Input((2,))
    hidden = change(keras.layers.Dense(32, "relu")(inputs))
    hidden = keras.layers.Dense(32, "relu")(hidden)
    keras.Model(inputs, keras.layers.Dense(3)(hidden)).save(tmp_path / "x.h5")
    with pytest.raises(WrongInput, match=f"dense relu {told} dense relu dense; create_model"):
        load_weights(other, str(tmp_path / "x.h5"))


def test_a_dueling_network_is_of_no_other_environment(other, tmp_path):
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(32, "relu")(keras.layers.Dense(32, "relu")(inputs))
    advantages, value = keras.layers.Dense(3)(hidden), keras.layers.Dense(1)(hidden)
    keras.Model(inputs, keras.layers.Add()([advantages, value])).save(tmp_path / "x.h5")
    with pytest.raises(WrongInput, match="let create_model build its network"):
        load_weights(other, str(tmp_path / "x.h5"))


def test_a_snapshot_without_a_description_is_taken_as_it_is_with_a_warning(
    model, other, saved, capsys
):
    with h5py.File(saved, "r+") as file:
        del file.attrs["model_config"]  # as in what Keras 2 saved by save_weights
    load_weights(other, saved)
    assert same_weights(model, other)
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert f"warning: {saved} doesn't describe its network" in errors


def test_other_layers_that_do_the_same_are_no_difference(model, other, tmp_path, capsys):
    layers = keras.layers
    hidden = [layers.Dense(32), layers.Activation("relu"), layers.Dropout(0.1)]
    hidden += [layers.Dense(32), layers.ReLU()]
    same = keras.Sequential([keras.Input((1, 2)), layers.Flatten(), *hidden, layers.Dense(3)])
    same.set_weights(model.get_weights())
    same.save(tmp_path / "x.h5")
    load_weights(other, str(tmp_path / "x.h5"))
    assert same_weights(model, other)
    assert capsys.readouterr().err == ""


@keras.saving.register_keras_serializable("reader")
class Doubled(keras.layers.Layer):
    def call(self, inputs):
        return 2 * inputs


def squared(inputs):
    return inputs**2


@pytest.mark.parametrize(
    "first, then",
    [
        (keras.layers.Dense(5, activation=squared), Doubled()),
        (keras.layers.Dense(5, activation=keras.layers.LeakyReLU(0.1)), lambda h: h / 2 + 1),
        (keras.Sequential([keras.layers.Dense(5, "tanh")]), keras.layers.LayerNormalization()),
    ],
)
def test_a_network_of_the_readers_own_layers_loads_without_a_word(first, then, tmp_path, capsys):
    inputs = keras.Input((2,))
    model = keras.Model(inputs, keras.layers.Dense(3)(then(first(inputs))))
    write_snapshot(str(tmp_path / "x.h5"), model)
    weights = model.get_weights()
    model.set_weights([weight + 1 for weight in weights])
    load_weights(model, str(tmp_path / "x.h5"))
    assert all(map(np.array_equal, model.get_weights(), weights))
    assert capsys.readouterr().err == ""


def test_weights_load_into_a_network_that_keras_cannot_describe(model, saved, other, capsys):
    other.to_json = None  # which also fails for a function whose source isn't in a file
    load_weights(other, saved)
    assert same_weights(model, other)
    assert capsys.readouterr().err == ""
