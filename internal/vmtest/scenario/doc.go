// Package scenario holds what a guest does to its disks in the VM tests, for
// any server of vhost-user-blk: the tests of the harness run it with
// qemu-storage-daemon, those of the engine with the engine.
//
// It must not know who serves. Where to read first: [Serve] and [All].
package scenario
