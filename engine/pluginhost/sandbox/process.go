package sandbox

import (
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"blockengine/engine/sys"
)

// Process is a program in its sandbox. Its methods may be called from anywhere.
type Process struct {
	name   string
	proc   *os.Process
	group  *cgroup // nil: none
	memory uint64  // limit in bytes that watch holds, 0: none
	log    *slog.Logger

	// mu guards gone, killed and record. Numbers of processes are used while it is held
	// and gone is false: after that they may be somebody else's.
	mu     sync.Mutex
	gone   bool
	killed bool   // by the engine
	record string // path

	oom  atomic.Bool
	peak atomic.Uint64 // bytes, as far as Usage and the watch have seen

	done chan struct{}
	exit Exit
}

func newProcess(name string, proc *os.Process, g *cgroup, memory uint64, log *slog.Logger) *Process {
	p := &Process{name: name, proc: proc, group: g, log: log, done: make(chan struct{})}
	if !g.limitsMemory() {
		p.memory = memory
	}
	go p.reap()
	if p.memory > 0 {
		go p.watch()
	}
	return p
}

// PID is the process's number, as the engine sees it.
func (p *Process) PID() int { return p.proc.Pid }

// Done is closed when the process has been reaped: nothing of it runs any more.
func (p *Process) Done() <-chan struct{} { return p.done }

// Exit says how it ended; valid after Done.
func (p *Process) Exit() Exit { return p.exit }

// Kill ends the process and all that it forked. It does not wait: see Done.
func (p *Process) Kill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.gone {
		p.killed = true
		p.killAll()
	}
}

// killAll ends all that is known of. In a pid namespace the first process's end
// is that of all others. p.mu is held.
func (p *Process) killAll() {
	_ = p.proc.Kill()
	_ = sys.KillGroup(p.proc.Pid)
	p.group.kill()
}

// reap waits for the process's end, ends what it left, and tells.
func (p *Process) reap() {
	if err := sys.WaitExited(p.proc.Pid); err != nil {
		p.log.Error("a plugin's process cannot be waited for", "pid", p.proc.Pid, "err", err)
	}
	p.mu.Lock()
	p.killAll() // a zombie still has its number, so the group is ours
	p.gone = true
	p.mu.Unlock()
	if p.group.endedForMemory() {
		p.oom.Store(true)
	}
	st, err := p.proc.Wait()
	if err == nil {
		ws, _ := st.Sys().(syscall.WaitStatus)
		if p.exit.Code = ws.ExitStatus(); ws.Signaled() {
			p.exit.Code, p.exit.Signal = 0, ws.Signal()
		}
	}
	p.exit.OOM = p.oom.Load() || err == nil && p.endedAtLimit(st)
	awaitGroup(p.proc.Pid)
	if left := p.group.remove(); left != "" {
		p.log.Warn("what a plugin's process forked has not ended", "pid", p.proc.Pid, "cgroup", left)
	}
	p.dropRecord()
	close(p.done)
}

// awaitGroup waits until the processes of a group that was killed are gone. By
// now its number may be another group's, which costs a wait and nothing else.
func awaitGroup(leader int) {
	deadline := time.Now().Add(emptyTime)
	for wait := time.Millisecond; !sys.GroupEmpty(leader) && time.Now().Before(deadline); wait *= 2 {
		time.Sleep(wait)
	}
}

// endedAtLimit says whether a process that the watch held ended by itself
// because the kernel gave it no more memory, before the watch looked.
func (p *Process) endedAtLimit(st *os.ProcessState) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	use, ok := st.SysUsage().(*syscall.Rusage)
	return ok && p.memory > 0 && !p.killed && !st.Success() && uint64(use.Maxrss)<<10 > p.memory
}

// Usage says what it uses. It fails after Done.
func (p *Process) Usage() (Usage, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return Usage{}, os.ErrProcessDone
	}
	u, ok := p.group.usage()
	if !ok.cpu {
		cpu, err := cpuTime(p.proc.Pid)
		if err != nil {
			return Usage{}, err
		}
		u.CPU = cpu
	}
	if !ok.memory {
		u.Memory = p.footprint()
		u.Peak = p.sawPeak(u.Memory)
	}
	return u, nil
}

// sawPeak notes how much memory was seen, and gives the most.
func (p *Process) sawPeak(now uint64) uint64 {
	for {
		was := p.peak.Load()
		if now <= was || p.peak.CompareAndSwap(was, now) {
			return max(now, was)
		}
	}
}

// watchPeriod is how long a program may have more memory than it may.
const watchPeriod = 100 * time.Millisecond

// watch holds the memory limit where no cgroup does. The kernel's limit on what
// is mapped (dataSlack) bounds what can happen between two looks.
func (p *Process) watch() {
	t := time.NewTicker(watchPeriod)
	defer t.Stop()
	for {
		select {
		case <-p.done:
			return
		case <-t.C:
		}
		p.mu.Lock()
		if now := p.footprintUnlessGone(); p.sawPeak(now) > 0 && now > p.memory {
			p.oom.Store(true)
			p.killAll()
		}
		p.mu.Unlock()
	}
}

func (p *Process) footprintUnlessGone() uint64 {
	if p.gone {
		return 0
	}
	return p.footprint()
}
