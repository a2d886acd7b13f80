# syntax=docker/dockerfile:1
# The bridge in a container. Everything that is kept lives in /data; the rest can be mounted read-only.

FROM python:3.12-slim-bookworm AS build
WORKDIR /src
RUN python -m venv /opt/mxrtc
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY docs/man ./docs/man
COPY completions ./completions
COPY mxrtc_bridge ./mxrtc_bridge
# The versions that the tests have run with. Nothing is compiled: a dependency without a ready-made wheel stops the build
# instead of bringing in a compiler.
RUN /opt/mxrtc/bin/pip install --no-cache-dir --only-binary :all: --constraint constraints.txt --target /build hatchling \
 && PYTHONPATH=/build /opt/mxrtc/bin/pip wheel --no-cache-dir --no-deps --no-build-isolation --wheel-dir /wheels . \
 && /opt/mxrtc/bin/pip install --no-cache-dir --only-binary :all: --constraint constraints.txt \
    "$(echo /wheels/mxrtc_bridge-*.whl)[postgres]"

FROM python:3.12-slim-bookworm
LABEL org.opencontainers.image.title="mxrtc-bridge" \
      org.opencontainers.image.description="A Matrix application service whose virtual users are WebRTC data-channel endpoints" \
      org.opencontainers.image.licenses="Apache-2.0"

RUN groupadd --gid 10001 mxrtc \
 && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /data --shell /usr/sbin/nologin mxrtc \
 && install -d -o 10001 -g 10001 -m 0700 /data
COPY --from=build /opt/mxrtc /opt/mxrtc
ENV PATH=/opt/mxrtc/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1

COPY --chmod=0755 <<'SCRIPT' /usr/local/bin/mxrtc-container
#!/bin/sh
# What the container does:
#   run       the bridge, with what follows; on the very first start its files are written instead, and it ends
#   setup     write the files if there are none
#   other words are arguments of mxrtc-bridge
set -eu
umask 077

data=${MXRTC_DATA:-/data}
config=$data/config.yaml

first_run() {
    for name in MXRTC_DOMAIN MXRTC_ALLOW; do
        eval "value=\${$name:-}"
        if [ -z "$value" ]; then
            echo "There is no $config yet. To have it written, set:" >&2
            echo "  MXRTC_DOMAIN  the part of your user ids after the colon, for example example.org" >&2
            echo "  MXRTC_ALLOW   who may use the first service, for example @alice:example.org" >&2
            echo "Missing: $name" >&2
            exit 78
        fi
    done
    mxrtc-bridge init \
        --output "$data" \
        --domain "$MXRTC_DOMAIN" \
        --homeserver-address "${MXRTC_HOMESERVER_ADDRESS:-http://127.0.0.1:8008}" \
        --listen "${MXRTC_LISTEN:-127.0.0.1:29350}" \
        --peer "${MXRTC_PEER:-host}" \
        --service "${MXRTC_SERVICE:-ssh=tcp:127.0.0.1:22}" \
        --allow "$MXRTC_ALLOW" </dev/null
    echo "Written: $config and $data/registration.yaml." >&2
    echo "Next: read $config, give registration.yaml to your homeserver as said above, and start the container again." >&2
}

case ${1:-run} in
setup)
    [ -e "$config" ] || first_run
    ;;
run)
    if [ -e "$config" ]; then
        [ $# -eq 0 ] || shift
        exec mxrtc-bridge run -c "$config" "$@"
    fi
    first_run
    ;;
*)
    exec mxrtc-bridge "$@"
    ;;
esac
SCRIPT

USER 10001:10001
WORKDIR /data
VOLUME /data
EXPOSE 29350/tcp
STOPSIGNAL SIGTERM
# Live means: the process answers. Whether it is connected to the homeserver is /_matrix/mau/ready.
HEALTHCHECK --interval=30s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import http.client as h, os; c = h.HTTPConnection(os.environ.get('MXRTC_LISTEN', '127.0.0.1:29350'), timeout=4); c.request('GET', '/_matrix/mau/live'); raise SystemExit(c.getresponse().status != 200)"]
ENTRYPOINT ["mxrtc-container"]
CMD ["run"]
