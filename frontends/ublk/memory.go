package ublk

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"syscall"

	"blockengine/engine/sys"
)

// ServeOwnHost makes this process fit to be in the way of its own host's dirty
// pages: the kernel does not let its allocations wait for write-back any more
// (PR_SET_IO_FLUSHER), which would wait for this process. That belongs to a thread
// and is inherited by those that it makes and by what it executes, and a Go
// program has several threads when main begins; so the program executes itself
// again, under the same process number, once. Processes that the engine starts
// have it as well, as they should: plugins are in the way too.
//
// It is called first in main, before files are open or anything runs. It returns
// nil where that is so already; an error says why it cannot be had, and the
// engine may go on without.
func ServeOwnHost() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	is, err := sys.IOFlusher()
	if is {
		return nil
	}
	if err == nil {
		err = sys.SetIOFlusher()
	}
	switch {
	case errors.Is(err, syscall.EPERM):
		return fmt.Errorf("memory of this process waits for write-back to its own devices when the host runs short: %w: give it CAP_SYS_RESOURCE", err)
	case errors.Is(err, syscall.EINVAL):
		return fmt.Errorf("memory of this process waits for write-back to its own devices when the host runs short: %w: this needs Linux 5.6", err)
	case err != nil:
		return err
	}
	// The thread that executes becomes the new program's first.
	err = syscall.Exec("/proc/self/exe", os.Args, os.Environ())
	return fmt.Errorf("ublk: cannot execute this program again: %w", err)
}

// LockMemory keeps what the process touches in memory (mlockall), now and later.
func LockMemory() error {
	err := sys.LockMemory()
	if errors.Is(err, syscall.EPERM) || errors.Is(err, syscall.ENOMEM) {
		return fmt.Errorf("%w: raise the limit on locked memory (ulimit -l, LimitMEMLOCK), or give CAP_IPC_LOCK", err)
	}
	return err
}
