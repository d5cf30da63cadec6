package sandbox

import (
	"errors"
	"os"
	"runtime"
	"slices"
	"sync"
	"syscall"

	"blockengine/engine/sys"
)

// The kernel kills a process when the thread that forked it ends, not when the
// engine does. So all are forked by one thread, which lives as long as the
// engine.
var forker struct {
	once sync.Once
	work chan func()
}

// onForker runs f on that thread and waits for it.
func onForker(f func()) {
	forker.once.Do(func() {
		forker.work = make(chan func())
		go func() {
			runtime.LockOSThread() // for good
			for f := range forker.work {
				f()
			}
		}()
	})
	done := make(chan struct{})
	forker.work <- func() {
		defer close(done)
		f()
	}
	<-done
}

// noGroup are the errors of a clone that may come from the group.
var noGroup = []sys.Errno{sys.EBUSY, sys.EACCES, sys.EINVAL, sys.ENOSYS, sys.EOPNOTSUPP, sys.ENODEV}

// fork starts the shim, in a cgroup if there is one; inGroup says whether the
// kernel put it there.
func fork(argv []string, files []*os.File, attr *syscall.SysProcAttr, g *cgroup) (p *os.Process, inGroup bool, err error) {
	// Nothing of the engine's environment; one processor, see sys.ExecFile.
	pa := &os.ProcAttr{Env: []string{"GOMAXPROCS=1", "GOTRACEBACK=none"}, Files: files, Dir: "/", Sys: attr}
	onForker(func() {
		if g != nil {
			attr.UseCgroupFD, attr.CgroupFD = true, g.fd()
			if p, err = os.StartProcess(argv[0], argv, pa); err == nil {
				inGroup = true
				return
			}
			if !slices.ContainsFunc(noGroup, func(e sys.Errno) bool { return errors.Is(err, e) }) {
				return
			}
			attr.UseCgroupFD = false
		}
		p, err = os.StartProcess(argv[0], argv, pa)
	})
	return p, inGroup, err
}
