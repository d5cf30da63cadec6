package e2e_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"blockengine/internal/nbdtest"
)

// badProgram is badnbd as a program, built when it is first wanted.
var badProgram = sync.OnceValues(func() (string, error) {
	file := filepath.Join(filepath.Dir(built.engine), "bad-process")
	return file, goTool([]string{"CGO_ENABLED=0"}, "build", "-buildvcs=false", "-ldflags=-s -w", "-o", file, "blockengine/internal/e2e/badnbd")
})

// TestShadowOfAProgramUnderLoad: a program passes as a shadow of a module under
// fio and takes over, and a module as a shadow of the program; what was recorded
// of either is the same for all.
func TestShadowOfAProgramUnderLoad(t *testing.T) {
	t.Parallel()
	programs := builtPrograms(t)
	for _, s := range strictServers(t)[:2] {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", s.real.Addr(), durable)}})
			e.waitUp("disk")
			underFaults(t, e.uri("disk"), 10*time.Second, 100*time.Millisecond, func(n int) {
				if n > 0 {
					return
				}
				shadowThenUpgrade(t, e, programs.nbd2)
				e.runs("disk", version2)
				file := filepath.Join(t.TempDir(), "disk.rec")
				if err := e.order("record", "nbd", "--for", "1s", "-o", file).wait(); err != nil {
					t.Error(err)
					return
				}
				shadowThenUpgrade(t, e, built.nbd)
				for _, version := range []string{programs.nbd, built.nbd2, "builtin:nbd"} {
					replaysTheSame(t, file, version)
				}
			})
			e.runs("disk", version1)
			e.unhurt("disk")
		})
	}
}

// TestShadowFindsBadPrograms: the faults of badnbd are found in a process, too,
// with the request that showed them, and a replay of what was recorded finds them
// as well.
func TestShadowFindsBadPrograms(t *testing.T) {
	t.Parallel()
	bad, err := badProgram()
	must(t, err)
	for _, fault := range []string{"trap-read", "trap-thousandth", "complete-foreign", "eio", "swallow", "loop"} {
		t.Run(fault, func(t *testing.T) {
			t.Parallel()
			_, e := onServer(t, fault, nbdtest.DefaultFlags, nbdtest.Negotiation{}, trusting("60s", "1s"))
			m := startModel(t, e, "disk", 4, loadOptions{pause: gentle})
			m.goesOn(200)
			file := filepath.Join(t.TempDir(), "disk.rec")
			must(t, e.order("record", "nbd", "--for", "3s", "-o", file).wait())
			o := e.order("upgrade", "nbd", bad, "--shadow", "60s")
			err := o.wait()
			if err == nil || o.status() != 1 {
				t.Fatalf("the bad version was taken:\n%s", o.out.String())
			}
			for _, text := range []string{`volume "disk", connection `, " bytes at offset "} {
				if !strings.Contains(err.Error(), text) && fault != "loop" {
					t.Errorf("%v\nlacks %q", err, text)
				}
			}
			e.runs("disk", version1)
			m.goesOn(200)
			m.end()
			if n := m.failures.Load(); n != 0 {
				t.Errorf("%d requests failed", n)
			}
			e.unhurt("disk")
			if fault != "trap-thousandth" { // the recording may be shorter
				replayDiffers(t, file, bad)
			}
		})
	}
}

// replayDiffers hands a recording to a version that does something else.
func replayDiffers(t *testing.T, file, version string) {
	t.Helper()
	p, err := spawn(built.engine, "plugin", "replay", file, version, "--diff")
	must(t, err)
	<-p.done
	if p.cmd.ProcessState.ExitCode() != 1 || !strings.Contains(p.log.String(), "the versions differ") {
		t.Errorf("%v\n%s%s", p.err, p.out.String(), p.log.String())
	}
}

// TestShadowsProcess: a shadow's process that is killed, or stopped, in the middle
// ends the upgrade with that as the reason; clients see neither an error nor a
// pause worth the name, and the next attempt succeeds.
func TestShadowsProcess(t *testing.T) {
	t.Parallel()
	programs := builtPrograms(t)
	for s, text := range map[syscall.Signal]string{syscall.SIGKILL: "exit", syscall.SIGSTOP: "hang"} {
		t.Run(s.String(), func(t *testing.T) {
			t.Parallel()
			server := nbdtest.StartNbdkit(t, "memory", "64M")
			e := startEngine(t, config{engine: "reactors = 2", volumes: []volume{nbdVolume("disk", server.Addr(), durable)}})
			e.waitUp("disk")
			underFaults(t, e.uri("disk"), 14*time.Second, 100*time.Millisecond, func(n int) {
				if n > 0 {
					return
				}
				o := e.order("upgrade", "nbd", programs.nbd2, "--shadow", "60s", "--watch", "0s")
				if !o.waitOutput(`"phase":"shadow"`, orderLimit) {
					t.Error("the shadow does not begin")
				}
				time.Sleep(time.Second) // in the middle
				pids := e.children("engine-plugin-nbd")
				for _, pid := range pids {
					if err := syscall.Kill(pid, s); err != nil {
						t.Error(err)
					}
				}
				if err := o.wait(); len(pids) == 0 || err == nil || o.status() != 1 || !strings.Contains(err.Error(), "was run as a shadow and is not taken") ||
					!strings.Contains(err.Error(), "traps") || !strings.Contains(err.Error(), text) {
					t.Errorf("processes %d: %v", pids, err)
				}
			})
			e.runs("disk", version1)
			e.unhurt("disk")
			nbdtest.WaitFor(t, "the shadow's process to be gone", func() bool { return len(e.children("engine-plugin-nbd")) == 0 })
		})
	}
}

// TestShadowOfAStore: a store's new version cannot be run beside the one that
// runs, which is said, with the reason and what to do instead.
func TestShadowOfAStore(t *testing.T) {
	t.Parallel()
	e, _ := storeEngine(t)
	err := e.order("upgrade", "store", builtPrograms(t).store2, "--shadow", "5s").wait()
	for _, text := range []string{"carry out every write a second time", "leave --shadow out", "--volume"} {
		if err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%v\nlacks %q", err, text)
		}
	}
	if v := e.volume("disk"); v.Generation != 1 || v.State != "online" || len(v.Errors) != 0 {
		t.Errorf("generation %d, %s, errors %v", v.Generation, v.State, v.Errors)
	}
}

// children gives the processes of the engine, and theirs, that are called name.
func (e *engine) children(name string) (pids []int) {
	parents := map[int]int{}
	var named []int
	files, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, f := range files {
		b, err := os.ReadFile(f)
		end := strings.LastIndexByte(string(b), ')')
		if err != nil || end < 0 {
			continue
		}
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
		var state string
		var parent int
		if _, err := fmt.Sscan(string(b[end+1:]), &state, &parent); err != nil {
			continue
		}
		parents[pid] = parent
		if line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.HasPrefix(string(line), name+"\x00") {
			named = append(named, pid)
		}
	}
	for _, pid := range named {
		for up := pid; up > 1; up = parents[up] {
			if up == e.cmd.Process.Pid {
				pids = append(pids, pid)
				break
			}
		}
	}
	return pids
}
