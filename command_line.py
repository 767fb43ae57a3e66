"""What stands between the command line and the lesson: wrong input ends in one plain line."""

import argparse
import contextlib
import itertools
import os
import sys

import gymnasium as gym

from checkpoints import versions


class WrongInput(ValueError):
    """What the reader asked for can't be done; the message says why and what to do instead."""


def make_env(env_id, render_mode=None):
    """Makes a Gymnasium environment that the Q-network fits.

    Args:
        env_id: registered name of the environment.
        render_mode: None, "rgb_array" to draw frames, or "human" to show them in a window too.

    Returns:
        The environment.

    Raises:
        WrongInput: there is none of that name, or its observations are no vector, or its actions
            are not discrete, or it can't be drawn.
    """
    try:
        env = gym.make(env_id, render_mode="rgb_array") if render_mode else gym.make(env_id)
        if render_mode == "human":
            env = gym.wrappers.HumanRendering(env)
    except Exception as error:  # whatever the constructor of somebody's environment raises
        raise WrongInput(f"--env {env_id}: {error}") from error
    if len(env.observation_space.shape or ()) != 1:
        raise WrongInput(
            f"--env {env_id}: its observations, {env.observation_space}, are no vector of numbers; "
            "choose an environment such as MountainCar-v0"
        )
    if not isinstance(env.action_space, gym.spaces.Discrete) or env.action_space.start != 0:
        raise WrongInput(
            f"--env {env_id}: its actions, {env.action_space}, are not discrete and "
            "counted from 0; choose an environment such as MountainCar-v0"
        )
    return env


def number(smallest, largest):
    """Type of an option: a number in a closed interval, a whole one if `smallest` is an int."""

    def parse(text):
        with contextlib.suppress(ValueError):
            value = type(smallest)(text)
            if smallest <= value <= largest:
                return value
        kind = "whole number" if isinstance(smallest, int) else "number"
        raise argparse.ArgumentTypeError(f"{text!r} is no {kind} from {smallest} to {largest}")

    return parse


class OneLineParser(argparse.ArgumentParser):
    """Reports wrong input in one line on standard error, and exits with status 2."""

    def error(self, message):
        sys.exit(one_line(message, status=2))


def one_line(message, status):
    """Prints a message on one line of standard error; returns the exit status."""
    print(f"{os.path.basename(sys.argv[0])}:", *str(message).split(), file=sys.stderr)
    return status


def check_args(parser, args):
    """Ends the program where options contradict each other or name what can't be.

    Args:
        parser: `OneLineParser`.
        args: what it has parsed.
    """
    order = ["batch_size", "train_start", "q_validation_size", "replay_buffer_size"]
    for small, large in [*itertools.pairwise(order), ("q_validation_size", "eval_every")]:
        if getattr(args, small) > getattr(args, large):
            parser.error(
                f"{small.upper()} {getattr(args, small)} has to be at most "
                f"{large.upper()} {getattr(args, large)}: lower --{small.replace('_', '-')} "
                f"or raise --{large.replace('_', '-')}"
            )
    if args.name is not None:
        check_name(parser, "--name", args.name)
    if args.model == "":
        parser.error("--model '' is no file")
    if args.gif is not None:
        folder = os.path.dirname(args.gif) or "."
        writable = os.path.isdir(folder) and os.access(folder, os.W_OK)
        if not (args.gif.endswith(".gif") and writable) or os.path.isdir(args.gif):
            parser.error(f"--gif {args.gif!r} is no .gif file in a directory to write to")
    if args.images and not os.access(".", os.W_OK):
        parser.error(f"--images can't write to the current directory, {os.getcwd()}")
    if args.play and not args.model:
        parser.error("--view, --eval, --images and --gif need a trained --model X.h5")
    if args.play and args.name is not None:
        parser.error("--name names a training, and --view, --eval, --images and --gif only play")


def check_name(parser, option, name):
    """Ends the program where the value of `option` can't be part of a file name."""
    if not name or name[0] == "." or name != os.path.basename(name) or not name.isprintable():
        parser.error(f"{option} {name!r} is no plain file name")
    if len(os.fsencode(name)) > 200:
        parser.error(f"{option} {name!r} is too long for a file name")


def check_resume(parser, args):
    """Ends the program where `--resume` has company that contradicts it.

    Args:
        parser: `OneLineParser`.
        args: what it has parsed.
    """
    for option in ("model", "name", "seed", "test", "view", "eval", "images", "gif"):
        if getattr(args, option) not in (None, False):
            parser.error(f"--resume goes on with a run as it was started; leave out --{option}")


def check_resumed(parser, args, description):
    """Ends the program where options contradict the run to resume; warns of other libraries.

    Args:
        parser: `OneLineParser`.
        args: what it has parsed, with the run's settings as defaults.
        description: what `read_checkpoint` says of the run.
    """
    for name, value in description["settings"].items():
        if name != "max_steps" and getattr(args, name) != value:
            parser.error(
                f"--{name.replace('_', '-')} {getattr(args, name)} contradicts {args.resume}, "
                f"which runs with {value}; leave it out"
            )
    if args.max_steps <= description["step"]:
        parser.error(
            f"{args.resume} has done {description['step']} steps, and --max-steps is "
            f"{args.max_steps}; with more, it goes on"
        )
    own, others = versions(), description["versions"]
    changed = [
        f"{name} {others.get(name)}, now {own[name]}"
        for name in own
        if own[name] != others.get(name)
    ]
    if changed:
        one_line(
            f"warning: {args.resume} was made with {', '.join(changed)}; "
            "it goes on, but may not end as it would have",
            status=0,
        )
