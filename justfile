# One word per need; `just --list` names them. Each is an ordinary command that can be typed without just.

# What the gate runs, without the real clients
test:
    .ci/run format lint tests features docs

# Everything the gate runs
ci:
    .ci/run

# Real clients against our servers, all lines of .ci/interop-claims or those named
interop *names:
    cargo build --release --workspace --bins
    .ci/interop {{names}}

# kill -9 under load, again and again
crash rounds="20":
    .ci/run release
    .ci/crash {{rounds}}

# A store to the original and back, with the same answers everywhere
give-back:
    .ci/run release
    tests/interop/give-back/run

# Licences and duplicates as cargo-deny sees them (tests/dependencies.rs checks the same lists without it)
deny:
    cargo deny check bans licenses sources

# Figures beside the original; see benches/RESULTS.md
bench *loads:
    benches/beside-apache {{loads}}
