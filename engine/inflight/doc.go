// Package inflight holds requests that are in flight, in the order in which
// they were submitted. That is the common form of what each frontend calls "in
// flight" in its own way (a shared-memory region, the kernel's queue, a client
// that resends), and of what a connection owes when it is lost (DESIGN
// chapter 4).
//
// It must not know what a request is: it orders what embeds an Entry. It
// imports nothing.
//
// The list is generic over the type that is in it, not over an interface of it:
// its links are fields, so every operation is a few loads and stores that the
// compiler can put in line, the same as in a list written for one type. The
// price is one pointer in each entry, back to its owner.
package inflight
