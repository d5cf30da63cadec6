// Package nbd is the NBD server: it serves volumes to network clients, to the
// kernel's nbd driver and to whatever else speaks the protocol (public text:
// NetworkBlockDevice/nbd, doc/proto.md, and the extended headers of its branch
// extension-ext-header). It must not know plugins, transports or stores: below
// it are engine/volume and engine/reactor only.
//
// Read first: Server and Listener; then conn (the life of a connection), then
// its two halves, receive.go and send.go.
//
// A connection belongs to one reactor. Its memory comes from that reactor's
// pool and is borrowed to the volume with each request; a connection that ends
// stays until the volume has given everything back.
package nbd
