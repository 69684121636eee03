# docker build -t dragonfly_lit . && docker run -it --rm -v "$PWD/runs:/dragonfly/runs" dragonfly_lit
# On a GPU machine: docker build --build-arg BASE=pytorch/pytorch:2.11.0-cuda12.8-cudnn9-runtime --build-arg CONSTRAINTS= .
ARG BASE=python:3.11-slim
FROM ${BASE}
ARG CONSTRAINTS="-c constraints.txt"
WORKDIR /dragonfly
COPY pyproject.toml README.md LICENSE constraints.txt train.py evaluate.py ./
COPY conf conf
COPY src src
COPY data_prep data_prep
COPY examples examples
RUN pip install --no-cache-dir -e ".[demo]" ${CONSTRAINTS}
RUN python -m data_prep demo
CMD ["python", "train.py", "stage=1"]
