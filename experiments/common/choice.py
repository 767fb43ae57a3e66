"""Which engine measures what the reader has changed?

The compiled loop calls `create_model`, `predict` and `fit_batch` of run.py, and has its own version
of everything else. So it measures a change in these three, and in the constants; after a change
elsewhere, only the exact engine does.
"""

import ast
import hashlib
import inspect
import statistics
from typing import NamedTuple

from support.errors import WrongInput

# Parts of run.py that the compiled loop replaces by its own version, and the fingerprint of each.
# When one of these changes, change the loop accordingly, then put the new fingerprint here.
MIRRORED = {
    "train": "2dad8173faaa4641",
    "evaluate": "cb8ad9abe4849004",
    "evaluate_and_save_best": "78346ff5b7cb129f",
    "greedy_action": "e8bbe7e004fc55cb",
    "epsilon_greedy_action": "ff663086b42a41fd",
    "ReplayBuffer": "8324be715aae3c6f",
    "load_or_create_model": "f1af28eee2f35da9",
    "set_seed": "8759c20992b2a88d",
    "make_env": "6b31ce680ae0bbfe",
    "main": "8645b266759c175f",
}

OUTSIDE = ("LOG_EVERY", "SNAPSHOT_EVERY", "CHECKPOINT_EVERY")  # act only there

# A training step takes a fixed time, and some for each weight and row of a batch; on an AMD EPYC.
SECONDS = {"compiled": (15e-6, 70e-12), "exact": (240e-6, 70e-12)}
SECONDS_TO_START = 15


class Choice(NamedTuple):
    """Which engine, and why.

    Attributes:
        engine: "compiled" or "exact".
        why: why the compiled one would not measure what was changed, a string; None if it would.
        weights: how many the networks have, on average.
        problem: why no run can be trained, a string; or None.
        is_mistake: whether that is a mistake in the code, and not wrong input.
    """

    engine: str = "exact"
    why: str | None = None
    weights: int = 0
    problem: str | None = None
    is_mistake: bool = False


def choose_engine(runs, by_hand=None):
    """Chooses an engine; loads run.py, with TensorFlow, so it is called in a process of its own.

    Args:
        runs: list of `Run`s, one of each configuration.
        by_hand: the engine that the user wants; or None.

    Returns:
        `Choice`.
    """
    from experiments.common import engines  # here, for it loads TensorFlow

    try:
        why, weights = why_not_compiled(runs, by_hand)
    except WrongInput as error:
        return Choice(problem=str(error))
    except (Exception, SystemExit) as error:
        return Choice(problem=engines.describe_mistake(error), is_mistake=True)
    return Choice(by_hand or ("exact" if why else "compiled"), why, weights)


def announce(plan, choice, left, places):
    """Says in a line which engine trains a sweep, why, and how long that will take.

    Args:
        plan: `Plan` with its engine.
        choice: `Choice`.
        left: list of the `Run`s that have not ended.
        places: how many of them are trained at a time, at most.
    """
    remarks = ["as you say"] if plan.is_by_hand else []
    if plan.engine == "exact" and choice.why is None and not plan.is_by_hand:
        remarks = ["as before"]
    if choice.why is not None:
        remarks.append(f"although {choice.why}" if plan.engine == "compiled" else choice.why)
    engine = plan.engine.capitalize() + (f" ({', '.join(remarks)})" if remarks else "")
    count = f"{len(left)} run{'s' if len(left) > 1 else ''}"
    places = min(places, len(left))
    seconds = estimate_seconds(plan.engine, left, choice.weights, places)
    return f"{engine}: {count}, {places} at a time, {describe_time(seconds)}"


def estimate_seconds(engine, runs, weights, places):
    """How long it takes to train runs on a computer like ours, a float.

    Args:
        engine: "compiled" or "exact".
        runs: list of `Run`s.
        weights: how many the networks have, on average.
        places: how many runs are trained at a time.
    """
    per_step, per_weight = SECONDS[engine]
    steps = sum(run.max_steps for run in runs)
    rows = max(run.hyperparameters["batch_size"] for run in runs)
    return SECONDS_TO_START + steps / places * (per_step + per_weight * weights * rows)


def describe_time(seconds):
    """A time in words, as in "about 3 minutes"."""
    minutes = seconds / 60
    for size, unit in ((24 * 60, "day"), (60, "hour"), (1, "minute")):
        if minutes >= 1.5 * size:
            return f"about {minutes / size:.0f} {unit}s"
    return "about a minute"


def why_not_compiled(runs, by_hand):
    """Why the compiled loop would not measure what was changed; see `choose_engine`.

    Returns:
        (why, weights): a string or None, and how many weights the networks have, on average.

    Raises:
        WrongInput: a network can't be made; or the loop is wanted, and can't be compiled.
    """
    from experiments.common.compiled_loop import why_not_compilable
    from experiments.common.engines import LESSON
    from support.environments import make_env
    from support.options import load_lesson

    lessons = [load_lesson(LESSON, run.options()) for run in runs]
    env = make_env(runs[0].env)
    weights = statistics.mean(lesson.create_model(env).count_params() for lesson in lessons)
    if by_hand == "exact":
        return None, weights
    why = why_not_compilable(lessons[0], env)
    if why and by_hand == "compiled":
        raise WrongInput(f"--compiled is impossible: {why}")
    if why:
        return why, weights
    changed = [
        name
        for name, recorded in MIRRORED.items()
        if fingerprint(getattr(lessons[0], name, None)) != recorded
    ]
    if changed:
        return (
            f"{' and '.join(changed)} {'have' if len(changed) > 1 else 'has'} been changed",
            weights,
        )
    outside = [
        setting.constant
        for setting in lessons[0].options.constants
        if setting.constant in OUTSIDE
        and any(run.hyperparameters[setting.name] != setting.default for run in runs)
    ]
    if outside:
        verb = "act" if len(outside) > 1 else "acts"
        return f"{' and '.join(outside)} {verb} only outside of the compiled loop", weights
    return None, weights


def fingerprint(definition):
    """A string that changes with a function or class.

    Comments, docstrings and the layout of the source don't count.

    Args:
        definition: the function or class; None for one that isn't there.
    """
    try:
        source = inspect.getsource(definition)
        members = [member for member in vars(definition).values() if inspect.isfunction(member)]
        is_own = all(inspect.getsource(member) in source for member in members)
        tree = ast.parse(source)
    except (OSError, TypeError, SyntaxError):
        return None
    if not is_own or hasattr(definition, "__wrapped__"):  # replaced after it was defined
        return None
    for node in ast.walk(tree):
        if (
            isinstance(node, (ast.FunctionDef, ast.ClassDef))
            and ast.get_docstring(node) is not None
        ):
            del node.body[0]
    return hashlib.sha256(ast.unparse(tree).encode()).hexdigest()[:16]
