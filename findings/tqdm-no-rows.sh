#!/usr/bin/env bash
# tqdm shows no bar in a terminal that doesn't know how high it is.
#
# Expected: a bar, for which one line is enough; how wide the terminal is, is known.
# What happens: tqdm takes 0 rows for a screen on which there is no room left, and prints nothing; it
# doesn't say why. Notebooks and remote shells start programs in such terminals. With the number of
# rows given, the bar is there.
# Versions: tqdm==4.70.1.
# Seen on 30 November 2026, in a terminal of 80 columns:
#   24 rows: a bar
#   0 rows: nothing
#   0 rows, with nrows=24: a bar
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet tqdm==4.70.1

cat >program.py <<'END'
import os
import pty
import subprocess
import sys
import termios


def look(rows, option=""):
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (rows, 80))
    bar = f"from tqdm import tqdm\nfor _ in tqdm(range(3){option}): pass"
    subprocess.run([sys.executable, "-c", bar], stderr=theirs, check=True)
    os.write(theirs, b"end")
    shown = b""
    while not shown.endswith(b"end"):
        shown += os.read(ours, 10**5)
    return "a bar" if b"3/3" in shown else "nothing"


print("24 rows:", look(24))
print("0 rows:", look(0))
print("0 rows, with nrows=24:", look(0, ", nrows=24"))
END
venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
