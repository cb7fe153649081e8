# The image of every role: `serve`, `coordinator` and `counter` are commands of one program.
# Both bases are of the same Debian release, so that the program finds the C library that it was linked with.

# The manifests alone, over empty sources: they change less often than the sources.
FROM rust:1.95.0-slim-bookworm AS manifests
WORKDIR /build
COPY Cargo.toml Cargo.lock ./
COPY xtask/Cargo.toml xtask/Cargo.toml
COPY crates crates
RUN find crates -type f ! -name Cargo.toml -delete \
    && for crate in . xtask crates/*; do mkdir -p "$crate/src" && touch "$crate/src/lib.rs"; done \
    && echo 'fn main() {}' >src/main.rs \
    && echo 'fn main() {}' >xtask/src/main.rs


FROM rust:1.95.0-slim-bookworm AS build
WORKDIR /build

# The dependencies: this layer is made again only when a manifest changes.
COPY --from=manifests /build ./
RUN cargo build --locked --profile dist --package headcount

# Sources may be older than that build: Cargo would take them for built.
COPY crates crates
COPY src src
RUN find crates src -name '*.rs' -exec touch {} + \
    && cargo build --locked --profile dist --package headcount --bin headcount


FROM debian:12.12-slim

# A named volume takes over the owner of the folder that it is mounted on.
RUN groupadd --system --gid 10001 headcount \
    && useradd --system --uid 10001 --gid 10001 --no-create-home --shell /usr/sbin/nologin headcount \
    && install --directory --owner headcount --group headcount --mode 0700 /data /run/headcount

# For brokers behind TLS: the authorities that signed their certificates.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/dist/headcount /usr/local/bin/headcount

ENV HEADCOUNT_LISTEN=0.0.0.0:3000 \
    HEADCOUNT_DATA_DIR=/data
USER 10001:10001
WORKDIR /data
EXPOSE 3000

# It lives: whether it is ready is a question for who sends it work, and no reason to start it again.
# It is asked where HEADCOUNT_LISTEN says; where a flag says something else, set HEADCOUNT_URL.
HEALTHCHECK --interval=10s --timeout=6s --start-period=30s --retries=3 \
    CMD ["headcount", "health"]

# It ends by itself on SIGTERM; give it the time that draining and closing the store may take.
STOPSIGNAL SIGTERM
ENTRYPOINT ["headcount"]
CMD ["serve"]
