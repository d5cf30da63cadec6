#!/bin/sh
# Runs every fuzz target of the project, one after the other, each for FUZZTIME
# (default 10s; whole seconds). FUZZTOTAL, in seconds, bounds them together: the
# time of each is shortened to fit, to not less than one second.
# Arguments: packages to look at (default ./...).
set -eu

GO=${GO:-go}
each=${FUZZTIME:-10s}
each=${each%s}
case $each in
'' | *[!0-9]*)
	echo "fuzz: FUZZTIME=$FUZZTIME is no whole number of seconds: write it as 10s" >&2
	exit 2
	;;
esac

# targets prints "package target" lines. Asking the go tool costs a build per
# package, so only those are asked that have the words in a test.
targets() {
	for dir in $("$GO" list -f '{{.Dir}}' "${@:-./...}"); do
		if ! grep -qs '^func Fuzz' "$dir"/*_test.go; then
			continue
		fi
		(cd "$dir" && "$GO" test -list '^Fuzz' .) >"$work/list" || {
			cat "$work/list"
			exit 1
		}
		sed -n "s|^\(Fuzz[[:alnum:]_]*\)$|$dir \1|p" "$work/list"
	done
}

# fuzz DIR TARGET. The tool's own way to end may be reported as a failure if the
# time is up just while a worker is busy: that is tried once more.
fuzz() {
	for attempt in 1 2; do
		if (cd "$1" && "$GO" test -run '^$' -fuzz "^$2\$" -fuzztime "${each}s" -fuzzminimizetime 5s .) >"$work/out" 2>&1; then
			tail -n 2 "$work/out"
			return 0
		fi
		if ! grep -q 'context deadline exceeded' "$work/out" || grep -q 'Failing input' "$work/out"; then
			break
		fi
	done
	cat "$work/out"
	echo "fuzz: $2 in $1 failed" >&2
	return 1
}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
targets "$@" >"$work/targets"
count=$(wc -l <"$work/targets")
if [ "$count" = 0 ]; then
	echo "fuzz: no targets found" >&2
	exit 1
fi
if [ -n "${FUZZTOTAL:-}" ] && [ $((each * count)) -gt "$FUZZTOTAL" ]; then
	each=$((FUZZTOTAL / count))
	[ "$each" -ge 1 ] || each=1
fi
echo "fuzz: $count targets, ${each}s each"
while read -r dir target; do
	echo "--- $target in ${dir#"$PWD"/}"
	fuzz "$dir" "$target"
done <"$work/targets"
