package sandbox

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// tick is what /proc counts processor time and start times in: USER_HZ, the
// same on all processors that the engine runs on.
const tick = time.Second / 100

// stat gives the fields of /proc/PID/stat from the third on: state, parent, ….
// The second is the program's name for itself, which may hold anything.
func stat(pid int) ([]string, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, err
	}
	i := bytes.LastIndexByte(b, ')')
	fields := strings.Fields(string(b[i+1:]))
	if i < 0 || len(fields) < 20 {
		return nil, fmt.Errorf("/proc/%d/stat is not what it should be: %q", pid, b)
	}
	return fields, nil
}

// startedAt is when a process started, in ticks since the machine did. With its
// number it is a name that nobody else gets.
func startedAt(pid int) (uint64, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(f[22-3], 10, 64)
}

// cpuTime is what a process and those of its children that it has waited for
// have used.
func cpuTime(pid int) (time.Duration, error) {
	f, err := stat(pid)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, at := range []int{14, 15, 16, 17} {
		n, err := strconv.ParseInt(f[at-3], 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// footprint is the memory of its own that the process and all that it forked
// have, in bytes. What is shared with the engine does not count.
func (p *Process) footprint() uint64 {
	pids, ok := p.group.members()
	if !ok {
		pids = descendants(p.proc.Pid)
	}
	var sum uint64
	for _, pid := range pids {
		sum += private(pid)
	}
	return sum
}

// descendants are a process and its children's children. Within a pid namespace
// they are all: who loses its parent becomes the first one's child.
func descendants(pid int) []int {
	pids := []int{pid}
	for i := 0; i < len(pids) && len(pids) < 2*tasks; i++ {
		lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pids[i]))
		for _, list := range lists {
			b, _ := os.ReadFile(list)
			for _, f := range strings.Fields(string(b)) {
				if n, err := strconv.Atoi(f); err == nil {
					pids = append(pids, n)
				}
			}
		}
	}
	return pids
}

// private is a process's anonymous memory, swapped out or not; 0 if it is gone.
func private(pid int) uint64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	var sum uint64
	for lines := bufio.NewScanner(f); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		if name == "RssAnon" || name == "VmSwap" {
			n, _ := strconv.ParseUint(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 10, 64)
			sum += n << 10
		}
	}
	return sum
}
