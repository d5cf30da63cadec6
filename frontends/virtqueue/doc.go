// Package virtqueue is the device's side of virtio's split rings (virtio 1.2,
// 2.7), with the in-flight region of vhost-user ("Inflight I/O tracking"), by
// which a device goes on where one that was killed has stopped.
//
// It must not know sockets, file descriptors, notifications, goroutines or what
// a request means: it turns memory into chains of buffers and back. Who maps the
// memory, guards against its loss and signals is frontends/vhostuser; what the
// buffers say is frontends/virtioblk. It imports the standard library only.
//
// Read first: Config, then Queue's methods in the order of a turn:
//
//	n, err := q.Pop(chains)   // read, check, mark as in flight
//	q.Push(head, written)     // finish one: private memory only
//	notify := q.Publish()     // show all that were pushed, clear their marks
//	q.Suppress(); q.Arm()     // poll; stop polling
//
// then inflight.go for why a kill at any point of it loses nothing.
//
// Everything in shared memory belongs to a stranger, who may change it at any
// time. Each value is read once and checked as a private copy; a value that
// breaks the specification ends the queue with ErrRing; no content makes a call
// panic, or do more work than the queue's size (MaxChain) for each chain. Memory
// may vanish under way, which is a fault: Pop, Publish, Suppress, Arm, HasWork
// and New touch shared memory and want a Guard (engine/sys) around the turn;
// Push and the rest do not. After a fault a Queue is good for nothing but being
// let go.
//
// A Queue allocates nothing for a request, once chains of their length have been
// seen; it keeps memory for at most size × (MaxChain + regions) pieces. The
// format of the ring stays behind Queue's methods, so that packed rings can
// follow.
package virtqueue
