# The one entry: `make help` lists what there is. What is expensive to build lies in $MQ_CACHE by version, outside the work tree.
MQ_CACHE ?= $(HOME)/.cache/mq
export MQ_CACHE
# One per checkout: in a shared one, cargo takes the crates of one checkout for those of another. hack/tools.sh fills a new one
# with the dependencies that another checkout has compiled already.
export CARGO_TARGET_DIR ?= $(MQ_CACHE)/targets/$(shell pwd | sha256sum | cut -c1-12)
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL: # cargo, go and the servers each take all cores anyway
MAKEFLAGS += --no-print-directory --no-builtin-rules

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST) | sort

include testkit/servers.mk
include testkit/images.mk

# The launcher ends with make, and its servers with it.
with_servers := setpriv --pdeathsig TERM $(MQ_CLUSTER) run
image_flags = $(addprefix --image ,$(IMAGE_FILES))

.PHONY: rust
rust:
	@hack/tools.sh rust

.PHONY: demo
demo: rust node servers images ## two minutes of everything on a local node; root. KEEP=1 leaves it running
	@$(with_servers) --node $(image_flags) $(if $(KEEP),--keep) -- $(CARGO_TARGET_DIR)/debug/mq-demo run

.PHONY: demo-down
demo-down: ## end a demo that was left running, and clean what a crashed run left
	@! test -e $(MQ_CACHE)/servers/mq-cluster || $(MQ_CACHE)/servers/mq-cluster down

.PHONY: test
test: test-unit test-integration test-brokers test-node test-e2e-short ## all tests but the long ones; the last part needs root

.PHONY: test-unit
test-unit: rust ## tests inside the crates
	@echo "mq: building all crates and tests (about 10 minutes the first time)"
	@cargo test --workspace --locked --no-run < /dev/null
	@echo "mq: unit tests"
	@cargo test --workspace --locked --exclude mq-tests < /dev/null

.PHONY: test-integration
test-integration: rust java servers ## tests against a real API server and a real Kafka; no root. TEST=name runs one
	@cargo test --workspace --locked --test integration --no-run < /dev/null
	@cargo build --workspace --locked --examples < /dev/null
	@echo "mq: integration tests"
	@$(with_servers) --control-plane --kafka -- hack/suite.sh integration $(TEST)

.PHONY: test-brokers
test-brokers: rust servers ## tests in which three brokers die, hang and are cut off; no root. TEST=name runs one
	@cargo test --workspace --locked --test brokers --no-run < /dev/null
	@echo "mq: tests with three brokers that fail"
	@$(with_servers) --kafka-cluster -- hack/suite.sh brokers $(TEST)

.PHONY: java
java:
	@hack/tools.sh java

.PHONY: node
node:
	@hack/tools.sh node

.PHONY: test-node
test-node: node servers
	@echo "mq: does a node leave anything behind?"
	@cd testkit/cluster && MQ_CLUSTER=$(MQ_CLUSTER) go test -count 1 ./mq-cluster

.PHONY: test-e2e-short
test-e2e-short: rust node servers images
	@cargo test --workspace --locked --test e2e --no-run < /dev/null
	@echo "mq: end-to-end tests with real pods"
	@$(with_servers) --node $(image_flags) -- hack/suite.sh e2e

.PHONY: test-e2e
test-e2e: rust java node servers images $(JAVA_IMAGE) ## all end-to-end tests with real pods, and all long tests; root. TEST=name runs one with pods
	@cargo test --workspace --locked --test e2e --test integration --test brokers --no-run < /dev/null
	@$(with_servers) --node $(image_flags) --image $(JAVA_IMAGE) -- hack/suite.sh e2e --include-ignored $(TEST)
	@$(if $(TEST),,$(with_servers) --control-plane --kafka -- hack/suite.sh integration --ignored)
	@$(if $(TEST),,$(with_servers) --kafka-cluster -- hack/suite.sh brokers --ignored)

.PHONY: soak
soak: rust java node servers images $(JAVA_IMAGE) ## the long tests again and again, each of the kills 200 times: MINUTES=60; root
	@cargo test --workspace --locked --test e2e --test integration --test brokers --no-run < /dev/null
	@$(with_servers) --node --control-plane --kafka --kafka-cluster $(image_flags) --image $(JAVA_IMAGE) -- bash -euo pipefail -c 'end=$$(($$(date +%s) + $(or $(MINUTES),60) * 60)); n=0; \
		while [ $$(date +%s) -lt $$end ]; do n=$$((n + 1)); echo "mq: soak, round $$n"; hack/suite.sh e2e --ignored; MQ_FAULTS=200 hack/suite.sh integration --ignored; hack/suite.sh brokers --ignored; done'

PEER_FILES := benches/peers/pom.xml
PEERS := $(MQ_CACHE)/peers-$(call hash,$(PEER_FILES))
$(PEERS):
	@hack/tools.sh java
	@echo "mq: fetching what the measurements are compared with"
	@rm -rf $@.new && mvn -q -B -f benches/peers/pom.xml dependency:copy-dependencies -DincludeScope=runtime -DoutputDirectory=$@.new < /dev/null
	@mv $@.new $@

