// Package vhosttest is a vhost-user-blk front-end: what a virtual machine
// monitor and the driver in its guest are to the engine. Tests and the benchmark
// drive back-ends with it, the engine's and others.
//
// It judges. So it shares no code with the engine but engine/sys, and where the
// engine and this package read the specification differently a test fails.
//
// The parts, from the bottom up:
//
//   - [Conn] sends and receives messages, right or wrong ones.
//   - [Memory] is the guest's memory: files in memory at scattered addresses.
//   - [Ring] is the driver's side of a split virtqueue. It knows which heads are
//     out, so a completion that comes twice or was never asked for is an error.
//   - [Frontend] is a connected device. A [Personality] says which messages it
//     sends in which order: each known monitor has its own. It outlives the
//     back-end: memory, rings and the in-flight region stay, and Redial goes on.
//   - [Driver] makes requests of any layout on one queue, one or several at a
//     time; for tests.
//   - [Run] loads all queues, checks what it reads, and measures.
//   - [BadMessages] and [BadRings] are lists of misdeeds.
//
// A Ring, and with it a Driver, belongs to one goroutine. A Frontend's methods
// may be called by one goroutine at a time, beside those that use its rings.
//
// Section names in comments are those of the public texts: "virtio 1.2" and
// "vhost-user". Only little-endian machines are supported.
package vhosttest
