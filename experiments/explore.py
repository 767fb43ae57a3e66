"""See it learn: makes a page that shows runs of Mountain Car in any browser.

    python -m experiments.explore first-log -o first.html

The page is complete in itself: it contains the weights of all snapshots, NAME-STEP.h5, rounded to
three digits, and computes Q-values from them. The more snapshots there are, the more smoothly it
moves: `python run.py --snapshot-every 4000` makes many. Its text, style and code are in the folder
`page`, for you to read and change.
"""

import sys

if not __package__:
    print("explore.py: start it with python -m experiments.explore", file=sys.stderr)
    sys.exit(2)

from support.command_line import OneLineParser, new_file
from support.errors import WrongInput, plain_errors

MAX_RUNS = 4


def parse_args(argv=None):
    """Reads the command line: `argparse.Namespace`; raises `WrongInput`."""
    parser = OneLineParser(prog="explore", description="Makes a page that shows runs.")
    add = parser.add_argument
    add("runs", nargs="+", metavar="NAME-log", help=f"directories of runs; at most {MAX_RUNS}")
    add(
        "-o",
        "--output",
        metavar="FILE.html",
        type=new_file(".html"),
        required=True,
        help="file to write",
    )
    args = parser.parse_args(argv)
    if len(args.runs) > MAX_RUNS:
        parser.error(f"{len(args.runs)} runs are too many for the page; give at most {MAX_RUNS}")
    return args


if __name__ == "__main__":
    with plain_errors():
        args = parse_args()  # before the imports below, which take seconds

import support.fast_tensorflow  # noqa: F401  # isort: skip (first: it keeps TensorFlow quiet)

import base64
import itertools
import json
import math
import os
import re
from pathlib import Path

import gymnasium as gym
import keras
import numpy as np

import run
from experiments.common.trained_policies import load_policy, readable
from experiments.common.value_iteration import POINTS, Solution
from support.checkpoints import read_checkpoint
from support.command_line import ENV
from support.files import write_file

PAGE = Path(__file__).parent / "page"
OPTIMUM_POINTS = 101  # along each axis, at which the page has the right values
TOLERANCE = 1e-3  # of Q-values
EPSILON = 1e-6  # that keeps Keras's RMSNormalization from dividing by 0
NOT_IN_TITLE = ("log_every", "snapshot_every", "checkpoint_every", "eval_every")
STATES = 100  # at which a network is compared with what the page makes of its weights


def read_run(logdir):
    """Reads what the page shows of a run.

    Args:
        logdir: directory of the run.

    Returns:
        Dict that can be written as JSON.

    Raises:
        WrongInput: the run can't be shown.
    """
    state = read_checkpoint(logdir)["run"]
    settings = state["settings"]
    if settings.get("env") != ENV:
        raise WrongInput(f"{logdir} is a run in {settings.get('env')}; the page shows {ENV} only")
    if not state["evaluations"]:
        raise WrongInput(f"{logdir} has no evaluation yet; train longer")
    steps = find_snapshots(logdir)
    if not steps:
        raise WrongInput(f"{logdir} has no snapshots NAME-STEP.h5; train longer")
    policies = {step: load_policy(filename) for step, filename in steps.items()}
    networks = [as_network(policy) for policy in policies.values()]
    _, sizes, normalized = networks[0]
    if any(network[1:] != (sizes, normalized) for network in networks):
        raise WrongInput(f"{logdir} has snapshots of different networks")
    return {
        "name": readable(os.path.basename(os.path.normpath(logdir)).removesuffix("-log")),
        "title": describe(settings, sizes),
        "gamma": next(iter(policies.values())).gamma,
        "targetUpdateEvery": settings.get("target_update_every", run.TARGET_UPDATE_EVERY),
        "nSteps": settings.get("n_steps", 1),
        "sizes": sizes,
        "normalized": normalized,
        "evaluations": [
            {
                "step": evaluation.step,
                "averageReturn": number_or_none(evaluation.episode_return_avg),
                "maxQValue": number_or_none(evaluation.avg_max_q_value),
            }
            for evaluation in state["evaluations"]
        ],
        "snapshots": [
            {"step": step, "weights": encode(weights)}
            for step, (weights, *_) in zip(steps, networks, strict=True)
        ],
    }


def number_or_none(value):
    """A float; None in place of nan, the average of no episode, which JSON doesn't have."""
    return value if math.isfinite(value) else None


def find_snapshots(logdir):
    """The numbered snapshots of a run: dict from steps to files, in the order of the steps."""
    found = {}
    for filename in os.listdir(logdir):
        match = re.fullmatch(r".*-(\d{1,9})\.h5", filename, re.DOTALL)
        if match:
            found[int(match[1])] = os.path.join(logdir, filename)
    return dict(sorted(found.items()))


def describe(settings, sizes):
    """The neurons of a run's network, and the settings in which it differs from run.py, as text."""
    others = [
        setting.constant
        if settings[setting.name] is True
        else f"{setting.constant} {settings[setting.name]}"
        for setting in run.options.constants
        if setting.name in settings
        and settings[setting.name] != setting.default
        and setting.name not in ("hidden_units", *NOT_IN_TITLE)
    ]
    neurons = " + ".join(map(str, sizes[1:-1]))
    return ", ".join([f"{neurons} hidden neurons", *others])


