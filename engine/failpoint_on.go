//go:build failpoint

package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"

	"blockengine/frontends/nbdkernel"
	"blockengine/frontends/ublk"
	"blockengine/frontends/vhostuser"
	"blockengine/frontends/virtqueue"
)

// An engine that is built with the tag failpoint kills itself, for tests of
// recovery: ENGINE_FAILPOINT=STEP:COUNT names a step of virtqueue.Step,
// vhostuser.Step, nbdkernel.Step, or behind "ublk-" one of ublk.Step, and at which
// passage of it, over all queues of the process.
// Without the variable nothing happens. No other build has any of this.
func init() {
	if order := os.Getenv("ENGINE_FAILPOINT"); order != "" {
		if err := armFailpoint(order); err != nil {
			fmt.Fprintf(os.Stderr, "ENGINE_FAILPOINT=%s: %v\n", order, err)
			os.Exit(exitWrong)
		}
	}
}

// armFailpoint sets the hook of the package that knows the step.
func armFailpoint(order string) error {
	name, text, _ := strings.Cut(order, ":")
	count, err := strconv.ParseInt(text, 10, 32)
	if err != nil || count < 1 {
		return fmt.Errorf("%q: write STEP:COUNT, counted from 1", text)
	}
	for s := range virtqueue.Step(virtqueue.Steps) {
		if s.String() == name {
			virtqueue.Failpoint = dieAt(s, count)
			return nil
		}
	}
	for s := range vhostuser.Step(vhostuser.Steps) {
		if s.String() == name {
			vhostuser.Failpoint = dieAt(s, count)
			return nil
		}
	}
	for s := range nbdkernel.Step(nbdkernel.Steps) {
		if s.String() == name {
			nbdkernel.Failpoint = dieAt(s, count)
			return nil
		}
	}
	for s := range ublk.Step(ublk.Steps) {
		if "ublk-"+s.String() == name {
			ublk.Failpoint = dieAt(s, count)
			return nil
		}
	}
	return fmt.Errorf("there is no step %q", name)
}

// dieAt gives a hook that kills the process at the count-th passage of a step.
func dieAt[S comparable](step S, count int64) func(S) {
	var passed atomic.Int64
	return func(s S) {
		if s == step && passed.Add(1) == count {
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {} // the signal has been sent to this thread too
		}
	}
}
