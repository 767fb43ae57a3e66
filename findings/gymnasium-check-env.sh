#!/usr/bin/env bash
# Gymnasium's check_env refuses an environment whose `truncated` is one of NumPy's booleans.
#
# Expected: np.bool_ is as good as bool, as it is to the checker that gym.make applies, and to
# check_env where `terminated` is concerned. One gets it easily, by comparing NumPy's numbers.
# What happens: check_env asks whether `truncated is False`, which np.False_ is not, and says that
# the environment truncates after one step. It doesn't.
# Versions: gymnasium==1.4.0, numpy==2.4.6.
# Seen on 27 November 2026:
#   terminated False, truncated False: check_env says: nothing
#   terminated np.False_, truncated False: check_env says: nothing
#   terminated False, truncated np.False_: check_env says: Environment truncates after 1 step, something has gone very wrong.
#   terminated False, truncated np.False_: gym.make's checker says: nothing
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet gymnasium==1.4.0 numpy==2.4.6

cat >program.py <<'END'
import warnings

import gymnasium as gym
import numpy as np
from gymnasium.utils.env_checker import check_env


class Still(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def __init__(self, terminated, truncated):
        self.flags = terminated, truncated

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, *self.flags, {}


def report(flags, name, check):
    try:
        check()
        found = "nothing"
    except (AssertionError, UserWarning) as problem:
        found = problem
    terminated, truncated = flags
    print(f"terminated {terminated!r}, truncated {truncated!r}: {name} says: {found}")


def make_and_step():
    env = gym.make("Still-v0")
    env.reset(seed=0)
    for _ in range(100):
        env.step(0)


warnings.simplefilter("error")
no = np.bool_(False)
for flags in [(False, False), (no, False), (False, no)]:
    report(flags, "check_env", lambda: check_env(Still(*flags), skip_render_check=True))
gym.register("Still-v0", lambda: Still(False, no))
report((False, no), "gym.make's checker", make_and_step)
END
venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