def as_network(policy):
    """What the page computes Q-values with.

    Args:
        policy: `TrainedPolicy` in Mountain Car.

    Returns:
        (weights, sizes, normalized): all weights in a row, float32; numbers of values before,
        between and after the layers; whether the sums of hidden layers are normalized.

    Raises:
        WrongInput: the page can't compute what this network does.
    """
    layers = policy.model.layers
    sizes = [2, *[layer.units for layer in layers if isinstance(layer, keras.layers.Dense)]]
    normalized = any(isinstance(layer, keras.layers.RMSNormalization) for layer in layers)
    arrays = policy.model.get_weights()
    if [array.shape for array in arrays] == shapes_of_weights(sizes, normalized):
        weights = np.concatenate([array.ravel() for array in arrays])
        states = some_states()
        values = q_values(states, weights, sizes, normalized)
        if np.allclose(values, policy.q_values(states), rtol=TOLERANCE, atol=TOLERANCE):
            return weights, sizes, normalized
    raise WrongInput(
        f"{policy.filename}: the page computes Dense layers, one after another, the hidden ones "
        "with relu, all of them with RMSNormalization before it or none, and this network is "
        "different; to show it, change experiments/page and explore.py"
    )


def shapes_of_weights(sizes, normalized):
    """The shapes of the weights of a network that the page can compute, in Keras's order."""
    shapes = []
    for inputs, outputs in itertools.pairwise(sizes):
        shapes += [(inputs, outputs), (outputs,)]  # kernel, bias
        if normalized:
            shapes += [(outputs,)]  # scale
    return shapes[:-1] if normalized else shapes  # the last layer is not normalized


def some_states():
    """States of Mountain Car, float array (`STATES`, 2), always the same."""
    space = gym.make(ENV).observation_space
    return np.random.default_rng(0).uniform(space.low, space.high, (STATES, 2))


def q_values(states, weights, sizes, normalized):
    """What the page computes: Q-values (n, 3) of states (n, 2); `as_network` explains the rest."""
    values, rest = states, weights
    for number, (inputs, outputs) in enumerate(itertools.pairwise(sizes), start=1):
        kernel, bias, rest = np.split(rest, [inputs * outputs, (inputs + 1) * outputs])
        values = values @ kernel.reshape(inputs, outputs) + bias
        if number == len(sizes) - 1:
            break
        if normalized:
            scale, rest = np.split(rest, [outputs])
            mean_square = np.mean(values**2, axis=1, keepdims=True)
            values *= scale / np.sqrt(mean_square + EPSILON)
        values = np.maximum(values, 0)
    return values


def encode(numbers):
    """Numbers, rounded to half precision (three digits), in base64: a string."""
    return base64.b64encode(np.asarray(numbers, "<f2").tobytes()).decode()


def decode(text):
    """The numbers that `encode` returned, a float32 array."""
    return np.frombuffer(base64.b64decode(text), "<f2").astype(np.float32)


def right_values(gamma):
    """The right highest Q-values for a discount factor: dict for the page."""
    solution = Solution(POINTS, gamma)
    states = solution.spread(OPTIMUM_POINTS).reshape(-1, 2)
    values = solution.q_values(states).max(axis=1)
    return {"points": OPTIMUM_POINTS, "values": encode(values)}


def prepare(runs):
    """The content of the page, from what `read_run` returned for some runs: JSON, a string."""
    gammas = sorted({shown["gamma"] for shown in runs})
    for shown in runs:
        shown["optimum"] = gammas.index(shown["gamma"])
    optima = [right_values(gamma) for gamma in gammas]
    return json.dumps({"runs": runs, "optima": optima}, allow_nan=False)


def fill_in(content):
    """The page with a content that `prepare` returned: a string."""
    page = (PAGE / "page.html").read_text(encoding="utf-8")
    names = ("page.css", "numbers.js", "page.js")
    sources = {name: (PAGE / name).read_text(encoding="utf-8") for name in names}
    # JSON allows < to be written differently, so that no name can end the script element.
    sources["data"] = content.replace("<", "\\u003c")
    for name, source in sources.items():
        before, after = page.split(f"/* {name} */")
        page = before + source + after
    return page


def read_page(filename):
    """The content of a page, which was the argument of `fill_in`: a string."""
    page = Path(filename).read_text(encoding="utf-8")
    return page.split('id="data">')[1].split("</script>")[0]


def main(args):
    """Writes the page.

    Args:
        args: what `parse_args` returned.

    Raises:
        WrongInput: a run can't be shown.
        OSError: the page can't be written.
    """
    runs = [read_run(logdir) for logdir in args.runs]
    write_file(args.output, fill_in(prepare(runs)).encode())
    print(f"Saved {args.output}")


if __name__ == "__main__":
    with plain_errors():
        main(args)
