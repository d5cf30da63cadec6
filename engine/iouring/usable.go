package iouring

import (
	"fmt"
	"runtime"
)

// Usable says why this process cannot have a hub with entries of these opcodes,
// with what mends it; nil: it can. Safe from any goroutine.
func Usable(ops ...uint8) error {
	runtime.LockOSThread() // the ring is the thread's
	defer runtime.UnlockOSThread()
	r, err := New(Options{Entries: 1, Owned: true})
	if err != nil {
		return err
	}
	defer r.Close()
	missing, err := r.Missing(ops...)
	if err == nil && len(missing) > 0 {
		err = fmt.Errorf("%w: the kernel lacks its operations %d: use a newer one", ErrUnavailable, missing)
	}
	return err
}
