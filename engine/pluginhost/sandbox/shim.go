package sandbox

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"syscall"

	"blockengine/engine/sys"
)

// Main is the body of the command that is the shim: args is how many
// descriptors the program gets. It comes back only if it fails, with the exit
// status. What was wrong goes to the engine.
func Main(args []string) int {
	// Privileges, filter and the signal at the engine's death are a thread's. The
	// exec ends the others.
	runtime.LockOSThread()
	runtime.GOMAXPROCS(1)
	n := -1
	if len(args) == 1 {
		n, _ = strconv.Atoi(args[0])
	}
	if n < 0 || n > openFiles {
		fmt.Fprintf(os.Stderr, "usage: %s DESCRIPTORS (for the engine's own use)\n", Command)
		return 2
	}
	s := shim{talk: 3 + n, program: 4 + n}
	if err := s.run(); err != nil {
		s.refuse(err)
		return 1
	}
	return 0
}

// shim is the process before it is the program.
type shim struct {
	talk    int // socket to the engine
	program int
	engine  *os.File // the same, held: the exec closes it, and nothing before
	step    string
	o       orders
}

// run becomes the program. Each step needs the privileges that a later one
// gives up.
func (s *shim) run() error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"hear from the engine", s.listen},
		{"die with the engine", s.dieWithEngine},
		{"limit it", s.limit},
		{"make its view of the file system", s.view},
		{"close descriptors", func() error { return sys.CloseOnExec(s.talk) }},
		{"give up privileges", s.giveUp},
		{"die with the engine", s.dieWithEngine}, // another user, so once more
		{"filter its system calls", s.filter},
		{"execute it", s.exec},
	} {
		s.step = step.name
		if err := step.do(); err != nil {
			return err
		}
	}
	return nil
}

// listen takes the orders. The engine sends them when it has noted whom it
// started: without it there is no program that nobody knows of.
func (s *shim) listen() error {
	f := os.NewFile(uintptr(s.talk), "engine")
	line, err := bufio.NewReader(f).ReadBytes('\n')
	if errors.Is(err, io.EOF) {
		os.Exit(1) // the engine is gone, or has changed its mind
	}
	if err != nil {
		return err
	}
	s.engine = f
	return json.Unmarshal(line, &s.o)
}

// dieWithEngine has the kernel kill this process with the engine. If the engine
// died just before, there is nobody left to tell.
func (s *shim) dieWithEngine() error {
	if err := sys.DieWithParent(); err != nil {
		return err
	}
	if sys.HungUp(s.talk) {
		os.Exit(1)
	}
	return nil
}

// limit is for what is this process's alone; a cgroup holds all together.
func (s *shim) limit() error {
	syscall.Umask(0o022)
	if err := syscall.Setpriority(syscall.PRIO_PROCESS, 0, s.o.Nice); err != nil {
		return err
	}
	// Should the host run out of memory, its kernel shall take this one and not
	// the engine.
	_ = os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0)
	// 1 and not 0: only then the kernel does not start the host's program for cores.
	limits := []sys.Limit{{What: sys.LimitCore, Name: "core files", Value: 1}, {What: sys.LimitFiles, Name: "open files", Value: openFiles}}
	if s.o.Data > 0 {
		limits = append(limits, sys.Limit{What: sys.LimitData, Name: "memory", Value: s.o.Data})
	}
	if s.o.Strict {
		limits = append(limits, sys.Limit{What: sys.LimitTasks, Name: "processes", Value: tasks},
			sys.Limit{What: sys.LimitLocked, Name: "locked memory", Value: 1 << 16},
			sys.Limit{What: sys.LimitQueues, Name: "message queues"},
			sys.Limit{What: sys.LimitRealtime, Name: "real time"})
	}
	for _, l := range limits {
		if err := l.Lower(); err != nil {
			return err
		}
	}
	return nil
}

func (s *shim) view() error {
	if !s.o.Strict {
		return nil
	}
	if err := buildView(&s.o); err != nil {
		return err
	}
	return sys.SetHostname("plugin")
}

// giveUp gives up all privileges. The bounding set first: it takes one.
func (s *shim) giveUp() error {
	if !s.o.Strict {
		return nil
	}
	if err := sys.DropBounding(); err != nil {
		return err
	}
	if s.o.UID != 0 {
		if err := sys.BecomeUser(s.o.UID); err != nil {
			return err
		}
	}
	return sys.DropCapabilities()
}

func (s *shim) filter() error {
	if err := sys.NoNewPrivileges(); err != nil || !s.o.Strict {
		return err
	}
	return sys.SandboxRules{Network: s.o.Network, BoundShared: s.o.BoundShared}.Install()
}

func (s *shim) exec() error {
	if _, err := s.engine.WriteString(ready); err != nil {
		return err
	}
	if s.o.Probe {
		os.Exit(0)
	}
	return sys.ExecFile(s.program, s.o.Args, s.o.Env)
}

// refuse tells the engine what failed.
func (s *shim) refuse(err error) {
	r := refusal{Step: s.step, Text: err.Error()}
	_ = errors.As(err, &r.Errno)
	if b, e := json.Marshal(&r); e == nil {
		_, _ = syscall.Write(s.talk, b)
	}
}
