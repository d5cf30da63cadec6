package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// cgroup is the control group (v2) of one process and what it forks. Methods of
// nil do nothing: there is none.
type cgroup struct {
	dir    string
	handle *os.File // the directory
	memory bool     // its limit is held
}

var groups atomic.Uint64 // made so far

const cpuPeriod = 100_000 // µs

// openGroup makes a group with the limits of s. note says what is not held, and
// why; the group may be nil then.
func openGroup(s *Spec) (g *cgroup, note string) {
	home, err := groupHome()
	if err != nil {
		return nil, err.Error()
	}
	g, err = home.make(s.Name)
	if err != nil {
		return nil, err.Error()
	}
	if err := g.limit(s, home.controllers); err != nil {
		note = err.Error()
	}
	return g, note
}

// make makes a group below h. The name is for people.
func (h *hierarchy) make(name string) (*cgroup, error) {
	clean := strings.Map(func(r rune) rune {
		if r < 0x80 && (r == '-' || r == '_' || r >= '0' && r <= '9' || r|0x20 >= 'a' && r|0x20 <= 'z') {
			return r
		}
		return '_'
	}, name)
	clean = clean[:min(len(clean), 64)]
	for {
		dir := filepath.Join(h.dir, fmt.Sprintf("%s-%s-%d-%d", clean, h.space, os.Getpid(), groups.Add(1)))
		err := os.Mkdir(dir, 0o755)
		if errors.Is(err, fs.ErrExist) {
			continue // left by an engine that had this number
		}
		if err != nil {
			return nil, err
		}
		f, err := os.Open(dir)
		if err != nil {
			_ = os.Remove(dir)
			return nil, err
		}
		return &cgroup{dir: dir, handle: f}, nil
	}
}

// limit writes the limits that there are controllers for. The error says which
// are not held.
func (g *cgroup) limit(s *Spec, controllers []string) error {
	var problems []error
	set := func(controller, what string, files ...[2]string) bool {
		if !slices.Contains(controllers, controller) {
			problems = append(problems, fmt.Errorf("%s is not limited by a cgroup: there is no controller %q for %s", what, controller, filepath.Dir(g.dir)))
			return false
		}
		for _, f := range files {
			if err := g.write(f[0], f[1]); err != nil {
				problems = append(problems, fmt.Errorf("%s is not limited by a cgroup: %w", what, err))
				return false
			}
		}
		return true
	}
	if s.Memory > 0 {
		g.memory = set("memory", "memory", [2]string{"memory.max", strconv.FormatUint(s.Memory, 10)}, [2]string{"memory.oom.group", "1"})
		if g.memory {
			_ = g.write("memory.swap.max", "0") // not everywhere
		}
	}
	if s.CPUs > 0 {
		quota := max(1000, math.Round(s.CPUs*cpuPeriod)) // the kernel takes no less
		set("cpu", "processor time", [2]string{"cpu.max", fmt.Sprintf("%.0f %d", quota, cpuPeriod)})
	}
	set("pids", "the number of processes", [2]string{"pids.max", strconv.Itoa(tasks)})
	return errors.Join(problems...)
}

func (g *cgroup) write(file, value string) error {
	return os.WriteFile(filepath.Join(g.dir, file), []byte(value), 0)
}

func (g *cgroup) fd() int { return int(g.handle.Fd()) }

func (g *cgroup) limitsMemory() bool { return g != nil && g.memory }

// kill ends all in the group (Linux 5.14).
func (g *cgroup) kill() {
	if g != nil {
		_ = g.write("cgroup.kill", "1")
	}
}

// members are the processes in the group.
func (g *cgroup) members() ([]int, bool) {
	if g == nil {
		return nil, false
	}
	b, err := os.ReadFile(filepath.Join(g.dir, "cgroup.procs"))
	if err != nil {
		return nil, false
	}
	var pids []int
	for _, f := range strings.Fields(string(b)) {
		if n, err := strconv.Atoi(f); err == nil {
			pids = append(pids, n)
		}
	}
	return pids, true
}

// known says what of a Usage a group knows.
type known struct{ cpu, memory bool }

func (g *cgroup) usage() (u Usage, k known) {
	if g == nil {
		return u, k
	}
	if us, ok := g.value("cpu.stat", "usage_usec"); ok {
		u.CPU, k.cpu = time.Duration(us)*time.Microsecond, true
	}
	now, ok := g.value("memory.current", "")
	peak, ok2 := g.value("memory.peak", "") // Linux 5.19
	if ok {
		u.Memory, u.Peak, k.memory = now, now, true
	}
	if ok2 {
		u.Peak = peak
	}
	return u, k
}

// endedForMemory says whether the kernel has killed for the memory limit.
func (g *cgroup) endedForMemory() bool {
	if g == nil {
		return false
	}
	n, _ := g.value("memory.events", "oom_kill")
	return n > 0
}

// value reads a number: the file's only one, or the one behind key.
func (g *cgroup) value(file, key string) (uint64, bool) {
	f, err := os.Open(filepath.Join(g.dir, file))
	if err != nil {
		return 0, false
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		text := lines.Text()
		if key != "" {
			name, rest, _ := strings.Cut(text, " ")
			if name != key {
				continue
			}
			text = rest
		}
		n, err := strconv.ParseUint(text, 10, 64)
		return n, err == nil
	}
	return 0, false
}

// emptyTime is how long a group may take to empty after all in it was killed.
const emptyTime = 2 * time.Second

// remove ends what is left in the group and removes it. It gives the directory
// if that cannot be done.
func (g *cgroup) remove() (left string) {
	if g == nil {
		return ""
	}
	_ = g.handle.Close()
	if err := removeGroup(g.dir); err != nil {
		return g.dir
	}
	return ""
}

// removeGroup kills what is in a group and removes it, if there is one.
func removeGroup(dir string) error {
	g := cgroup{dir: dir}
	deadline := time.Now().Add(emptyTime)
	for wait := time.Millisecond; ; wait *= 2 {
		g.kill()
		err := os.Remove(dir)
		if err == nil || errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(deadline) {
			return err
		}
		time.Sleep(wait)
	}
}
