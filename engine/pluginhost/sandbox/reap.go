package sandbox

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"blockengine/engine/sys"
)

// reapTime is how long a process may take to end after it was killed: one that
// waits for a disk ends when the disk has answered.
const reapTime = 10 * time.Second

// Reap kills what an engine that died has left, as its record in stateDir says,
// and waits for it. It never touches a process that is not in the record: a
// number that somebody else has by now is told by its start time. It is called
// before anything resumes, with stateDir locked.
func Reap(stateDir string, log *slog.Logger) error {
	dir := filepath.Join(stateDir, recordDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end the plugins of the engine before: %w", err)
	}
	boot, space, err := here()
	if err != nil {
		return fmt.Errorf("end the plugins of the engine before: %w", err)
	}
	now := record{Boot: boot, Space: space}
	var problems []error
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if err := reapRecord(path, &now, log); err != nil {
			problems = append(problems, err)
			continue
		}
		if err := os.Remove(path); err != nil {
			problems = append(problems, err)
		}
	}
	if home, err := groupHome(); err == nil {
		home.sweep()
	}
	if len(problems) > 0 {
		return fmt.Errorf("end the plugins of the engine before: %w", errors.Join(problems...))
	}
	return nil
}

// reapRecord ends what one record is about. now is this boot and namespace.
func reapRecord(path string, now *record, log *slog.Logger) error {
	if strings.HasSuffix(path, ".new") {
		return nil // never finished, so its process has not begun
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || r.PID <= 1 {
		log.Warn("the note of a process cannot be read; the kernel has ended it with its engine", "file", path, "err", err)
		return nil
	}
	if r.Boot != now.Boot {
		return nil // the machine was restarted
	}
	if r.Space != now.Space {
		log.Warn("a plugin's process belonged to an engine in another container, and cannot be looked for", "plugin", r.Name, "pid", r.PID)
		return nil
	}
	if err := r.end(log); err != nil {
		return err
	}
	return r.endGroup()
}

// end kills the process if it is the one, and waits for it.
func (r *record) end(log *slog.Logger) error {
	fd, err := sys.Pidfd(r.PID)
	if errors.Is(err, sys.ESRCH) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = sys.Close(fd) }()
	// The descriptor holds whoever has the number now; so who it is can be asked
	// after it was opened, and nobody else can be hit.
	start, err := startedAt(r.PID)
	if err != nil || start != r.Start {
		return nil // gone, or a stranger
	}
	log.Info("a plugin's process of the engine before still runs, and is killed", "plugin", r.Name, "pid", r.PID)
	if err := sys.PidfdKill(fd); err != nil && !errors.Is(err, sys.ESRCH) {
		return fmt.Errorf("kill process %d of plugin %s: %w", r.PID, r.Name, err)
	}
	ended, err := sys.PidfdWait(fd, reapTime)
	if err == nil && !ended {
		err = fmt.Errorf("it does not end within %v; what it waits for shows in /proc/%d/stack: mend that, or restart the machine", reapTime, r.PID)
	}
	if err != nil {
		return fmt.Errorf("process %d of plugin %s may still write to its disk: %w", r.PID, r.Name, err)
	}
	return nil
}

// endGroup ends what the process has forked.
func (r *record) endGroup() error {
	if r.Cgroup == "" || filepath.Base(filepath.Dir(r.Cgroup)) != groupsName || !sys.IsCgroup2(r.Cgroup) {
		return nil
	}
	if err := removeGroup(r.Cgroup); err != nil {
		return fmt.Errorf("what plugin %s forked does not end: %w", r.Name, err)
	}
	return nil
}
