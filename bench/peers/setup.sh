#!/usr/bin/env bash
# Makes the Python environment of the peers: bench/peers/.env (about 4 GB with PyTorch).
# Needs Python 3.10 or later and a C and C++ compiler; llama.cpp is built for this processor, which
# takes about 10 minutes on two.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
python3 -m venv .env
. .env/bin/activate
pip install --quiet cmake ninja numpy gguf
pip install --quiet llama-cpp-python
pip install --quiet torch
cc -O2 -pthread read_bandwidth.c -o .read_bandwidth
python -m doctest paired.py
python -c 'import gguf, llama_cpp, torch; print("llama-cpp-python", llama_cpp.__version__, "torch", torch.__version__)'
