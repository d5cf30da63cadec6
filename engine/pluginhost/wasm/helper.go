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

// runHelper has another process compile a module into dir. It comes back when
// that process has been reaped, at most helperTime and a second later.
func runHelper(ctx context.Context, self []string, dir string, src *source, memory uint64) error {
	ctx, cancel := context.WithTimeoutCause(ctx, helperTime, errHelperTime)
	defer cancel()
	// The kernel kills the helper when the thread that started it ends.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	args := append(append([]string(nil), self[1:]...), dir, strconv.FormatUint(memory, 10), src.hash)
	cmd := exec.CommandContext(ctx, self[0], args...)
	var report bounded
	cmd.Stdin, cmd.Stderr = bytes.NewReader(src.bytes), &report
	cmd.Env = []string{"GOTRACEBACK=none"}
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
	if len(args) != 3 {
		fmt.Fprintln(stderr, "usage: internal-compile DIR MEMORY SHA256 < MODULE (for the engine's own use)")
		return 2
	}
	if err := compileMain(args[0], args[1], args[2], stdin); err != nil {
		fmt.Fprintln(stderr, err)
		return 1
	}
	return 0
}

func compileMain(dir, memory, hash string, stdin io.Reader) error {
	if err := limitSelf(); err != nil {
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
