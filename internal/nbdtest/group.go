package nbdtest

import (
	"fmt"
	"maps"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// endTimeout bounds every wait for something to come or to end. It is for what
// never comes: no test passes or fails by less, on however slow a machine.
const endTimeout = time.Minute

// group knows the goroutines of one helper by name, so that one that does not
// end is reported as such.
type group struct {
	mu      sync.Mutex
	running map[string]int
	wg      sync.WaitGroup
}

func (g *group) run(name string, f func()) {
	g.mu.Lock()
	if g.running == nil {
		g.running = map[string]int{}
	}
	g.running[name]++
	g.mu.Unlock()
	g.wg.Add(1)
	go func() {
		defer g.wg.Done()
		defer g.leave(name)
		f()
	}()
}

func (g *group) leave(name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.running[name]--; g.running[name] == 0 {
		delete(g.running, name)
	}
}

// end waits for all goroutines and reports those that stay.
func (g *group) end(t testing.TB, what string) {
	t.Helper()
	done := make(chan struct{})
	go func() { g.wg.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(endTimeout):
		g.mu.Lock()
		defer g.mu.Unlock()
		t.Errorf("nbdtest: goroutines of %s still run after %v: %v", what, endTimeout, g.running)
	}
}

// WaitFor polls until cond holds and fails t with the description if it does
// not within a minute.
func WaitFor(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(endTimeout); !cond(); time.Sleep(200 * time.Microsecond) {
		if time.Now().After(deadline) {
			t.Fatalf("nbdtest: waited %v for %s", endTimeout, what)
		}
	}
}

// CheckLeaks fails t if, after all Cleanups that are registered later, there are
// goroutines or file descriptors that were not there when it was called. Call
// it first in a test that does not run in parallel with others.
func CheckLeaks(t testing.TB) {
	t.Helper()
	// The runtime's poller opens descriptors of its own at first use.
	if r, w, err := os.Pipe(); err == nil {
		r.SetReadDeadline(time.Now())
		r.Close()
		w.Close()
	}
	routines, fds := goroutines(), descriptors()
	t.Cleanup(func() {
		if err := waitNoLeaks(routines, fds, 5*time.Second); err != nil {
			t.Error(err)
		}
	})
}

// waitNoLeaks gives what is new some time to go.
func waitNoLeaks(routines, fds map[string]string, patience time.Duration) error {
	var err error
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		newRoutines, newFDs := added(routines, goroutines()), added(fds, descriptors())
		if len(newRoutines)+len(newFDs) == 0 {
			return nil
		}
		err = fmt.Errorf("nbdtest: leaked %d goroutines and %d descriptors:\n%s\n%s", len(newRoutines), len(newFDs),
			strings.Join(newRoutines, "\n\n"), strings.Join(newFDs, "\n"))
	}
	return err
}

func added(before, now map[string]string) []string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(now)) {
		if was, ok := before[key]; !ok || (!strings.HasPrefix(key, "goroutine") && was != now[key]) {
			all = append(all, now[key])
		}
	}
	return all
}

// goroutines gives the stacks of all goroutines by their "goroutine N", without
// those of the runtime and the test framework, which come and go.
func goroutines() map[string]string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	all := map[string]string{}
	for _, stack := range strings.Split(string(buf), "\n\n") {
		head, _, _ := strings.Cut(stack, " [")
		if !strings.Contains(stack, "testing.(*T).Run") && !strings.Contains(stack, "testing.runFuzz") &&
			!strings.Contains(stack, "os/signal.") {
			all[head] = stack
		}
	}
	return all
}

// descriptors gives what each open descriptor of the process refers to.
func descriptors() map[string]string {
	all := map[string]string{}
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return all
	}
	for _, e := range entries {
		target, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err == nil && !strings.Contains(target, "anon_inode") && !strings.HasPrefix(target, "/proc/") {
			all[e.Name()] = "fd " + e.Name() + " -> " + target
		}
	}
	return all
}
