# Needs Go, make and a shell; what else tests and benchmark use is found or
# installed by install-deps. See CONTRIBUTING.md.

GO       ?= go
FUZZTIME ?= 10s
CONFIG   ?= engine.toml
BENCH    ?=

# A checkout without its version control, or with another user's, builds too.
export GOFLAGS := $(strip $(GOFLAGS) -buildvcs=false)
# Some programs that tests run live where an ordinary user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin
export GO FUZZTIME

WASM_MAINS := $(wildcard plugins/*/wasm)
PROCESS_MAINS := $(wildcard plugins/*/process)
WASM_ENV   := GOOS=wasip1 GOARCH=wasm

.PHONY: help run build engine plugins test check race fuzz bench install-deps clean
.DEFAULT_GOAL := help

help: ## show the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-14s%s\n' "$$name" "$$text"; done

run: build ## build everything and serve CONFIG (engine.toml) until Ctrl-C
	@scripts/run.sh build/engine run -c $(CONFIG)

build: engine plugins ## build/engine, and build/plugins

# The go tool knows better than make what is up to date, so it is always asked.
engine:
	@mkdir -p build
	$(GO) build -o build/engine ./engine

plugins: $(WASM_MAINS:plugins/%/wasm=build/plugins/%.wasm) $(PROCESS_MAINS:plugins/%/process=build/plugins/%) ## build the plugins: WebAssembly (NAME.wasm) and programs (NAME)

build/plugins/%.wasm: force
	@mkdir -p $(@D)
	$(WASM_ENV) $(GO) build -buildmode=c-shared -trimpath -ldflags="-s -w" -o $@ ./plugins/$*/wasm

build/plugins/%: force
	@mkdir -p $(@D)
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags="-s -w" -o $@ ./plugins/$*/process

.PHONY: force
force:

# The end-to-end tests build the engine by themselves, so the go tool does not
# see that their result is stale when only the engine has changed.
E2E := ./internal/e2e
E2E_TIME := 30m
# Run under the race detector, too: each way through the engine with much at
# once. The packages' own tests are there for the rest; E2E_RACED=. runs all.
E2E_RACED := TestConnectionsCutUnderLoad|TestGarbage|TestThousandsOfConnections|TestModelUnderFaults|TestModelUnderUpgrades|TestFlushUnderUpgradesAndCrashes|TestUpgradeAmongWrites|TestUpgradeBetweenRuntimes|TestKillDuringUpgrade|TestShadowUnderLoad|TestShadowOfAProgramUnderLoad|TestStoreProcessKilled|TestProtocolProcessKilled|TestHostileProcesses|TestVhostRestart|TestVhostUpgradeUnderLoad|TestVhostHostileMachines
NOT_E2E := /internal/e2e$$

test: install-deps ## all tests
	$(GO) test $$($(GO) list ./... | grep -v '$(NOT_E2E)')
	$(GO) test -count=1 -timeout $(E2E_TIME) $(E2E)

# What runs as a process of the host is no guest's code.
PROCESSES := /process(/|$$)

check: ## formatting, vet and staticcheck, of the guests' code too
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then \
		echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(WASM_ENV) $(GO) vet $$($(GO) list ./sdk/... ./plugins/... | grep -vE '$(PROCESSES)')
	$(GO) tool staticcheck ./...

# Left out: tests of one goroutine that only read source or rewrite modules.
RACE_EXCEPT := /internal/archtest$$|/pluginhost/wasm/meter$$

# wazero's compiler is one goroutine's work and takes five times as long with the
# detector in it, so the packages that do nothing else are left without. Not those
# that synchronize: generic code that is built both ways is linked only once, and
# where that is without, the detector sees races that there are not. And a program
# that the detector is in sleeps for a second at its end if nobody says less.
COMPILER := github.com/tetratelabs/wazero/internal/engine/wazevo
race: export GOFLAGS := $(GOFLAGS) -gcflags=$(COMPILER)/ssa=-race=false -gcflags=$(COMPILER)/backend/...=-race=false
race: export GORACE := atexit_sleep_ms=20 $(GORACE)
race: ## tests under the race detector, the engine under test included
	$(GO) test -race -p 2 $$($(GO) list ./... | grep -vE '$(RACE_EXCEPT)|$(NOT_E2E)')
	E2E_RACE=1 $(GO) test -race -count=1 -timeout $(E2E_TIME) -run '$(E2E_RACED)' $(E2E)

fuzz: ## every fuzz target for FUZZTIME (10s) each
	@scripts/fuzz.sh

bench: build install-deps ## engine and peers, side by side; BENCH="-quick -run memory" passes flags
	$(GO) build -o build/bench ./bench
	$(GO) build -o build/nullstore ./bench/nullstore
	build/bench $(BENCH)

install-deps: ## find or install the programs that tests and benchmark use
	@scripts/install-deps.sh

clean: ## remove what was built
	rm -rf build
