#!/bin/sh
# Tests with real virtual machines: builds the small guests that they boot, out of
# Debian's kernels and this machine's programs, and runs them. Takes minutes,
# needs no KVM and no root. An argument is a -run pattern of go test.
#
# A guest leaves a core of two unused for half of its time, so the tests run in two
# lanes; what measures runs before, alone. The second lane's output comes at its end.
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

# tests PATTERN [FLAG...] PACKAGE... One package at a time: there is the other lane.
tests() {
	pattern=$1
	shift
	go test -v -count=1 -p 1 -timeout 30m -run "$pattern" "$@"
}

if [ "${1:-}" = --second-lane ]; then
	pattern=${2:-}
	part "guests on the engine" tests "${pattern:-TestVM}" ./internal/e2e
	part "plugins' sandbox and memory" tests "${pattern:-TestVM}" ./engine/pluginhost/sandbox ./engine/pluginhost/process
	part "devices, made by the frontend alone" tests "${pattern:-TestVM}" ./frontends/ublk
	[ -n "$pattern" ] || part "devices of a host with the newest kernel" tests TestNewestKernel ./internal/vmtest/hostdisk
	exit
fi

part "finding programs" scripts/install-deps.sh
# Bounded by itself; with the images there, a test's limit is its own.
part "guest images" go run ./internal/vmtest/guestimage
[ $# -gt 0 ] || part "figures" tests TestFigures ./internal/vmtest/hostdisk

log=$(mktemp)
# In a session of its own, so that it can be ended with all that it has started.
setsid scripts/vm-test.sh --second-lane "${1:-}" >"$log" 2>&1 &
second=$!
trap 'kill -- "-$second" 2>/dev/null || true; rm -f "$log"' EXIT
trap 'exit 130' INT TERM

first=0
(
	part "the kit, and guests on a peer" tests "${1:-.}" ./internal/vmtest ./internal/vmtest/agent ./internal/vmtest/guest ./internal/vmtest/scenario
	if [ $# -gt 0 ]; then
		part "devices of this host" tests "$1" ./internal/vmtest/hostdisk
	else
		part "devices of this host" tests . -skip '^(TestFigures|TestNewestKernel)$' ./internal/vmtest/hostdisk
	fi
) || first=$?
status=0
wait "$second" || status=$?
cat "$log"
[ "$first" = 0 ] || exit "$first"
exit "$status"
