#!/bin/sh
# Builds NAME.wasm of each NAME.wat with wat2wasm (Debian package wabt). The
# modules are checked in, so that tests do not need it.
set -eu
cd "$(dirname "$0")"
tmp=$(mktemp)
trap 'rm -f "$tmp"' EXIT
for f in *.wat; do
	{
		echo "(module"
		grep '^(import' "$f" || true # imports come first
		cat skeleton.txt
		grep -v '^(import' "$f"
		has() { grep -q "(func \$$1[ )]" "$f" || grep -q "(func \$$1\$" "$f"; }
		has manifest || echo '(func $manifest)'
		has opened || echo '(func $opened (call $limits))'
		has request || echo '(func $request (param $p i32) (call $answer (local.get $p)))'
		has received || echo '(func $received (param $p i32) (call $head (i64.const 4) (i64.const 16)) (call $put (i64.load32_u offset=16 (local.get $p))))'
		has timer || echo '(func $timer (param $id i32))'
		has goodbye || echo '(func $goodbye (call $head (i64.const 21) (i64.const 8)))'
		has message || echo '(func $message)'
		has digest || echo '(func $digest)'
		has rest || echo '(func $rest)'
		echo ")"
	} >"$tmp"
	check=
	if grep -q '^;; no-check' "$f"; then check=--no-check; fi
	wat2wasm $check -o "${f%.wat}.wasm" "$tmp"
done
