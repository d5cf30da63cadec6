package wasm

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockengine/engine/pluginhost/guest"
)

// tryLimits runs in a process of its own: it limits itself as the compile
// helper does and then asks for more.
func tryLimits() int {
	if err := errors.Join(yield(7), limitSelf()); err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := syscall.Mmap(-1, 0, helperSpace+64<<20, syscall.PROT_NONE, syscall.MAP_PRIVATE|syscall.MAP_ANON); err == nil {
		fmt.Println("address space is not limited")
		return 1
	}
	var core, cpu syscall.Rlimit
	if syscall.Getrlimit(syscall.RLIMIT_CORE, &core) != nil || core.Max != 0 ||
		syscall.Getrlimit(syscall.RLIMIT_CPU, &cpu) != nil || cpu.Cur > helperCPU {
		fmt.Println("core", core, "cpu", cpu)
		return 1
	}
	if err := allYield(7); err != nil {
		fmt.Println(err)
		return 1
	}
	var files []*os.File
	for range helperOpen + 1 {
		f, err := os.Open("/dev/null")
		if err != nil {
			return 0
		}
		files = append(files, f)
	}
	fmt.Println(len(files), "descriptors")
	return 1
}

// allYield says which thread of this process has another priority, also of
// those that are yet to start.
func allYield(nice int) error {
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			runtime.LockOSThread() // and never back, so that each is a thread
			time.Sleep(time.Millisecond)
		})
	}
	threads, err := os.ReadDir("/proc/self/task")
	for _, t := range threads {
		tid, _ := strconv.Atoi(t.Name())
		if have, e := syscall.Getpriority(syscall.PRIO_PROCESS, tid); e == nil && 20-have != nice {
			err = errors.Join(err, fmt.Errorf("thread %d of %d has priority %d", tid, len(threads), 20-have))
		}
	}
	wg.Wait()
	return err
}

func TestHelperIsLimited(t *testing.T) {
	if out, err := exec.Command("/proc/self/exe", "internal-limits").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestAttempts: what takes too long is tried again at the next priority, in an
// empty directory; whatever else goes wrong is not.
func TestAttempts(t *testing.T) {
	few := []attempt{{3, time.Millisecond}, {2, time.Millisecond}, {1, time.Minute}}
	other := errors.New("another error")
	for _, c := range []struct {
		hang  int // so many attempts take too long
		err   error
		times int
	}{{0, nil, 1}, {0, other, 1}, {1, nil, 2}, {2, other, 3}, {2, nil, 3}} {
		dir := t.TempDir()
		var nices []int
		err := inTurn(t.Context(), few, dir, func(ctx context.Context, nice int) error {
			left, err := os.ReadDir(dir)
			if err != nil || len(left) > 0 {
				t.Errorf("the directory holds %v, %v", left, err)
			}
			if err := os.MkdirAll(filepath.Join(dir, "a", "b"), 0o700); err != nil {
				t.Error(err)
			}
			if nices = append(nices, nice); len(nices) > c.hang {
				return c.err
			}
			<-ctx.Done()
			return context.Cause(ctx)
		})
		if !errors.Is(err, c.err) || !slices.Equal(nices, []int{3, 2, 1}[:c.times]) {
			t.Errorf("%+v: error %v after priorities %v", c, err, nices)
		}
	}
}

// TestAttemptsEnd with the last, or with their caller.
func TestAttemptsEnd(t *testing.T) {
	hang := func(ctx context.Context, _ int) error {
		<-ctx.Done()
		return context.Cause(ctx)
	}
	if err := inTurn(t.Context(), []attempt{{1, 1}, {0, 1}}, t.TempDir(), hang); !errors.Is(err, errHelperTime) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the operator changed his mind")
	cancel(why)
	if err := inTurn(ctx, []attempt{{1, time.Hour}, {0, time.Hour}}, t.TempDir(), hang); !errors.Is(err, why) {
		t.Error(err)
	}
}

// TestLoadsSideBySide: several loads of one module through one empty cache,
// and instances made and used from many goroutines.
func TestLoadsSideBySide(t *testing.T) {
	path, cache := module{}.file(t), filepath.Join(t.TempDir(), "cache")
	if err := os.Mkdir(cache, 0o700); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			m, err := Load(context.Background(), Options{Path: path, CacheDir: cache, Self: helperSelf})
			if err != nil {
				t.Error(err)
				return
			}
			defer m.Close()
			for range 4 {
				wg.Go(func() { useInstances(t, m) })
			}
			useInstances(t, m)
		})
	}
	wg.Wait()
	if files := tree(t, cache); len(files) != 2 {
		t.Errorf("the cache holds %q", files)
	}
}

// useInstances makes instances until the module is closed.
func useInstances(t *testing.T, m *Module) {
	for range 10 {
		i, err := m.NewInstance(context.Background())
		if err != nil {
			return // closed meanwhile
		}
		for range 10 {
			if _, _, err := i.Call(0, guest.BudgetCall); err != nil {
				t.Error(err)
			}
		}
		i.Close()
	}
}
