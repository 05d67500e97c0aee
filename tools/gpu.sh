#!/bin/sh
# What only a GPU can tell, in ten minutes at most: tests on it, and what labeling, noise, a training step and
# torch.compile cost there. Writes benchmarks/results/gpu.md, with the device's name, and the page of the benchmarks.
# PYTHON names another interpreter than that of .venv: one with torch, torchvision, fastai, scikit-learn and pytest.
# Call from the project's top folder. It ends with the number of parts that failed.
set -u
python=${PYTHON:-.venv/bin/python}
[ -x "$python" ] || python=$(command -v "$python" || command -v python3) || exit 127
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}" PYTHONWARNINGS=ignore
exec timeout -k 10 "${LIMIT:-590}" "$python" benchmarks/gpu.py
