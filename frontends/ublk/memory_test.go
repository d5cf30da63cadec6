package ublk

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"

	"blockengine/engine/sys"
)

// TestMain is also the program that TestServeOwnHost runs.
func TestMain(m *testing.M) {
	if os.Getenv("UBLK_TEST_ROLE") == "flusher" {
		if err := ServeOwnHost(); err != nil {
			fmt.Println(err)
			os.Exit(3)
		}
		fmt.Println(os.Getpid(), flushers(16))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// flushers counts those of n threads that are.
func flushers(n int) (are int) {
	var mu sync.Mutex
	var all, start sync.WaitGroup
	start.Add(n)
	for range n {
		all.Go(func() {
			runtime.LockOSThread()
			start.Done()
			start.Wait() // n threads at a time
			if is, _ := sys.IOFlusher(); is {
				mu.Lock()
				are++
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return are
}

// Every thread of the program has it, in the same process.
func TestServeOwnHost(t *testing.T) {
	if is, err := sys.IOFlusher(); is || err != nil {
		t.Skipf("cannot be seen from this process: %v, %v", is, err)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "UBLK_TEST_ROLE=flusher")
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	err := cmd.Wait()
	if strings.Contains(out.String(), "CAP_SYS_RESOURCE") && os.Getenv("CI") != "true" {
		t.Skip(out.String())
	}
	if want := fmt.Sprintf("%d 16\n", pid); err != nil || out.String() != want {
		t.Errorf("%v: it said %q, want %q", err, out.String(), want)
	}
}
