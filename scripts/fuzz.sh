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

# targets prints "directory target" lines. The go tool says which files are tests
# on this platform; what is in them is read here, as to ask it costs a build.
targets() {
	"$GO" list -f '{{$dir := .Dir}}{{range .TestGoFiles}}{{$dir}} {{.}}
{{end}}{{range .XTestGoFiles}}{{$dir}} {{.}}
{{end}}' "${@:-./...}" >"$work/files"
	while read -r dir file; do
		[ -z "$file" ] || sed -n "s|^func \(Fuzz[[:alnum:]_]*\)(.*|$dir \1|p" "$dir/$file"
	done <"$work/files"
}

# build DIR builds the tests of a package for fuzzing, once for all its targets.
build() {
	if ! (cd "$1" && "$GO" test -c -fuzz . -o "$work/test" .) >"$work/out" 2>&1; then
		cat "$work/out"
		echo "fuzz: $1 does not build" >&2
		return 1
	fi
}

# fuzz DIR TARGET. The tool's own way to end may be reported as a failure if the
# time is up just while a worker is busy: that is tried once more. What it found
# interesting is kept where the go tool keeps it.
fuzz() {
	for attempt in 1 2; do
		if (cd "$1" && "$work/test" -test.run '^$' -test.fuzz "^$2\$" -test.fuzztime "${each}s" -test.fuzzminimizetime 5s \
			-test.fuzzcachedir "$cache/$("$GO" list .)") >"$work/out" 2>&1; then
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
cache=$("$GO" env GOCACHE)/fuzz
built=
while read -r dir target; do
	echo "--- $target in ${dir#"$PWD"/}"
	if [ "$dir" != "$built" ]; then
		build "$dir"
		built=$dir
	fi
	fuzz "$dir" "$target"
done <"$work/targets"
