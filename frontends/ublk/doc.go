// Package ublk makes block devices of this host out of volumes: /dev/ublkbN, a
// disk that the kernel's ublk driver has and whose requests it hands to us
// (public text: the kernel's Documentation/block/ublk.rst and the header
// linux/ublk_cmd.h). In that text's words we are the ublk server.
//
// It must not know plugins, sessions or stores: below it are engine/volume,
// engine/reactor, engine/iouring and engine/sys only.
//
// A device belongs to the kernel and outlives us: after a kill, or a planned
// restart, the next engine finds it by what is written beside it in the state
// directory, makes sure that the volume is the same disk, and goes on serving.
//
// Read first: Open (the life of a device), queue (of its requests), record (what
// is kept beside it), journal (what a dead engine owes).
package ublk
