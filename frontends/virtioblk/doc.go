// Package virtioblk is the virtio block device without a transport (virtio 1.2,
// 5.2): the features that it offers, its configuration space, and what a
// request in a descriptor chain means as a block request. It moves no payload:
// a request's data stays in the pieces of guest memory that it came in.
//
// It must not know rings, sockets, reactors or volumes. Memory of the guest is
// hostile: what is read from it is copied once and then checked. Such memory
// may vanish; the caller guards the calls that say so (sys.Guard).
//
// Read first: Device for the control path, Request for the data path.
package virtioblk
