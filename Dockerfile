# The client, the command line and the reference team; the server is an image of its own (docker-compose.yml).

FROM docker.io/library/python:3.12-slim AS build
RUN python -m venv /opt/spine
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY spine spine
RUN /opt/spine/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM docker.io/library/python:3.12-slim
ENV PATH=/opt/spine/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    CONVERSATIONS=/conversations
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin spine
COPY --from=build /opt/spine /opt/spine
WORKDIR /app
COPY agents agents
USER 10001
CMD ["spine", "--help"]
