# The one entry: `make help` lists what there is. What is expensive to build lies in $MQ_CACHE by version, outside the work tree.
MQ_CACHE ?= $(HOME)/.cache/mq
export CARGO_TARGET_DIR := $(MQ_CACHE)/target
export CARGO_TERM_COLOR ?= auto
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-print-directory --no-builtin-rules

include testkit/servers.mk

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST) | sort
