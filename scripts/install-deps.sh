#!/bin/sh
# Finds the programs that tests and benchmark use, and installs what is missing
# where that is possible: as root with apt-get. Elsewhere it says what is
# missing; the tests that need it skip and say so too. With CI=true, where
# nothing is skipped, a missing program is an error.
set -eu

# Some programs live where an ordinary user's PATH does not look.
PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"

# wanted: program and its Debian package.
wanted='
nbdkit              nbdkit
nbdinfo             libnbd-bin
qemu-img            qemu-utils
qemu-storage-daemon qemu-system-common
qemu-system-x86_64  qemu-system-x86
fio                 fio
nbd-client          nbd-client
nbd-server          nbd-server
redis-server        redis-server
socat               socat
busybox             busybox-static
cpio                cpio
depmod              kmod
xz                  xz-utils
mkfs.ext4           e2fsprogs
mkfs.xfs            xfsprogs
sfdisk              fdisk
clang               clang
wasm-ld             lld
gcc                 gcc
'

missing() {
	echo "$wanted" | while read -r program package; do
		if [ -n "$program" ] && ! command -v "$program" >/dev/null; then
			echo "$package"
		fi
	done
	# The race detector links with the C library.
	if [ ! -e /usr/include/stdlib.h ]; then
		echo libc6-dev
	fi
}

# give_up MESSAGE says what is missing and ends: badly only in CI.
give_up() {
	echo "install-deps: $1"
	echo "install-deps: missing packages:" $packages
	if [ "${CI:-}" = true ]; then
		exit 1
	fi
	echo "install-deps: going on; tests that need them will skip and say so"
	exit 0
}

packages=$(missing)
if [ -z "$packages" ]; then
	exit 0
fi
if ! command -v apt-get >/dev/null; then
	give_up "there is no apt-get here: install them with this system's own tools"
fi
if [ "$(id -u)" != 0 ]; then
	give_up "only root can install them, with apt-get install"
fi

export DEBIAN_FRONTEND=noninteractive
echo "install-deps: installing" $packages
# A service that a package brings need not run for its programs to be used, and
# where services cannot be started that is no reason to fail.
install() { apt-get install -y -q --no-install-recommends $packages </dev/null >"$log" 2>&1; }
log=$(mktemp)
trap 'rm -f "$log"' EXIT
# The lists of packages may be missing or old: fetch them, and go on with those
# that are there when the network is not.
if ! apt-get update -q </dev/null >"$log" 2>&1; then
	echo "install-deps: apt-get update failed: $(tail -n 1 "$log")"
fi
if ! install; then
	tail -n 20 "$log"
	packages=$(missing)
	give_up "apt-get install failed, see above"
fi
packages=$(missing)
if [ -n "$packages" ]; then
	give_up "apt-get was content, but programs are still not there"
fi
