set dotenv-load
set export
set positional-arguments

# Where the pinned nats-server, Postgres and just are
PICKET_TOOLS_DIR := env("PICKET_TOOLS_DIR", justfile_directory() / ".tools")
# Where cargo builds to
CARGO_TARGET_DIR := env("CARGO_TARGET_DIR", justfile_directory() / "target")

# The older build of `e2e-upgrade`: the last release, or the first commit with the present files of store/migrations
UPGRADE_FROM := "f80020d"

# What there is to do
_default:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} --list --unsorted

# All of it, here: NATS, Postgres, every process; Ctrl-C stops all (flags: `just up --help`)
up *flags: tools _picket
    @exec "$CARGO_TARGET_DIR/release/picket" up --tools-dir "$PICKET_TOOLS_DIR" "$@"

# Stops what `just up` runs, from another terminal
down *flags:
    @exec "$CARGO_TARGET_DIR/release/picket" down "$@"

# The same as `up`, with a misbehaving target and a dozen sites on it
demo *flags: tools _picket
    @exec "$CARGO_TARGET_DIR/release/picket" demo --tools-dir "$PICKET_TOOLS_DIR" "$@"

# A shell on the local database (arguments: psql's)
psql *args: tools
    #!/bin/sh
    set -eu
    PGSERVICEFILE=${PICKET_DATA_DIR:-.picket}/pg_service.conf
    [ -r "$PGSERVICEFILE" ] || { echo "there is no $PGSERVICEFILE: 'just up' writes it; is it running?" >&2; exit 3; }
    export PGSERVICEFILE
    exec "$PICKET_TOOLS_DIR/postgres/bin/psql" service=picket "$@"

# All tests, against a real nats-server and a real Postgres, which they start themselves
test *flags: tools
    #!/bin/sh
    set -eu
    PATH=$(tools/install-debian "$PICKET_TOOLS_DIR"):$PATH
    cargo build --workspace --bins
    exec cargo test --workspace "$@"

# The system from outside: every fault of the matrix on real processes, and the table of what came of it
e2e *flags: tools
    #!/bin/sh
    set -eu
    cargo build --workspace --bins
    cargo run --quiet --package picket-e2e --bin drills -- --forget
    failed=0
    cargo test --package picket-e2e "$@" -- --include-ignored || failed=$?
    cargo run --quiet --package picket-e2e --bin drills
    exit $failed

# The web UI in a browser: instruments, every page in each context, journeys; screenshots in target/web (arguments: pytest's)
[no-exit-message]
web *flags: tools
    #!/bin/sh
    set -eu
    cargo build --workspace --bins
    packages=$(tools/install-packages "$PICKET_TOOLS_DIR" web tests/web/requirements.txt)
    provider=$(tools/install-packages "$PICKET_TOOLS_DIR" provider tests/web/provider-requirements.txt)
    export PICKET_PROVIDER_PACKAGES="$provider"
    PYTHONPATH=$packages PYTHONDONTWRITEBYTECODE=1 exec python3 tests/web/run.py "$@"

# Generated requests to a running picket-api, compared with its OpenAPI document, two minutes: `just fuzz-api --seed random`
fuzz-api *flags: tools
    #!/bin/sh
    set -eu
    cargo build --workspace --bins
    packages=$(tools/install-packages "$PICKET_TOOLS_DIR" fuzz tests/web/fuzz-requirements.txt)
    PYTHONPATH=$packages PYTHONDONTWRITEBYTECODE=1 exec python3 tests/web/fuzz_api.py "$@"

