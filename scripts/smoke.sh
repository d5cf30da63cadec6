#!/bin/sh
# What a newcomer does: `make run` at a terminal, a look at an export by the
# printed command, Ctrl-C. It must say ready, answer, and end with status 0.
set -eu

work=$(mktemp -d)
log=$work/log
mkfifo "$work/keys"
# script gives make a terminal and hands its exit status (-e) and ours keys on.
script -qefc 'make run' "$log" <"$work/keys" >/dev/null &
terminal=$!
exec 3>"$work/keys"
trap 'exec 3>&-; kill "$terminal" 2>/dev/null || true; rm -rf "$work"' EXIT

fail() {
	cat "$log"
	echo "smoke: $1" >&2
	exit 1
}

waited=0
until grep -q '^ready' "$log" 2>/dev/null; do
	kill -0 "$terminal" 2>/dev/null || fail "make run ended before it was ready"
	[ "$waited" -lt 120 ] || fail "make run is not ready after $waited seconds"
	sleep 1
	waited=$((waited + 1))
done

# Each export prints a command as a user would type it, quotes included.
tr -d '\r' <"$log" | grep '^ *nbdinfo ' >"$work/commands" || fail "no export prints an nbdinfo command"
while read -r command; do
	echo "smoke: $command"
	sh -c "$command" </dev/null >"$work/out" 2>&1 || fail "that failed: $(cat "$work/out")"
done <"$work/commands"

printf '\003' >&3
status=0
wait "$terminal" || status=$?
[ "$status" = 0 ] || fail "after Ctrl-C make run ended with status $status"
echo "smoke: ready after ${waited}s, $(wc -l <"$work/commands") exports answered, ended with 0"
