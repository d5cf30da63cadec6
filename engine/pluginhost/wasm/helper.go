package wasm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Limits of the process that compiles.
const (
	helperTime   = 60 * time.Second
	helperCPU    = 60      // seconds
	helperHeap   = 1 << 30 // bytes at which its collector tries harder
	helperSpace  = 3 << 30 // bytes of address space on top of what it starts with
	helperFile   = 1 << 30 // bytes of one file
	helperOpen   = 64      // descriptors
	helperReport = 2 << 10 // bytes of what it says that are kept
)

// attempt is one try to have a module compiled.
type attempt struct {
	nice int // of the helper, see setpriority(2)
	time time.Duration
}

// attempts are made one after the other while the time is too short. The first
// helper runs at the lowest priority, so that it takes what clients leave over.
// A host without anything to spare leaves it 1.5 % of a processor, which is a
// minute and a half for a module of 2 MB; so the second one has a share of a
// quarter beside a busy thread. Nobody may raise a process's priority but root,
// so a new one is started. (SCHED_IDLE would be softer still, but leaves 0.2 %
// on such a host; beside a load of 80,000 requests a second no difference for
// the client could be told from noise.)
var attempts = []attempt{{19, 30 * time.Second}, {5, helperTime}}

// runHelper has another process compile a module into dir. It comes back when
// that process has been reaped, at most the sum of the attempts' times and a
// second for each later.
func runHelper(ctx context.Context, self []string, dir string, src *source, memory uint64) error {
	return inTurn(ctx, attempts, dir, func(ctx context.Context, nice int) error {
		return runOneHelper(ctx, self, dir, src, memory, nice)
	})
}

// inTurn makes the attempts, each in an empty directory.
func inTurn(ctx context.Context, attempts []attempt, dir string, run func(ctx context.Context, nice int) error) error {
	var err error
	for i, a := range attempts {
		if i > 0 {
			if err := clearDir(dir); err != nil {
				return fmt.Errorf("compilation cache: %w", err)
			}
		}
		limited, cancel := context.WithTimeoutCause(ctx, a.time, errHelperTime)
		err = run(limited, a.nice)
		cancel()
		if !errors.Is(err, errHelperTime) {
			return err
		}
	}
	return err
}

