#!/usr/bin/env bash
# ray.init replaces a program's handler of SIGTERM, which then never runs.
#
# Expected: a handler that a program has set before ray.init is called at a SIGTERM, as before.
# What happens: Ray sets its own, which ends the program, without a word, and without calling the
# one that was there; that of Ctrl-C it leaves. So a program that saves its work at a SIGTERM, as
# schedulers send it, loses it, unless it sets its handler again after ray.init.
# Versions: ray==2.60.0.
# Seen on 30 November 2026:
#   before ray.init: SIGTERM is handled by ours, SIGINT by ours
#   after ray.init: SIGTERM is handled by another one, SIGINT by ours
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet ray==2.60.0

cat >program.py <<'END'
import signal

import ray


def save(number, frame):
    print("saved")


def handlers():
    names = {save: "ours"}
    term, interrupt = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    return (
        f"SIGTERM is handled by {names.get(term, 'another one')}, "
        f"SIGINT by {names.get(interrupt, 'another one')}"
    )


signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGINT, save)
print(f"before ray.init: {handlers()}")
ray.init(address="local", num_cpus=1, include_dashboard=False, logging_level="CRITICAL")
print(f"after ray.init: {handlers()}")
ray.shutdown()
END
RAY_USAGE_STATS_ENABLED=0 venv/bin/python program.py 2>/dev/null | tee output
diff <(sed -n 's/^#   //p' "$script") output
