"""Command lines that report a mistake in one line, and what may have been meant."""

import argparse
import contextlib
import difflib
import os

from support.errors import WrongInput


def number(smallest, largest):
    """Type of an option: a number in a closed interval, an integer if `smallest` is an int."""

    def parse(text):
        with contextlib.suppress(ValueError):
            value = type(smallest)(text)
            if smallest <= value <= largest:
                return value
        expected = describe_range(smallest, largest)
        raise argparse.ArgumentTypeError(f"must be {expected}, not {text!r}")

    return parse


def describe_range(smallest, largest):
    """A closed interval in words, as in "an integer between 1 and 10"."""
    kind = "an integer" if isinstance(smallest, int) else "a number"
    return f"{kind} between {smallest} and {largest}"


def new_file(*extensions):
    """Type of an option: a file with one of some extensions, in a directory to write to."""

    def parse(text):
        folder = os.path.dirname(text) or "."
        is_writable = os.path.isdir(folder) and os.access(folder, os.W_OK)
        if os.path.splitext(text)[1] in extensions and is_writable and not os.path.isdir(text):
            return text
        names = " or ".join(extensions)
        raise argparse.ArgumentTypeError(
            f"must be a {names} file in a directory that can be written to, not {text!r}"
        )

    return parse


SEED = number(0, 2**32 - 1)


class OneLineParser(argparse.ArgumentParser):
    """Raises `WrongInput` where the input is wrong, with what may have been meant."""

    def __init__(self, **keywords):
        super().__init__(allow_abbrev=False, **keywords)

    def error(self, message):
        raise WrongInput(message)

    def parse_args(self, argv=None):
        args, unknown = self.parse_known_args(argv)
        if unknown:
            options = list(self._option_string_actions)
            meant = difflib.get_close_matches(unknown[0].split("=")[0], options, n=1)
            if unknown[0].endswith(".h5") and "--model" in options:
                meant = [f"--model {unknown[0]}"]
            hint = f"; did you mean {meant[0]}?" if meant else ""
            if unknown[0].lower() in ("true", "false"):
                hint = "; instead of True and False, write --NAME and --no-NAME"
            self.error(f"unrecognized arguments: {' '.join(unknown)}{hint}")
        return args