// clearDir removes what a helper that was killed has left.
func clearDir(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// runOneHelper is one attempt, which ctx bounds.
func runOneHelper(ctx context.Context, self []string, dir string, src *source, memory uint64, nice int) error {
	// The kernel kills the helper when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	args := append(append([]string(nil), self[1:]...), dir, strconv.FormatUint(memory, 10), src.hash, strconv.Itoa(nice))
	cmd := exec.CommandContext(ctx, self[0], args...)
	var report bounded
	cmd.Stdin, cmd.Stderr = bytes.NewReader(src.bytes), &report
	// wazero compiles on one thread, so a second processor would only serve the
	// garbage collector.
	cmd.Env = append(detectorEnv(), "GOTRACEBACK=none", "GOMAXPROCS=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case report.text() != "":
		return errors.New(report.text())
	}
	return fmt.Errorf("the process that compiles plugins (%s) failed: %w", strings.Join(self, " "), err)
}

var errHelperTime = fmt.Errorf("it takes more than %v to compile: make it smaller", helperTime)

// bounded keeps the start of what is written to it.
type bounded struct{ b []byte }

func (w *bounded) Write(p []byte) (int, error) {
	w.b = append(w.b, p[:min(len(p), helperReport-len(w.b))]...)
	return len(p), nil
}

// text gives the first line.
func (w *bounded) text() string {
	line, _, _ := strings.Cut(strings.TrimSpace(string(w.b)), "\n")
	return shorten(line, helperReport)
}

// CompileMain is the body of the command that compiles a stranger's module: it
// limits its own process, reads the module from stdin and fills a cache
// directory. args are those that Load appends to Options.Self. It returns the
// exit status; what is wrong goes to stderr, in one line.
func CompileMain(args []string, stdin io.Reader, stderr io.Writer) int {
	if len(args) != 4 {
		fmt.Fprintln(stderr, "usage: internal-compile DIR MEMORY SHA256 NICE < MODULE (for the engine's own use)")
		return 2
	}
	if err := compileMain(args[0], args[1], args[2], args[3], stdin); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func compileMain(dir, memory, hash, nice string, stdin io.Reader) error {
	priority, err := strconv.Atoi(nice)
	if err != nil || priority < 0 || priority > 19 {
		return fmt.Errorf("internal-compile: nice %q", nice)
	}
	if err := errors.Join(yield(priority), limitSelf()); err != nil {
		return err
	}
	cap, err := strconv.ParseUint(memory, 10, 64)
	if err != nil || cap < MinMemory || cap > MaxMemory {
		return fmt.Errorf("internal-compile: memory %q", memory)
	}
	lim := limits(cap)
	b, err := io.ReadAll(io.LimitReader(stdin, int64(lim.MaxModuleBytes)+1))
	if err != nil {
		return fmt.Errorf("internal-compile: read the module: %w", err)
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != hash {
		return errors.New("internal-compile: the module is not the one that was announced")
	}
	return fillCache(context.Background(), dir, b, lim)
}

// yield lowers the priority of this process, also for the disk, whose priority
// follows unless it is set (ioprio_set(2)). Linux keeps one for each thread and
// hands it on to the threads that a thread starts; so it is done again until
// no thread is seen that a thread of the old priority could have started.
func yield(nice int) error {
	done := map[string]bool{}
	for more := true; more; {
		more = false
		threads, err := os.ReadDir("/proc/self/task")
		if err != nil {
			return fmt.Errorf("lower the priority: %w", err)
		}
		for _, t := range threads {
			if done[t.Name()] {
				continue
			}
			done[t.Name()], more = true, true
			if err := lowerThread(t.Name(), nice); err != nil {
				return fmt.Errorf("lower the priority: %w", err)
			}
		}
	}
	return nil
}

// lowerThread lowers one thread's priority, unless it is low enough or the
// thread has ended.
func lowerThread(id string, nice int) error {
	tid, err := strconv.Atoi(id)
	if err != nil {
		return err
	}
	have, err := syscall.Getpriority(syscall.PRIO_PROCESS, tid)
	if err == nil && 20-have < nice { // the system call gives 20 - nice
		err = syscall.Setpriority(syscall.PRIO_PROCESS, tid, nice)
	}
	if errors.Is(err, syscall.ESRCH) {
		return nil
	}
	return err
}

// limitSelf bounds what this process can take from the host, whatever the
// module makes the compiler do.
func limitSelf() error {
	debug.SetMemoryLimit(helperHeap)
	space, err := addressSpace()
	if err != nil {
		return err
	}
	for _, l := range []struct {
		name       string
		what       int
		soft, hard uint64
	}{
		{"address space", syscall.RLIMIT_AS, space + helperSpace, space + helperSpace},
		{"processor time", syscall.RLIMIT_CPU, helperCPU, helperCPU + 1},
		{"core files", syscall.RLIMIT_CORE, 0, 0},
		{"open files", syscall.RLIMIT_NOFILE, helperOpen, helperOpen},
		{"file size", syscall.RLIMIT_FSIZE, helperFile, helperFile},
	} {
		if err := lower(l.what, l.soft, l.hard); err != nil {
			return fmt.Errorf("limit %s: %w", l.name, err)
		}
	}
	return nil
}

// lower sets a limit, or leaves a stricter one that is there.
func lower(what int, soft, hard uint64) error {
	var have syscall.Rlimit
	if err := syscall.Getrlimit(what, &have); err != nil {
		return err
	}
	return syscall.Setrlimit(what, &syscall.Rlimit{Cur: min(soft, have.Cur), Max: min(hard, have.Max)})
}

// addressSpace gives the bytes of address space that this process has mapped:
// a Go program reserves much that it never touches.
func addressSpace() (uint64, error) {
	b, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0, fmt.Errorf("limit address space: %w", err)
	}
	first, _, _ := strings.Cut(string(b), " ")
	pages, err := strconv.ParseUint(first, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("limit address space: /proc/self/statm: %w", err)
	}
	return pages * uint64(os.Getpagesize()), nil
}
