#!/usr/bin/env bash
# Keras saves a model with weights of bfloat16 as .h5, and can't load it again.
#
# Expected: load_model gives the weights back, as from a .keras file; or else model.save says that
# .h5 doesn't do for this type.
# What happens: HDF5 has no such type, and h5py writes two bytes without a meaning for each weight.
# The loader of .keras files knows what these are; that of .h5 doesn't, and ends in a ValueError,
# which names neither the type nor the file. (keras-team/keras#17069, of 2022, is of this kind.)
# Versions: keras==3.15.1, tensorflow==2.21.0, numpy==2.4.6, h5py==3.14.0.
# Seen on 30 November 2026:
#   model.keras: the same weights
#   model.h5: saved with the type |V2
#   model.h5: ValueError, No cast function available.
set -euo pipefail
script=$(realpath "$0")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder"
python3 -m venv venv
venv/bin/pip install --quiet keras==3.15.1 tensorflow==2.21.0 numpy==2.4.6 h5py==3.14.0

cat >program.py <<'END'
import h5py
import keras
import numpy as np

inputs = keras.Input((2,))
model = keras.Model(inputs, keras.layers.Dense(3, dtype="bfloat16", name="dense")(inputs))
model.save("model.keras")
model.save("model.h5")

loaded = keras.models.load_model("model.keras")
pairs = zip(model.get_weights(), loaded.get_weights(), strict=True)
if all(np.array_equal(old, new) for old, new in pairs):
    print("model.keras: the same weights")

with h5py.File("model.h5") as file:
    print(f"model.h5: saved with the type {file['model_weights/dense/dense/kernel'].dtype}")
try:
    keras.models.load_model("model.h5")
except Exception as error:
    print(f"model.h5: {type(error).__name__}, {error}")
END
TF_CPP_MIN_LOG_LEVEL=3 venv/bin/python program.py | tee output
diff <(sed -n 's/^#   //p' "$script") output
