// Package vhostuser serves volumes to virtual machines over vhost-user
// (public text: QEMU, docs/interop/vhost-user.rst). In that text's words we are
// the back-end and the virtual machine monitor is the front-end. It is a
// transport of virtio: what a ring is stands in frontends/virtqueue, what a
// disk is in frontends/virtioblk.
//
// It must not know plugins, sessions or stores: below it are engine/volume,
// engine/reactor and engine/sys only.
//
// A socket serves one export to one front-end at a time. The messages of a
// connection are handled by one goroutine, which may wait (conn); each virtqueue
// belongs to a reactor (queue). A connection ends only when no request of it is
// outstanding any more: its memory is on loan until then (DESIGN chapter 2,
// rule 2), and a request that the next connection submits again must not be
// overtaken by its first copy (rule 1).
//
// Read first: Listener (the life of a socket), conn (of a connection), queue
// (of a virtqueue).
package vhostuser
