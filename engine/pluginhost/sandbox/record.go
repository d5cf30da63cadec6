package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// recordDir is where, in the state directory, there is a file for each process
// that may live.
const recordDir = "processes"

// record is what the next engine needs to end a process. The kernel ends it
// with this one, so it matters when the kernel is late, as with a process that
// waits for a disk.
type record struct {
	Name   string `json:"name"`
	PID    int    `json:"pid"`
	Start  uint64 `json:"start"` // ticks, see startedAt
	Boot   string `json:"boot"`  // the machine's, as its kernel names it
	Space  string `json:"space"` // the pid namespace that PID is from
	Cgroup string `json:"cgroup,omitempty"`
}

// here says which boot of the machine and which pid namespace this is.
func here() (boot, space string, err error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", "", err
	}
	space, err = os.Readlink("/proc/self/ns/pid")
	return strings.TrimSpace(string(b)), space, err
}

// keepRecord writes the record. The shim does nothing before it is there.
func (p *Process) keepRecord(stateDir string) error {
	r := record{Name: p.name, PID: p.proc.Pid}
	var err error
	if r.Boot, r.Space, err = here(); err != nil {
		return fmt.Errorf("note the process: %w", err)
	}
	if p.group != nil {
		r.Cgroup = p.group.dir
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.gone {
		return nil // the talk with it will tell
	}
	if r.Start, err = startedAt(r.PID); err != nil {
		return fmt.Errorf("note the process: %w", err)
	}
	path, err := r.write(stateDir)
	if err != nil {
		return fmt.Errorf("note the process: %w", err)
	}
	p.record = path
	return nil
}

// write puts the record into its directory, whole or not at all.
func (r *record) write(stateDir string) (path string, err error) {
	dir := filepath.Join(stateDir, recordDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	b, err := json.Marshal(r)
	if err != nil {
		return "", err
	}
	path = filepath.Join(dir, strconv.Itoa(r.PID)+".json")
	if err := os.WriteFile(path+".new", b, 0o600); err != nil {
		return "", err
	}
	return path, os.Rename(path+".new", path)
}

// dropRecord removes the record when the process is no more.
func (p *Process) dropRecord() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.record == "" {
		return
	}
	if err := os.Remove(p.record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		p.log.Warn("the note of a process that has ended stays", "err", err)
	}
}
