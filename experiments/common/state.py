"""What a run reports while it is trained."""

from typing import NamedTuple


class State(NamedTuple):
    """How far a run is, and what it has so far.

    Attributes:
        step: training steps done.
        evaluations: list of `Evaluation`s; complete once it has ended.
        files: its directory, or its last network, as packed by `pack`; None if there is no newer.
        is_over: whether it has ended.
        failed: why it has failed, a string; or None.
        is_mistake: whether that is a mistake in the code, which every run may come to, and does not
            come from its constants.
        died: why its process has died, a string, whereupon it starts again; or None.
    """

    step: int = 0
    evaluations: list = ()
    files: bytes | None = None
    is_over: bool = False
    failed: str | None = None
    is_mistake: bool = False
    died: str | None = None
