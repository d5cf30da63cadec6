// Package vmtest boots real virtual machines for tests: QEMU without KVM, a
// small Debian guest (internal/vmtest/guest), and in it an agent that carries out
// one shell command after the other, so that a test drives the guest step by step
// while it kills, upgrades or replaces what serves its disks. Its kernel is the
// long-term one, 6.12, unless the test or VM_KERNEL in the environment asks for the
// newest.
//
// It must not know the product: disks are Unix sockets on which somebody speaks
// vhost-user. The scenarios of internal/vmtest/scenario run against any such
// server.
//
// Where to read first: [Start] and [Options], then [VM.Run]; [VM.Lend] for tests
// that share a guest.
//
// VMs boot only where VM=1 is in the environment, which scripts/vm-test.sh sets:
// they take seconds each, and a plain `make test` should not. All that is
// started ends in the test's Cleanup; every wait is bounded.
//
// Under TCG time in the guest is no measure of anything: compare peers side by
// side in one guest, never quote an absolute figure.
package vmtest
