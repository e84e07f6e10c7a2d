# gpt4x in a container, for CPUs or, with the extra `cuda`, for NVIDIA GPUs; see docs/installing.md.
#
#   docker build --tag=gpt4x .
#   docker build --tag=gpt4x:cuda --build-arg EXTRAS=cuda,gcs .
#
# No CUDA image is needed: JAX's wheels bring CUDA, and the driver comes from the host.

ARG PYTHON=3.11
FROM docker.io/library/python:${PYTHON}-slim

ARG EXTRAS=""
COPY . /tmp/gpt4x
RUN pip install --no-cache-dir --disable-pip-version-check --constraint=/tmp/gpt4x/requirements.lock \
    --constraint=/tmp/gpt4x/requirements-extras.lock "/tmp/gpt4x${EXTRAS:+[$EXTRAS]}"

# What is trained and what is prepared from data lie in the folder that is mounted.
RUN useradd --create-home --uid=1000 gpt4x && install --directory --owner=gpt4x /workspace
USER 1000
WORKDIR /workspace
ENV GPT4X_DATA_DIR=/workspace/.data PYTHONUNBUFFERED=1

ENTRYPOINT ["gpt4x"]
CMD ["--help"]
