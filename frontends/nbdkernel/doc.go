// Package nbdkernel makes block devices of this host out of exports of the
// engine's own NBD server, with the kernel's NBD driver: /dev/nbdN. It is for
// kernels without ublk (public text: the kernel's linux/nbd-netlink.h, and the
// NBD protocol, doc/proto.md of NetworkBlockDevice/nbd).
//
// The driver is told what to do by generic netlink. It gets sockets on which we
// have negotiated already, and keeps its device when they end: requests wait for
// dead_conn_timeout, and whoever hands it a new socket goes on. That is how the
// device outlives an engine. Requests that were in flight on a connection that
// ended are sent again when their time is over, not before: see
// Options.RequestTimeout.
//
// The driver keeps a text with each device, its backend identifier, and lets
// nobody give it another socket who does not know it. The next engine finds the
// device of an export by it, see record.
//
// It must not know the NBD server, plugins or sessions. Read first: Open.
package nbdkernel
