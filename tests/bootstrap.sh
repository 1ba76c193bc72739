#!/usr/bin/env bash
# Installs what a Debian or Ubuntu machine lacks: `bootstrap.sh build` for building and running,
# `bootstrap.sh test` for the tests besides. Says what it does; does nothing when nothing is missing.
set -euo pipefail

# What `sovereign image build` takes from the machine, and a C linker for Rust's build scripts.
build_packages=(gcc libc6-dev make flex bison bc libelf-dev libssl-dev erofs-utils mmdebstrap debian-archive-keyring xz-utils)
# What the KVM lab, the benches, the Python tests and those of terminals and shells take.
test_packages=(qemu-system-x86 e2fsprogs util-linux python3-pytest tmux vim-tiny less procps zsh fish)

say() { printf '%s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        say "+ sudo $*"
        sudo "$@"
    else
        say "This needs root and there is no sudo. As root, run: $*"
        exit 1
    fi
}

install_packages() {
    local missing=() package
    if ! command -v dpkg-query >/dev/null; then
        say "No dpkg here: please see to it yourself that there is: $*"
        return
    fi
    for package in "$@"; do
        if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" != installed ]; then
            missing+=("$package")
        fi
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    say "Installing Debian packages: ${missing[*]}"
    if ! apt-cache show "${missing[@]}" >/dev/null 2>&1; then
        as_root apt-get update -q
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
}

# rust-toolchain.toml names channel, components and targets; rustup installs what is missing of them
# by itself, except where it was told not to.
install_rust() {
    if ! command -v cargo >/dev/null; then
        say "Rust is not installed. See https://rustup.rs, or: sudo apt-get install rustup && rustup default stable"
        exit 1
    fi
    if command -v rustup >/dev/null && ! rustup target list --installed | grep -q '^x86_64-unknown-linux-musl$'; then
        say "Installing the Rust target x86_64-unknown-linux-musl"
        rustup target add x86_64-unknown-linux-musl
    fi
}

# The engines that the tests with containers start for themselves (some 500 MB with what they pull in). Only
# root can start one, so nobody else needs them; and one that is here, from wherever, stays as it is.
install_engines() {
    [ "$(id -u)" -eq 0 ] || return 0
    local packages=(uidmap iproute2)
    command -v dockerd >/dev/null || packages+=(docker.io)
    command -v podman >/dev/null || packages+=(podman)
    install_packages "${packages[@]}"
}

install_cargo_deny() {
    if ! cargo deny --version >/dev/null 2>&1; then
        say "Installing cargo-deny (some minutes, once)"
        # It reads some files: what an optimized build takes longer, it never wins back.
        CARGO_TARGET_DIR="${XDG_CACHE_HOME:-$HOME/.cache}/sovereign/cargo-deny" \
            CARGO_PROFILE_RELEASE_OPT_LEVEL=1 CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16 \
            cargo install -q --locked cargo-deny ||
            say "cargo-deny could not be installed: the licence check will be skipped"
    fi
}

case "${1:-}" in
build)
    install_packages "${build_packages[@]}"
    install_rust
    ;;
test)
    install_packages "${test_packages[@]}"
    install_engines
    install_cargo_deny
    ;;
*)
    say "usage: bootstrap.sh build|test"
    exit 2
    ;;
esac
