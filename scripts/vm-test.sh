#!/bin/sh
# Tests with real virtual machines: builds the small guest that they boot, out of
# Debian's kernel and this machine's programs, and runs them. Takes minutes,
# needs no KVM and no root. An argument is a -run pattern of go test.
set -eu
cd "$(dirname "$0")/.."
PATH="$PATH:/usr/local/go/bin:/usr/local/sbin:/usr/sbin:/sbin"
# A checkout without its version control, or with another user's, builds too.
GOFLAGS="${GOFLAGS:-} -buildvcs=false"
export PATH GOFLAGS VM=1

# part NAME COMMAND... runs a part and says how long it took.
part() {
	name=$1
	shift
	began=$(date +%s)
	"$@" || {
		status=$?
		echo "vm-test: $name failed after $(($(date +%s) - began))s" >&2
		exit "$status"
	}
	echo "vm-test: $name took $(($(date +%s) - began))s"
}

part "finding programs" scripts/install-deps.sh
# Bounded by itself; with the image there, a test's limit is its own.
part "guest image" go run ./internal/vmtest/guestimage
# One package at a time: a guest wants the whole of a small machine.
part "guests on a peer" go test -v -count=1 -p 1 -timeout 30m -run "${1:-.}" ./internal/vmtest/...
part "guests on the engine" go test -v -count=1 -timeout 30m -run "${1:-TestVM}" ./internal/e2e
part "plugins' sandbox" go test -v -count=1 -timeout 10m -run "${1:-TestVM}" ./engine/pluginhost/sandbox
part "devices of this host" go test -v -count=1 -timeout 15m -run "${1:-TestVM}" ./frontends/ublk
