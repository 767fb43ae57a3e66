#!/usr/bin/env bash
# What TensorBoard shows of a run that was restarted depends on how it is started.
#
# Expected: given purge_step=3, tensorboardX tells TensorBoard to hide what was written before for
# step 3 and later. So after a crash at step 4 and a restart at step 3, a curve shows each step
# once, and one that is not written any more ends at step 2. Read with TensorBoard's
# EventAccumulator, it is so.
# What happens: in TensorBoard's server, the second curve goes on to step 4. In the server with
# --load_fast=false (and so wherever there is no tensorboard-data-server), it does, too, and the
# first curve shows steps 3 and 4 twice, in a zigzag. For that server takes the first mark of a
# start for the beginning of the run, and obeys those that follow; if the run began with
# purge_step=1, all is well there. The data server doesn't look at these marks: where a step of a
# curve is not higher than the one before, it drops earlier points of that curve.
# Versions: tensorboard==2.21.0, tensorboard-data-server==0.7.2, tensorboardX==2.6.5, numpy==2.4.6,
# protobuf==7.36.2.
# Seen on 30 November 2026:
#   began without purge_step
#     EventAccumulator: written on [1, 2, 3, 4, 5], not written on [1, 2]
#     server: written on [1, 2, 3, 4, 5], not written on [1, 2, 3, 4]
#     server, --load_fast=false: written on [1, 2, 3, 4, 3, 4, 5], not written on [1, 2, 3, 4]
#   began with purge_step=1
#     EventAccumulator: written on [1, 2, 3, 4, 5], not written on [1, 2]
#     server: written on [1, 2, 3, 4, 5], not written on [1, 2, 3, 4]
#     server, --load_fast=false: written on [1, 2, 3, 4, 5], not written on [1, 2]
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet tensorboard==2.21.0 tensorboard-data-server==0.7.2 \
    tensorboardX==2.6.5 numpy==2.4.6 protobuf==7.36.2

cat >program.py <<'END'
import json
import logging
import re
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboardX import SummaryWriter

CURVES = ("written on", "not written on")
logging.disable(logging.WARNING)


def write(folder, begin_at):
    with SummaryWriter(folder, purge_step=begin_at) as writer:
        for step in (1, 2, 3, 4):
            for curve in CURVES:
                writer.add_scalar(curve, step, step)
    time.sleep(2)  # for a file is named after the second in which it is made
    with SummaryWriter(folder, purge_step=3) as writer:
        for step in (3, 4, 5):
            writer.add_scalar(CURVES[0], step, step)


def read(folder):
    events = EventAccumulator(folder).Reload()
    tags = [curve.replace(" ", "_") for curve in CURVES]  # as tensorboardX writes them
    return [[event.step for event in events.Scalars(tag)] for tag in tags]


def ask(folder, *options):
    """The steps of both curves in a new server, once it has read the last one."""
    words = ["venv/bin/tensorboard", "--logdir", folder, "--port", "0", *options]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as server:
        try:
            line = next(line for line in server.stderr if "http://" in line)
            address = re.search(r"http://\S+", line)[0] + "data/plugin/scalars/scalars?"
            end = time.monotonic() + 60
            steps = [[]]
            while 5 not in steps[0]:
                assert time.monotonic() < end
                time.sleep(0.1)
                try:
                    steps = []
                    for curve in CURVES:
                        words = {"run": ".", "tag": curve.replace(" ", "_")}
                        query = urllib.parse.urlencode(words)
                        with urllib.request.urlopen(address + query) as answer:
                            steps.append([step for _, step, _ in json.load(answer)])
                except urllib.error.HTTPError:  # it has not read the curve yet
                    steps = [[]]
        finally:
            server.terminate()
    return steps


for folder, begin_at in [("without purge_step", None), ("with purge_step=1", 1)]:
    write(folder, begin_at)
    print("began", folder)
    for reader, steps in [
        ("EventAccumulator", read(folder)),
        ("server", ask(folder)),
        ("server, --load_fast=false", ask(folder, "--load_fast=false")),
    ]:
        print(f"  {reader}:", ", ".join(f"{c} {s}" for c, s in zip(CURVES, steps)))
END
venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
