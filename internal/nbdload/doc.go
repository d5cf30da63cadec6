// Package nbdload is a client that loads an NBD server, checks every block that
// it reads, and knows when completions did not come: it is made to tell how long
// a client waits while something happens to the server.
//
// A [Load] has one or several connections, each with a fixed number of requests
// outstanding over a part of the disk of its own. Before it begins it writes
// every block of that range once, so that from the first request on it is known
// what each block holds. A block has at most one write outstanding and is not
// read meanwhile, so what is expected of a read is exact: the version that was
// acknowledged last. Only a write that failed leaves a doubt, and then the block
// may hold any version since the last acknowledged one.
//
// What is checked: the block number and the version at the start of each
// 512-byte sector and a word made of both at its end. The bytes between are
// written but not compared, so that the check costs little next to the request.
//
// One goroutine per connection does it all: receive what there is, note the
// time, check, send the next requests in one call. It blocks in the kernel, not
// in Go's poller, so that a wait ends when the kernel says so. A program that
// measures should run with GOMAXPROCS of at least the number of connections
// plus two. In the steady state nothing is allocated.
//
// It uses the standard library alone and none of the project's code, so that a
// mistake in one side of the wire cannot hide behind the same one in the other.
//
// Read first: load.go, then conn.go. Section names in comments are those of the
// public NBD protocol text (NetworkBlockDevice/nbd, doc/proto.md).
package nbdload
