#!/usr/bin/env bash
# Gymnasium's RecordEpisodeStatistics ends in an assertion without a message, at the end of an
# episode, if an environment gives an `episode` in its info.
#
# Expected: an environment may tell what it likes in its info; its check_env finds nothing wrong. If
# the wrapper needs the name for itself, it says so, at the first step. (Its parameter stats_key
# takes another name.)
# What happens: all goes well up to the last step of the first episode, possibly long after the
# start; then AssertionError, without a word. Wrapping an environment twice leads to it, too.
# Versions: gymnasium==1.4.0, numpy==2.4.6.
# Seen on 27 November 2026:
#   an environment with an episode in its info: check_env says nothing
#   an environment with an episode in its info: AssertionError('') at step 200
#   CartPole-v1, wrapped twice: AssertionError('') at step 11
#   an environment with an episode in its info, with stats_key: no error, the return is 200.0
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
from gymnasium.wrappers import RecordEpisodeStatistics


class Walk(gym.Env):
    observation_space = gym.spaces.Box(0, 200, (1,), np.float32)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(1, np.float32), {}

    def step(self, action):
        self.steps += 1
        observation = np.full(1, self.steps, np.float32)
        return observation, 1.0, self.steps == 200, False, {"episode": {"steps": self.steps}}


def play(env):
    env.reset(seed=0)
    for step in range(1, 1000):
        try:
            _, _, terminated, _, info = env.step(0)
        except AssertionError as error:
            return f"AssertionError({str(error)!r}) at step {step}"
        if terminated:
            return f"no error, the return is {info['statistics']['r']}"


name = "an environment with an episode in its info"
warnings.simplefilter("error")
check_env(Walk(), skip_render_check=True)
print(f"{name}: check_env says nothing")
print(f"{name}: {play(RecordEpisodeStatistics(Walk()))}")
twice = RecordEpisodeStatistics(RecordEpisodeStatistics(gym.make("CartPole-v1")))
print(f"CartPole-v1, wrapped twice: {play(twice)}")
print(f"{name}, with stats_key: {play(RecordEpisodeStatistics(Walk(), stats_key='statistics'))}")
END
venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