# From an older build to this one and back, process by process: builds that revision first (minutes), then a drill
e2e-upgrade revision=UPGRADE_FROM *flags: tools
    #!/bin/sh
    set -eu
    revision=$1; shift
    commit=$(git rev-parse --quiet --verify --short=12 "$revision^{commit}") ||
        { echo "there is no revision '$revision' here (is this a shallow clone, or no git at all?): NOT TESTED" >&2; exit 3; }
    old=$CARGO_TARGET_DIR/upgrade/$commit
    if [ ! -e "$old/bin/done" ]; then
        mkdir -p "$old/source" "$old/bin"
        git archive "$commit" | tar -x -C "$old/source"
        CARGO_TARGET_DIR=$old/target cargo build --manifest-path "$old/source/Cargo.toml" --locked --bins \
            --package picket --package picket-coordinator --package picket-prober --package picket-sink
        for program in picket picket-coordinator picket-prober picket-sink; do
            cp "$old/target/debug/$program" "$old/bin/$program"
        done
        rm -rf "$old/target" "$old/source"
        touch "$old/bin/done"
    fi
    cargo build --workspace --bins
    PICKET_OLD_BIN_DIR=$old/bin cargo test --package picket-e2e --test faults "$@" -- f19c f19e --include-ignored --nocapture

# Random faults at random times on the whole system, the same again for the same seed: `just chaos --minutes 20 --seed 7`
chaos *flags: tools
    cargo build --workspace --bins
    cargo run --quiet --package picket-e2e --bin chaos -- "$@"

# The same targets checked by Debian's prometheus-blackbox-exporter and by Picket: verdicts and times, two minutes
differential *flags: tools
    #!/bin/sh
    set -eu
    PATH=$(tools/install-debian "$PICKET_TOOLS_DIR"):$PATH
    cargo build --workspace --bins
    exec "$CARGO_TARGET_DIR/debug/differential" "$@"

# What everything costs, beside the least that could do the same and beside others: ten minutes; target/bench/bench.md and .json
bench *flags: tools
    #!/bin/sh
    set -eu
    PATH=$(tools/install-debian "$PICKET_TOOLS_DIR"):$PATH
    # As it is deployed: see tools/dist.
    host=$(rustc --version --verbose | sed -n 's/^host: //p')
    cargo build --locked --profile dist --target "$host" --workspace --bins
    python=$CARGO_TARGET_DIR/bench/python
    if [ ! -e "$python/complete" ]; then
        python3 -m venv "$python" && "$python/bin/python" -m pip install --quiet --only-binary :all: --no-deps \
            --requirement tests/bench/python/requirements.txt && : >"$python/complete" ||
            echo "the checker in Python could not be installed (above is why), and is left out" >&2
    fi
    export PICKET_BENCH_PYTHON="$python/bin/python"
    exec "$CARGO_TARGET_DIR/$host/dist/picket-bench" all --out "$CARGO_TARGET_DIR/bench" "$@"

# Pages and lists at 1,000 and at 100,000 sites, live results to 1,000 viewers, and the chain with ten: five minutes, 2 GB of disk
bench-web *flags: tools
    #!/bin/sh
    set -eu
    host=$(rustc --version --verbose | sed -n 's/^host: //p')
    cargo build --locked --profile dist --target "$host" --workspace --bins
    for part in web live viewed-chain; do
        "$CARGO_TARGET_DIR/$host/dist/picket-bench" "$part" "$@"
    done

# The prober's check beside a bare reqwest loop: CPU and memory, under two minutes (flags: see --help)
bench-prober *flags:
    cargo build --release --package picket-bench
    @"$CARGO_TARGET_DIR/release/picket-bench" prober "$@"

# What reports take on 5,000 sites and 85 days: ten minutes, 8 GB of disk for that time (flags: see --help)
bench-reports *flags: tools
    cargo build --release --package picket-bench
    @"$CARGO_TARGET_DIR/release/picket-bench" reports "$@"

# What CI asks of a change, without tests
lint: && _arrows _rules
    tools/check-msrv
    tools/check-links
    tools/check-imports
    tools/check-terms
    tools/format-docs "$PICKET_TOOLS_DIR" --check
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- --deny warnings
    cargo clippy --package picket --no-default-features -- --deny warnings
    RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items

# Formats code and documents, and applies what clippy can correct by itself
fix:
    cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
    cargo fmt --all
    tools/format-docs "$PICKET_TOOLS_DIR"

