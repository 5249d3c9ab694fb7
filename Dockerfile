# syntax=docker/dockerfile:1
# One image for each process: `docker build --target prober .` (or coordinator, sink, notifier, api, picket).

FROM rust:1.95-slim-bookworm AS build
# It has the C compiler that the cryptography (aws-lc) wants.
WORKDIR /build
COPY . .
# The image of `picket` has no servers to start, so its command is built without `up`, `down` and `demo`.
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/build/target \
    cargo build --locked --profile dist --no-default-features \
        --package picket --package picket-coordinator --package picket-prober --package picket-sink \
        --package picket-notifier --package picket-api --bins \
    && install -D --target-directory /programs \
        target/dist/picket target/dist/picket-coordinator target/dist/picket-prober target/dist/picket-sink \
        target/dist/picket-notifier target/dist/picket-api

# glibc, the roots of the authorities, a user without rights; no shell, no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot AS base
USER 65532:65532
ENV PATH=/usr/local/bin PICKET_LOG_FORMAT=json

FROM base AS picket
COPY --from=build /programs/picket /usr/local/bin/
ENTRYPOINT ["picket"]

FROM base AS process
ENV PICKET_LISTEN=0.0.0.0:9100
EXPOSE 9100

FROM process AS coordinator
COPY --from=build /programs/picket-coordinator /usr/local/bin/
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["picket-coordinator", "--healthcheck"]
ENTRYPOINT ["picket-coordinator"]

FROM process AS sink
COPY --from=build /programs/picket-sink /usr/local/bin/
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["picket-sink", "--healthcheck"]
ENTRYPOINT ["picket-sink"]

FROM process AS notifier
COPY --from=build /programs/picket-notifier /usr/local/bin/
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["picket-notifier", "--healthcheck"]
ENTRYPOINT ["picket-notifier"]

FROM process AS api
COPY --from=build /programs/picket-api /usr/local/bin/
ENV PICKET_API_LISTEN=0.0.0.0:8088
EXPOSE 8088
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["picket-api", "--healthcheck"]
ENTRYPOINT ["picket-api"]

FROM process AS prober
COPY --from=build /programs/picket-prober /usr/local/bin/
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s CMD ["picket-prober", "--healthcheck"]
ENTRYPOINT ["picket-prober"]
