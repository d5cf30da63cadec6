package wasm

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"blockengine/engine/pluginhost/guest"
)

// tryLimits runs in a process of its own: it limits itself as the compile
// helper does and then asks for more.
func tryLimits() int {
	if err := limitSelf(); err != nil {
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

func TestHelperIsLimited(t *testing.T) {
	if out, err := exec.Command("/proc/self/exe", "internal-limits").CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
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