# Writes the generated parts of docs/reference (commands, options, variables, metrics), proto/schema and api/openapi.json
generate:
    cargo run --quiet --package picket -- reference --dir docs/reference
    PICKET_UPDATE_SCHEMAS=1 cargo test --quiet --package picket-proto --test schemas the_schema_files
    PICKET_UPDATE_OPENAPI=1 cargo test --quiet --package picket-api --test it the_committed_document
    tools/format-docs "$PICKET_TOOLS_DIR"

# Draws the terminal session of the README: runs `picket demo` and a few commands (minutes)
record-session: tools _picket
    #!/bin/sh
    set -eu
    packages=$PICKET_TOOLS_DIR/session
    python3 -m pip install --quiet --require-hashes --no-deps --upgrade --target "$packages" --requirement tools/session-requirements.txt
    PYTHONPATH=$packages python3 tools/record-session "$CARGO_TARGET_DIR/release/picket"

# Takes the screenshots of the README: `picket demo`, sites, a failure, a browser (minutes)
record-screens: tools
    #!/bin/sh
    set -eu
    cargo build --workspace --bins
    packages=$(tools/install-packages "$PICKET_TOOLS_DIR" web tests/web/requirements.txt)
    PYTHONPATH=$packages:tests/web PYTHONDONTWRITEBYTECODE=1 exec python3 tests/web/record_screens.py

# Builds everything with the oldest Rust that Cargo.toml promises, which rustup must have
msrv:
    #!/bin/sh
    set -eu
    tools/check-msrv
    version=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    # A directory of its own, so that the artifacts of the usual toolchain stay valid.
    CARGO_TARGET_DIR=$CARGO_TARGET_DIR/msrv exec rustup run "$version" cargo check --workspace --all-targets --locked

# Advisories, licences, bans and sources of all dependencies (deny.toml); needs the network, and `just deny-install`
deny:
    cargo deny --locked check

# Installs the pinned cargo-deny by cargo (minutes)
deny-install:
    cargo install --locked --version 0.20.2 cargo-deny

# What is deployed: dist/picket-VERSION-TARGET.tar.gz, and the prober alone in another (minutes; `just dist TARGET` for another target)
dist *target:
    @tools/dist "$CARGO_TARGET_DIR" "$@"

# deploy/, workflows and scripts by public linters: pinned ones from PyPI in .tools/lint; kubectl, promtool and systemd-analyze where they are there
lint-deploy:
    @tools/lint-deploy "$PICKET_TOOLS_DIR"

# Installs the pinned nats-server, Postgres and just into .tools/
tools:
    @tools/install "$PICKET_TOOLS_DIR"

_picket:
    cargo build --release --package picket --bins

# The law of the crates: a prober cannot reach a database, messages need no runtime, and the operator's command alone links no
# service
_arrows:
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} _without picket-prober sqlx
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} _without picket-proto tokio
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} _without picket picket-coordinator --no-default-features
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} _without picket picket-prober --no-default-features
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} _without picket picket-sink --no-default-features
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} _without picket picket-notifier --no-default-features
    @{{ quote(just_executable()) }} --justfile {{ quote(justfile()) }} _without picket picket-servers --no-default-features

# deny.toml without the advisories, which need the network; cargo-deny takes minutes to build and is not required here
_rules:
    #!/bin/sh
    set -eu
    if cargo deny --version >/dev/null 2>&1; then
        exec cargo deny --locked check bans licenses sources
    fi
    echo "skipped  licences, bans and sources of dependencies: there is no cargo-deny here (just deny-install)"

_without package dependency *flags:
    #!/bin/sh
    set -eu
    package=$1 dependency=$2; shift 2
    tree=$(cargo tree --package "$package" --edges normal --prefix none "$@")
    if printf '%s\n' "$tree" | grep -q "^$dependency[ -]"; then
        echo "$package must not depend on $dependency: cargo tree --package $package --edges normal $* --invert $dependency" >&2
        exit 1
    fi
