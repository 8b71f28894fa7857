# The shard behind the launcher and router of the official TGI image. `make tpu-tgi` and `make tpu-tgi-v2` build it;
# docs/deploy/README.md says how to run it, and how to pin what it is built from.

# `make tpu-tgi RELEASE=1` refuses base images without a digest.
ARG TGI_IMAGE=ghcr.io/huggingface/text-generation-inference:3.3.7
ARG ROUTER_IMAGE=${TGI_IMAGE}
# `tpu`, or `cpu` for an image that is 716 MB smaller, without the TPU's compiler and driver.
ARG DEVICE=tpu
# Launcher and router link libpython3.11 and libssl.so.3, and run on Ubuntu 22.04 (glibc 2.35) in their own image.
ARG PYTHON_IMAGE=python:3.11-slim-bookworm

FROM ${TGI_IMAGE} AS launcher

FROM ${ROUTER_IMAGE} AS router

# --- the project's wheel; the tools that make it stay in this stage ---

FROM ${PYTHON_IMAGE} AS wheel
WORKDIR /src
RUN python3 -m venv --without-pip /opt/build
COPY locks/build.lock locks/
RUN python3 -m pip --python /opt/build/bin/python install --no-cache-dir --no-deps --require-hashes \
    -r locks/build.lock
COPY LICENSE README.md pyproject.toml hatch_build.py ./
COPY proto proto
COPY server server
COPY launcher_patch launcher_patch
RUN python3 -m pip --python /opt/build/bin/python wheel --no-cache-dir --no-deps --no-build-isolation \
    --wheel-dir /wheel .

# --- the Python packages ---

FROM ${PYTHON_IMAGE} AS packages
# PyPI's torch for x86_64 needs 4 GB of CUDA libraries, the one from here none.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
WORKDIR /src
RUN python3 -m venv --without-pip /opt/tpu-tgi
COPY locks/torch.txt locks/
RUN python3 -m pip --python /opt/tpu-tgi/bin/python install --no-cache-dir --no-deps --no-compile \
    --index-url "${TORCH_INDEX}" -r locks/torch.txt
COPY locks/packages.lock locks/
# Bytecode is made below: that of all models of transformers would take 70 MB.
RUN python3 -m pip --python /opt/tpu-tgi/bin/python install --no-cache-dir --no-deps --no-compile --require-hashes \
    -r locks/packages.lock
# What only debuggers, compilers and tests read: 300 MB of symbol tables, headers, tests. Libraries
# that auditwheel has patched cannot be stripped.
WORKDIR /opt/tpu-tgi/lib/python3.11/site-packages
# hadolint ignore=DL3008,DL3009
RUN apt-get update && apt-get install --yes --no-install-recommends binutils \
    && strip --strip-unneeded torch/lib/libtorch_cpu.so torch/lib/libtorch_python.so _XLAC*.so jaxlib/libjax_common.so \
    && rm -r torch/include torch/bin/protoc* swagger_ui/static/swagger-editor* swagger_ui/static/swagger-ui-es-bundle* \
    && find networkx numpy scipy sympy -type d -name tests -prune -exec rm -r {} +
WORKDIR /src

FROM packages AS packages-cpu

FROM packages AS packages-tpu
COPY locks/tpu.lock locks/
RUN python3 -m pip --python /opt/tpu-tgi/bin/python install --no-cache-dir --no-deps --no-compile --require-hashes \
    -r locks/tpu.lock

# The builder of Docker Engine 20.10 knows no variables in COPY --from.
# hadolint ignore=DL3006
FROM packages-${DEVICE} AS chosen

# --- the image ---

FROM ${PYTHON_IMAGE} AS tpu-tgi
# Who may write to /data and to the working directory, where the router leaves files: every user of `docker run --user`.
# The user tgi is there to be named; the default is root, for the reasons in docs/deploy/README.md.
RUN useradd --uid 1000 --create-home --shell /usr/sbin/nologin tgi \
    && install --directory --mode 1777 /data /var/lib/tpu-tgi
COPY --from=chosen /opt/tpu-tgi /opt/tpu-tgi
# A layer of its own, and a small one: the packages above seldom change.
COPY --from=wheel /wheel /tmp/wheel
RUN python3 -m pip --python /opt/tpu-tgi/bin/python install --no-cache-dir --no-deps --no-index /tmp/wheel/*.whl \
    && python3 -m pip --python /opt/tpu-tgi/bin/python check \
    && rm -r /tmp/wheel
COPY LICENSE /usr/share/doc/tpu-tgi/
COPY --from=launcher /usr/local/bin/text-generation-launcher /usr/local/bin/
COPY --from=router /usr/local/bin/text-generation-router /usr/local/bin/
# The launcher finds the shard in PATH, and the Python embedded in the router finds its packages by the first python3.
# HOSTNAME is where the launcher serves; Docker would put the name of the container there. torch fails for a user without
# a name, such as those of `docker run --user`, unless LOGNAME has one.
ENV PATH=/opt/tpu-tgi/bin:$PATH \
    HF_HOME=/data \
    TPU_TGI_COMPILE_CACHE=/data/compiled-programs \
    HOSTNAME=0.0.0.0 \
    LOGNAME=tgi \
    PORT=80
# A library that the base lacks fails here, and not at the start. Bytecode is kept of what every start imports; that of torch
# and transformers, which a first start alone needs, would take 60 MB.
RUN text-generation-launcher --version && text-generation-router --version \
    && python3 -c "import jax, text_generation_server.shard, tpu_tgi.cli" \
    && PYTHONDONTWRITEBYTECODE=1 python3 -c "import scipy.linalg, transformers, text_generation_server.lowering.here"
WORKDIR /var/lib/tpu-tgi
EXPOSE 80
# The start period has room for a download and the warm-up; it ends with the first success.
HEALTHCHECK --start-period=1h --interval=10s --timeout=15s \
    CMD ["python3", "-c", "import os, urllib.request as r; r.urlopen(f'http://127.0.0.1:{os.environ[\"PORT\"]}/health')"]
ENTRYPOINT ["tpu-tgi"]

ARG TGI_IMAGE
ARG ROUTER_IMAGE
ARG PYTHON_IMAGE
ARG DEVICE
ARG VERSION=unknown
ARG REVISION=unknown
LABEL org.opencontainers.image.title="tpu-tgi" \
      org.opencontainers.image.description="Text Generation Inference on XLA devices" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.base.name="${PYTHON_IMAGE}" \
      tpu-tgi.device="${DEVICE}" \
      tpu-tgi.launcher.image="${TGI_IMAGE}" \
      tpu-tgi.router.image="${ROUTER_IMAGE}"
