# Sovereign's doors for people and CI. `make help` lists them.
#
# Everything that ships is one static musl binary a role. What is only for developing (the lab, the
# tests, the benches) is built by the profile `tool`.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

CARGO ?= cargo
PREFIX ?= /usr/local
TRIPLE := x86_64-unknown-linux-musl
TARGET_DIR := $(or $(CARGO_TARGET_DIR),target)
RELEASE := $(TARGET_DIR)/$(TRIPLE)/release
TOOL := $(TARGET_DIR)/$(TRIPLE)/tool

SHIPPED := -p sovereign -p vmm -p guest-agent --bins
TOOLS := -p sovereign-lab -p sovereign-tests -p sovereign-benches --bins

.PHONY: help run test conformance build tools image bench lab install uninstall clean bootstrap bootstrap-test

help: ## Show this
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 18

run: bootstrap build image ## Build everything and run a Python one-liner in the strongest sandbox there is
	@echo 'Without KVM and containers this one line may run on this machine itself: that is what SOVEREIGN_ALLOW_LOCAL=1 says.' >&2
	@echo "SOVEREIGN_ALLOW_LOCAL=1 $(RELEASE)/sovereign run -- python3 -c 'print(\"hello from a sandbox\")'" >&2
	@SOVEREIGN_ALLOW_LOCAL=1 $(RELEASE)/sovereign run -- python3 -c 'print("hello from a sandbox")' || { \
	    code=$$?; \
	    echo "No sandbox could run here; this is what the machine has:" >&2; \
	    $(RELEASE)/sovereign doctor >&2 || true; \
	    echo "\`make lab\` boots real sandboxes on any machine, emulated." >&2; \
	    exit $$code; }

test: bootstrap bootstrap-test tools ## Run everything that has to pass; what cannot run here is skipped by name
	@$(TOOL)/sovereign-gate $(GATE)

conformance: bootstrap bootstrap-test tools ## Run the conformance suite on every tier and record its results
	@$(TOOL)/sovereign-gate --only conformance --record $(GATE)

build: ## Build the three release binaries
	$(CARGO) build --release --target $(TRIPLE) $(SHIPPED)

tools: ## Build the lab, the tests and the benches
	$(CARGO) build --profile tool --target $(TRIPLE) $(TOOLS)

image: build ## Build the sandbox image (minutes the first time, seconds after)
	$(RELEASE)/sovereign image build

bench: bootstrap bootstrap-test build tools image ## Measure (FIRECRACKER=path: beside it; BENCH=tiers: only that)
	$(TOOL)/sovereign-bench $(BENCH)

lab: bootstrap bootstrap-test build tools ## Open a shell on a Linux host with a real /dev/kvm, anywhere
	$(TOOL)/sovereign-lab shell $(foreach name,sovereign sovereign-vmm sovereign-agent,-f $(RELEASE)/$(name)=/bin/$(name))

install: build ## Install to PREFIX (default /usr/local)
	install -D -m 0755 $(RELEASE)/sovereign $(DESTDIR)$(PREFIX)/bin/sovereign
	install -D -m 0755 -t $(DESTDIR)$(PREFIX)/libexec/sovereign $(RELEASE)/sovereign-vmm $(RELEASE)/sovereign-agent
	install -d $(DESTDIR)$(PREFIX)/share/man/man1 $(DESTDIR)$(PREFIX)/share/bash-completion/completions
	$(RELEASE)/sovereign man --output-dir $(DESTDIR)$(PREFIX)/share/man/man1
	$(RELEASE)/sovereign completions bash > $(DESTDIR)$(PREFIX)/share/bash-completion/completions/sovereign
	@echo 'Every user also needs an image, but for tier local: sovereign image build' >&2

uninstall: ## Remove what install put there
	rm -f $(DESTDIR)$(PREFIX)/bin/sovereign
	rm -f $(DESTDIR)$(PREFIX)/share/man/man1/sovereign.1 $(DESTDIR)$(PREFIX)/share/man/man1/sovereign-*.1
	rm -f $(DESTDIR)$(PREFIX)/share/bash-completion/completions/sovereign
	rm -rf $(DESTDIR)$(PREFIX)/libexec/sovereign

clean: ## Remove what was built here (images and caches stay: sovereign image prune)
	$(CARGO) clean

bootstrap:
	@tests/bootstrap.sh build

bootstrap-test:
	@tests/bootstrap.sh test
