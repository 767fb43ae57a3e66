#!/usr/bin/env bash
# Ray changes the runtime_env that it is given, so that it serves for one ray.init only.
#
# Expected: ray.init reads its arguments. So a constant of a module can hold the runtime_env, and
# after ray.shutdown, it can be given again.
# What happens: ray.init puts the address of what it has uploaded in the place of working_dir, in
# the dict of the caller. The next ray.init finds an address there, uploads nothing, and starts
# without complaint; but no task can begin, for nothing is at that address in the new Ray. The error
# blames a long upload. With a copy of the dict, all is well.
# Versions: ray==2.60.0.
# Seen on 29 November 2026:
#   before: a folder
#   with the dict: 1
#   afterwards: an address, gcs://
#   with the dict again: RuntimeEnvSetupError
#   with a copy: 1
#   with a copy again: 1
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet ray==2.60.0

mkdir work
echo "ONE = 1" >work/numbers_of_ours.py
cat >program.py <<'END'
import os

import ray


def one():
    import numbers_of_ours

    return numbers_of_ours.ONE


def ask(runtime_env):
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="CRITICAL",
        runtime_env=runtime_env,
    )
    try:
        return ray.get(ray.remote(one).remote())
    except ray.exceptions.RayError as error:
        return type(error).__name__
    finally:
        ray.shutdown()


def what_is(working_dir):
    return "a folder" if os.path.isdir(working_dir) else f"an address, {working_dir[:6]}"


shared = {"working_dir": os.path.abspath("work")}
copied = dict(shared)
print("before:", what_is(shared["working_dir"]))
print("with the dict:", ask(shared))
print("afterwards:", what_is(shared["working_dir"]))
print("with the dict again:", ask(shared))
print("with a copy:", ask(dict(copied)))
print("with a copy again:", ask(dict(copied)))
END
RAY_USAGE_STATS_ENABLED=0 venv/bin/python program.py 2>/dev/null | tee output
diff <(sed -n 's/^#   //p' "$script") output
