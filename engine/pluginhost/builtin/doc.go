// Package builtin holds the store plugins that are linked into the engine:
//
//   - null: reads give zeroes, writes vanish; measures the engine itself;
//   - memory: a sparse disk in anonymous memory, gone when it is closed;
//   - file: a regular file or a block device of this host.
//
// null and memory finish every request inside Submit, on the reactor. file
// gives what it has to do to the kernel, through the reactor's ring, or to a few
// workers, so that no reactor ever waits for a disk.
//
// The package knows the contract in sdk/store, rings (engine/iouring), and
// nothing about volumes, reactors or frontends. Read first: sdk/store, then
// file_queue.go, then file_ring.go.
package builtin
