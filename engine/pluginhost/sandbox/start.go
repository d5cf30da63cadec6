package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"time"

	"blockengine/engine/sys"
)

const (
	startTime = 10 * time.Second // for a shim to build the walls, on a busy host
	tasks     = 512              // processes and threads of a program
	openFiles = 4096
	tmpfsMax  = 64 << 20 // bytes of each of its directories in memory
	// dataSlack is what a program may map beyond its memory before the kernel
	// refuses more, where no cgroup counts what it uses: Go maps ahead.
	dataSlack = 256 << 20
)

// ready is what the shim says before it executes the program: what comes after
// it is the exec's error.
const ready = "ready\n"

// orders are what the shim is told.
type orders struct {
	Args, Env   []string
	Strict      bool
	Network     bool
	BoundShared bool
	UID         int // 0: as it is
	Keep        []string
	Hide        []string
	Tmpfs       uint64 // bytes
	Data        uint64 // bytes, 0: no limit
	Nice        int
	Probe       bool // build the walls, and execute nothing
}

// refusal is what the shim says if it fails.
type refusal struct {
	Step  string
	Text  string
	Errno sys.Errno
}

// Start runs a program. It comes back when the walls stand and the program has
// been executed. An error says what the kernel refuses, and how to mend it.
func Start(s Spec) (*Process, error) {
	p, err := start(&s, false)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", s.Name, err)
	}
	return p, nil
}

func start(s *Spec, probe bool) (*Process, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	l := &launch{spec: s, log: s.Log}
	defer l.release()
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	if err := l.prepare(probe); err != nil {
		return nil, err
	}
	if err := l.fork(); err != nil {
		return nil, err
	}
	err := l.p.keepRecord(s.StateDir)
	if err == nil {
		err = l.instruct()
	}
	if err != nil {
		l.p.Kill()
		<-l.p.Done()
		return nil, err
	}
	return l.p, nil
}

// launch is one start.
type launch struct {
	spec   *Spec
	log    *slog.Logger
	orders orders
	files  []*os.File // of the shim
	ours   []*os.File // of those, what goes when the shim has them
	talk   *os.File   // the engine's end
	group  *cgroup
	p      *Process
}

// release closes what only the start needed.
func (l *launch) release() {
	for _, f := range l.ours {
		_ = f.Close()
	}
	if l.talk != nil {
		_ = l.talk.Close()
	}
	if l.p == nil && l.group != nil {
		l.group.remove()
	}
}

// prepare makes all that the fork needs.
func (l *launch) prepare(probe bool) error {
	s := l.spec
	group, note := openGroup(s)
	if note != "" {
		l.log.Info("a plugin's process is not limited by a cgroup", "why", note)
	}
	l.group = group
	if err := l.openFiles(); err != nil {
		return err
	}
	l.orders = orders{Args: s.Args, Env: s.Env, Strict: s.Mode == Strict, Network: s.Network, Nice: s.Nice, Probe: probe,
		Tmpfs: tmpfsMax}
	if s.Memory > 0 {
		l.orders.Tmpfs = min(tmpfsMax, s.Memory/4)
		if !group.limitsMemory() {
			l.orders.Data = s.Memory + dataSlack
			l.orders.BoundShared = true
		}
	}
	if s.Mode == Strict {
		return l.prepareView()
	}
	return nil
}

// prepareView finds what is kept and what is hidden, as the kernel sees it.
func (l *launch) prepareView() (err error) {
	s, o := l.spec, &l.orders
	if o.Keep, err = resolve("read_write", s.ReadWrite, s.Private); err != nil {
		return err
	}
	if o.Hide, err = resolve("hidden path", existing(append(homes(), s.Hide...)), []string{s.StateDir}); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return nil
	}
	o.UID = User(s.Name)
	for _, dir := range s.Private {
		if err := os.Chown(dir, o.UID, o.UID); err != nil {
			return fmt.Errorf("give a directory to the plugin's user: %w", err)
		}
	}
	return nil
}

// openFiles collects the shim's descriptors: 0, 1, 2, the program's, the
// socket to the engine, the program itself.
func (l *launch) openFiles() error {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	l.ours = append(l.ours, null)
	program, err := os.Open(l.spec.Path)
	if err != nil {
		return err
	}
	l.ours = append(l.ours, program)
	here, there, err := sys.SocketPair()
	if err != nil {
		return err
	}
	l.talk = os.NewFile(uintptr(here), "sandbox")
	shims := os.NewFile(uintptr(there), "sandbox")
	l.ours = append(l.ours, shims)
	out, errs := l.spec.Stdout, l.spec.Stderr
	if out == nil {
		out = null
	}
	if errs == nil {
		errs = null
	}
	l.files = append([]*os.File{null, out, errs}, l.spec.Files...)
	l.files = append(l.files, shims, program)
	return nil
}

// fork makes the process, in its namespaces and its cgroup, as the shim.
func (l *launch) fork() error {
	s := l.spec
	self := s.Self
	if self == nil {
		self = DefaultSelf
	}
	argv := append(append([]string(nil), self...), strconv.Itoa(len(s.Files)))
	proc, inGroup, err := fork(argv, l.files, s.attr(), l.group)
	if err != nil {
		return explainFork(err, s)
	}
	if !inGroup && l.group != nil {
		l.log.Warn("a plugin's process could not be started in its cgroup, and has no limits by it")
		l.group.remove()
		l.group = nil
		if s.Memory > 0 {
			l.orders.Data, l.orders.BoundShared = s.Memory+dataSlack, true
		}
	}
	l.p = newProcess(s.Name, proc, l.group, s.Memory, l.log)
	return nil
}

// instruct tells the shim what to do and waits until it is the program.
func (l *launch) instruct() error {
	for _, f := range l.ours {
		_ = f.Close()
	}
	l.ours = nil
	if err := l.talk.SetDeadline(time.Now().Add(startTime)); err != nil {
		return err
	}
	b, err := json.Marshal(&l.orders)
	if err == nil {
		_, err = l.talk.Write(append(b, '\n'))
	}
	var said []byte
	if err == nil {
		said, err = io.ReadAll(io.LimitReader(l.talk, 64<<10))
	}
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("its sandbox did not stand within %v: the host is overloaded", startTime)
	}
	return l.verdict(said, err)
}

// verdict reads what the shim has said until it was gone.
func (l *launch) verdict(said []byte, err error) error {
	rest := said
	if len(said) >= len(ready) && string(said[:len(ready)]) == ready {
		if rest = said[len(ready):]; len(rest) == 0 {
			return nil
		}
	}
	var r refusal
	if len(rest) > 0 && json.Unmarshal(rest, &r) == nil {
		return explain(&r, l.spec)
	}
	<-l.p.Done() // it let go of the socket without a word
	if err != nil {
		return fmt.Errorf("its sandbox failed: %w (%v)", err, l.p.Exit())
	}
	return fmt.Errorf("its sandbox failed without a word: %v", l.p.Exit())
}
