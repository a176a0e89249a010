# syntax=docker/dockerfile:1
# Two images. Run them on the files of this folder, as yourself:
#
#   docker build --target cpu -t sdd_fast:cpu .
#   docker run --rm --user "$(id -u):$(id -g)" -v "$PWD:/work" sdd_fast:cpu info
#
#   docker build --target gpu -t sdd_fast:gpu .
#   docker run --rm --gpus all --user "$(id -u):$(id -g)" -v "$PWD:/work" sdd_fast:gpu info
#
# The first computes on the CPU. The second has the CUDA kernels too; it needs the NVIDIA Container
# Toolkit and a driver for CUDA 12.8 and for the CUDA version of its torch.

ARG TORCH=2.13.0

# --- what both run on: Python 3.12, without a compiler -------------------------------------------
FROM ubuntu:24.04 AS runtime
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && install -d -m 1777 /cache /work
# Whoever runs it may have no home: what torch, matplotlib and the hub keep goes to /cache.
ENV PATH=/opt/sdd_fast/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    HOME=/cache \
    XDG_CACHE_HOME=/cache \
    HF_HOME=/cache/huggingface \
    MPLCONFIGDIR=/cache/matplotlib \
    TORCHINDUCTOR_CACHE_DIR=/cache/torchinductor
WORKDIR /work
USER 10001:10001
ENTRYPOINT ["sdd"]
CMD ["--help"]

# --- CPU ------------------------------------------------------------------------------------------
FROM ubuntu:24.04 AS build-cpu
ARG TORCH
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/sdd_fast \
    && /opt/sdd_fast/bin/pip install --no-cache-dir "setuptools>=77" "cmake>=3.25" ninja \
    && /opt/sdd_fast/bin/pip install --no-cache-dir "torch==${TORCH}" \
        --index-url https://download.pytorch.org/whl/cpu
COPY CMakeLists.txt LICENSE MANIFEST.in README.md pyproject.toml setup.py /src/
COPY csrc /src/csrc
COPY sdd_fast /src/sdd_fast
RUN SDD_FAST_NATIVE=1 SDD_FAST_CUDA=0 \
    /opt/sdd_fast/bin/pip install --no-cache-dir --no-build-isolation /src

FROM runtime AS cpu
COPY --from=build-cpu /opt/sdd_fast /opt/sdd_fast

# --- GPU: compiled without a GPU, for every one of compute capability 8.0 or newer ----------------
FROM nvidia/cuda:12.8.1-devel-ubuntu24.04 AS build-gpu
ARG TORCH
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/sdd_fast \
    && /opt/sdd_fast/bin/pip install --no-cache-dir "setuptools>=77" "cmake>=3.25" ninja \
    && /opt/sdd_fast/bin/pip install --no-cache-dir "torch==${TORCH}"
COPY CMakeLists.txt LICENSE MANIFEST.in README.md pyproject.toml setup.py /src/
COPY csrc /src/csrc
COPY sdd_fast /src/sdd_fast
RUN SDD_FAST_NATIVE=1 SDD_FAST_CUDA=1 \
    /opt/sdd_fast/bin/pip install --no-cache-dir --no-build-isolation /src

FROM runtime AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY --from=build-gpu /opt/sdd_fast /opt/sdd_fast
