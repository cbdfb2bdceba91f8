# The service in an empty image: CPython, the locked dependencies and the libraries that they load; nothing else.
# docs/deployment/image.md says what is left out and why.
#
#   docker build -t edge-classifier .
#   docker build -t edge-classifier --build-arg MODEL=models/mobilenet_v2_1.0_224.int8.onnx .
#   docker build -t edge-classifier --platform linux/arm64 .        (needs no emulation: nothing of arm64 is run)

ARG BASE=docker.io/library/python:3.11-slim-bookworm
# The same for the other processor; it has a name of its own only where no registry knows both by one.
ARG TARGET_BASE=${BASE}

FROM ${TARGET_BASE} AS target

FROM --platform=$BUILDPLATFORM ${BASE} AS builder
ARG TARGETARCH
# Of pyproject.toml's extras, separated by blanks: cameras, heic, signatures, teach, traces.
ARG EXTRAS=""
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_REQUIRE_HASHES=1 PIP_ONLY_BINARY=:all: \
    PIP_ROOT_USER_ACTION=ignore PYTHONDONTWRITEBYTECODE=1
WORKDIR /build
COPY requirements requirements
RUN python -m venv /tools && /tools/bin/pip install -r requirements/image.txt
# What "$@" has are lock files, every line with its version and hash.
# hadolint ignore=DL3013
RUN case "$TARGETARCH" in amd64) machine=x86_64 ;; arm64) machine=aarch64 ;; esac \
 && set -- -r requirements/runtime.txt \
 && for extra in $EXTRAS; do set -- "$@" -r "requirements/$extra.txt"; done \
 && for glibc in 2_34 2_31 2_28 2_27 2_26 2_24 2_17; do set -- "$@" --platform "manylinux_${glibc}_$machine"; done \
 && pip install --no-compile --target /srv/lib --platform "manylinux2014_$machine" "$@" \
 && python -m venv --without-pip /environment && echo /srv/lib > "$(echo /environment/lib/python3.*)/site-packages/srv.pth" \
 && /tools/bin/cyclonedx-py environment --output-reproducible --output-format JSON -o sbom.json /environment
COPY docker/rootfs.py .
RUN --mount=type=bind,from=target,target=/target \
    /tools/bin/python rootfs.py /target /srv/lib /rootfs sbom.json \
 && install -D -m 644 sbom.json /rootfs/usr/share/sbom/edge-classifier.cdx.json
COPY app /service/app
COPY docker/healthcheck.py /service/
# Training in the browser runs the model builder.
COPY model_build model_build
RUN case " $EXTRAS " in *" teach "*) cp -r model_build /service/ ;; esac
# The file system is read-only later, so bytecode has to be there. The libraries' comes without its source, which would
# be a tenth of the image.
RUN rm /service/app/registry/bundled/*.onnx \
 && python -m compileall -q -b --invalidation-mode unchecked-hash -s /rootfs -p / /rootfs/usr/local/lib /srv/lib \
 && find /rootfs/usr/local/lib /srv/lib -name '*.py' -delete \
 && python -m compileall -q --invalidation-mode unchecked-hash /service

FROM scratch
# One layer for each thing that changes on its own, the one that changes least first.
COPY --from=builder /rootfs /
COPY --from=builder /srv/lib /srv/lib
COPY --from=builder /service /srv
ARG MODEL=app/registry/bundled/mobilenet_v2_1.0_224.int8.onnx
COPY ${MODEL} /srv/models/
WORKDIR /srv
ENV PATH=/usr/local/bin LANG=C.UTF-8 PYTHONPATH=/srv/lib PYTHONDONTWRITEBYTECODE=1
ARG VERSION=0.1.0
ARG REVISION=unknown
LABEL org.opencontainers.image.title="Edge Classifier" \
      org.opencontainers.image.description="A photo in over HTTP, its labels out" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s CMD ["python", "-IS", "/srv/healthcheck.py"]
ENTRYPOINT ["python", "-m", "app"]