KEDA_FILES := $(wildcard benches/peers/keda/*)
KEDA := $(MQ_CACHE)/keda-$(call hash,$(KEDA_FILES))/keda
$(KEDA):
	@hack/tools.sh go
	@echo "mq: building KEDA's scalers from their Go module, about 15 minutes on two cores"
	@mkdir -p $(@D) && cd benches/peers/keda && $(go_build) -ldflags "-s -w" -o $@ .

.PHONY: bench
bench: rust servers $(PEERS) $(if $(filter-out agent scaling,$(or $(BENCH),all)),$(KEDA)) ## measure beside floors and peers, write target/bench/ and docs/benchmarks.md: BENCH=agent, collector or scaling
	@echo "mq: building the measurements, optimised (about 10 minutes the first time)"
	@cargo build --release --locked -p mq-benches < /dev/null
	@$(with_servers) --kafka -- bash -euo pipefail -c '$(CARGO_TARGET_DIR)/release/mq-bench --sources benches/peers --jars $(PEERS) \
		--kafka-jars $(KAFKA)/lib --keda $(KEDA) $(BENCH) \
		$(if $(filter agent all,$(or $(BENCH),all)),&& $(CARGO_TARGET_DIR)/release/mq-bench-mimalloc)'

# What libFuzzer finds out about a target it keeps in the cache. Input that breaks one it writes into the corpus, where the unit tests
# read it from then on.
.PHONY: fuzz
fuzz: rust ## look for input that the decoders do not expect: SECONDS=60 for each target; and the property tests with CASES=20000
	@RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/fuzz/rustc.sh cargo build --locked -p mq-fuzz < /dev/null
	@for target in $(notdir $(wildcard fuzz/corpus/*)); do \
		found=$(MQ_CACHE)/fuzz/$$target; mkdir -p $$found; echo "mq: fuzzing $$target"; \
		$(CARGO_TARGET_DIR)/debug/fuzz-$${target//_/-} -max_total_time=$(or $(SECONDS),60) -max_len=8192 -timeout=10 -rss_limit_mb=1024 \
			-artifact_prefix=fuzz/corpus/$$target/ $$found fuzz/corpus/$$target > $$found.log 2>&1 || { tail -n 40 $$found.log; exit 1; }; \
		grep DONE $$found.log; \
	done
	@PROPTEST_CASES=$(or $(CASES),20000) cargo test --locked -p mq-core -p mq-simulation -p mq-kafka -p mq-protocol -p mq-agent --lib < /dev/null

CARGO_DENY_VERSION := 0.20.2
CARGO_DENY := $(MQ_CACHE)/cargo-deny-$(CARGO_DENY_VERSION)/bin/cargo-deny
$(CARGO_DENY): | rust
	@echo "mq: building cargo-deny $(CARGO_DENY_VERSION), about 5 minutes"
	@CARGO_TARGET_DIR=$(MQ_CACHE)/cargo-deny-build cargo install --quiet --locked --root $(MQ_CACHE)/cargo-deny-$(CARGO_DENY_VERSION) \
		cargo-deny@$(CARGO_DENY_VERSION) < /dev/null
	@rm -rf $(MQ_CACHE)/cargo-deny-build

.PHONY: lint
lint: rust $(CARGO_DENY) ## formatting, lints, each crate alone, licences and sources, the launcher's Go
	@hack/tools.sh go
	cargo fmt --all --check
	test -z "$$(gofmt -l testkit | tee /dev/stderr)"
	cd testkit/cluster && go vet ./mq-cluster
	$(CARGO_DENY) --workspace --locked check --hide-inclusion-graph bans licenses sources
	cargo clippy --workspace --all-targets --locked -- -D warnings
	hack/crates-alone.sh
	hack/outside.sh
	hack/source-map.sh
	diff -r --exclude=Cargo.toml --exclude=src crds charts/mq-operator/files/crds

SEMVER_CHECKS_VERSION := 0.51.0
SEMVER_CHECKS := $(MQ_CACHE)/cargo-semver-checks-$(SEMVER_CHECKS_VERSION)/bin/cargo-semver-checks
$(SEMVER_CHECKS): | rust
	@echo "mq: building cargo-semver-checks $(SEMVER_CHECKS_VERSION), about 10 minutes"
	@CARGO_TARGET_DIR=$(MQ_CACHE)/cargo-semver-checks-build cargo install --quiet --locked \
		--root $(MQ_CACHE)/cargo-semver-checks-$(SEMVER_CHECKS_VERSION) cargo-semver-checks@$(SEMVER_CHECKS_VERSION) < /dev/null
	@rm -rf $(MQ_CACHE)/cargo-semver-checks-build

.PHONY: semver
semver: ## what changed in the public API of mq-agent and mq-protocol since the last v* tag, and whether the version says so
	@tag=$$(git describe --tags --abbrev=0 --match 'v[0-9]*' 2> /dev/null || true); \
	if [ -z "$$tag" ]; then echo "mq: there is no tag v* yet, so there is no release that the public API could break"; \
	else $(MAKE) semver-since TAG="$$tag"; fi

.PHONY: semver-since
semver-since: rust $(SEMVER_CHECKS)
	@$(SEMVER_CHECKS) semver-checks --package mq-agent --package mq-protocol --all-features --baseline-rev $(TAG) < /dev/null

.PHONY: crds
crds: rust ## write crds/*.yaml, their copy in the chart, and docs/reference/ from the Rust types
	@cargo run --quiet --locked -p mq-crds -- . < /dev/null
	@rm -f charts/mq-operator/files/crds/*.yaml && cp crds/*.yaml charts/mq-operator/files/crds/
