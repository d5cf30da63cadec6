// Package iouring is io_uring (public text: io_uring(7), linux/io_uring.h) as the
// engine uses it: a ring that belongs to one thread, takes entries in batches,
// and tells a reactor by an eventfd when there is something to be reaped.
//
// It must not know what the entries are about: it imports engine/sys and
// engine/reactor only.
//
// Read first: Ring; then Source, a ring in a reactor, and Hub, the one that all on
// a reactor share.
package iouring
