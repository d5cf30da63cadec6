// Package hostdisk tests the engine in a real guest, as the host that it serves:
// exports of frontends ublk and nbd-kernel are block devices of the guest's
// kernel. UBLK.md lists what others' suites check, each with the test here that
// does.
//
// Like all tests with real virtual machines they run where VM=1 is set, which
// scripts/vm-test.sh does; E2E_LONG=1 makes the loads longer.
//
// Read first: host_test.go, which tests there are on which kernel; guest_test.go,
// the engine in the guest; then local_test.go.
package hostdisk
