# The page in a container, as a Docker Space or anywhere else; README.md says how to build it.
# BASE is a Debian or Ubuntu with Python 3.11 or newer and its venv module. A torch that it brings is
# used.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# For question and answers in the picture that can be saved; any version will do.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends fonts-dejavu-core \
    && rm -rf /var/lib/apt/lists/*

# Spaces run containers as user 1000, whom some bases have already.
RUN id -un 1000 || useradd --uid 1000 --user-group user
RUN mkdir -p /home/user/app /home/user/.cache && chown -R 1000 /home/user
ENV HOME=/home/user \
    PATH=/opt/venv/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860
WORKDIR /home/user/app

# Packages before code, so that a change of the code builds in seconds. TORCH_INDEX is the address
# of another build of torch, say for CPUs only; empty: whatever pip finds, which is for CUDA.
ARG TORCH_INDEX=
COPY requirements.txt .
RUN python3 -m venv --system-site-packages /opt/venv \
    && if [ -n "$TORCH_INDEX" ]; then \
        pip install --no-cache-dir "torch>=2.8,<2.14" --index-url "$TORCH_INDEX"; \
    fi \
    && pip install --no-cache-dir -r requirements.txt

COPY --chown=1000 . .
USER 1000
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:7860/', timeout=4)"]
CMD ["python", "app.py"]
